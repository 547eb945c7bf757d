"""Where a pixel's ray meets the flat road: pinhole camera over the plane z = 0 of base_link (REP-103)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mgcda_core.config import ConfigError

MIN_DROP = 1e-3
"""A ray that falls by less than this for each metre ahead counts as parallel to the road (2 km away from 2 m up)."""


@dataclass(frozen=True)
class Camera:
    """Undistorted pinhole camera, looking ahead along base_link's x axis, x forward, y left, z up, road at z = 0.

    Pixel (0, 0) is the centre of the top left pixel. Raises ConfigError for focal lengths or a height that are not
    positive and finite, or a pitch of 90 degrees and more.
    """

    fx: float
    fy: float
    """Focal lengths in pixels."""
    cx: float
    cy: float
    """Principal point in pixels."""
    height_m: float
    """Height of the optical centre above the road in metres."""
    pitch_rad: float = 0.0
    """Tilt about the y axis in radians; positive = looking down, as a positive pitch turns x towards -z in REP-103."""
    forward_m: float = 0.0
    left_m: float = 0.0
    """Position of the optical centre in base_link, in metres."""

    def __post_init__(self) -> None:
        for name in ("fx", "fy", "height_m"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(f"camera {name} must be a positive number, not {value}")
        for name in ("cx", "cy", "forward_m", "left_m"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"camera {name} must be finite, not {getattr(self, name)}")
        if not abs(self.pitch_rad) < math.pi / 2:
            raise ConfigError(f"camera pitch_rad must lie between -pi/2 and pi/2, not {self.pitch_rad}")

    @staticmethod
    def from_field_of_view(
        width: int, height: int, hfov_rad: float, *, height_m: float, pitch_rad: float = 0.0
    ) -> Camera:
        """Camera with square pixels, the principal point in the middle of a width x height image.

        hfov_rad: horizontal field of view in radians, between 0 and pi; ConfigError outside.
        """
        if not 0 < hfov_rad < math.pi:
            raise ConfigError(f"the horizontal field of view must lie between 0 and pi radians, not {hfov_rad}")
        focal = width / 2 / math.tan(hfov_rad / 2)
        return Camera(focal, focal, (width - 1) / 2, (height - 1) / 2, height_m, pitch_rad)

    @staticmethod
    def from_matrix(k: Sequence[float], *, height_m: float, pitch_rad: float = 0.0) -> Camera:
        """Camera from CameraInfo.k, the row-major 3 x 3 intrinsics of the undistorted image.

        Raises ConfigError for a K that is not nine values or was never calibrated (all zero).
        """
        values = [float(v) for v in k]
        if len(values) != 9 or not (values[0] > 0 and values[4] > 0):
            raise ConfigError("CameraInfo.k holds no calibration (fx and fy must be positive): calibrate the camera")
        return Camera(values[0], values[4], values[2], values[5], height_m, pitch_rad)

    def scaled(self, factor_x: float, factor_y: float) -> Camera:
        """The same camera for an image resized by these factors."""
        return Camera(
            self.fx * factor_x, self.fy * factor_y, (self.cx + 0.5) * factor_x - 0.5, (self.cy + 0.5) * factor_y - 0.5,
            self.height_m, self.pitch_rad, self.forward_m, self.left_m,
        )  # fmt: skip

    def road_point(self, u: float, v: float) -> tuple[float, float, float] | None:
        """The road point (x, y, 0.0) in base_link metres seen in pixel (u, v); None at and above the horizon."""
        right, down = (u - self.cx) / self.fx, (v - self.cy) / self.fy
        c, s = math.cos(self.pitch_rad), math.sin(self.pitch_rad)
        ahead, drop = c - down * s, s + down * c
        if drop < MIN_DROP or ahead <= 0:
            return None
        scale = self.height_m / drop
        return self.forward_m + scale * ahead, self.left_m - scale * right, 0.0

    def depth(self, x: float) -> float:
        """Distance in metres along the optical axis of a road point x metres ahead in base_link."""
        return (x - self.forward_m) * math.cos(self.pitch_rad) + self.height_m * math.sin(self.pitch_rad)
