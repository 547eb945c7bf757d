"""Pixels <-> rays: focal lengths and distortion of a camera, as ROS's CameraInfo states them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mgcda_core.config import ConfigError

LENGTHS = {"none": (0,), "plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)}
"""Distortion models (sensor_msgs/distortion_models.hpp) and how many coefficients each takes."""
ALIASES = {"": "none", "fisheye": "equidistant"}
MOST_TANGENT = 6.0
"""Distorted pixels are followed out to rays of this tangent, 80 degrees off the axis; equidistant ones to 180."""
MOST_COEFFICIENTS = 15
"""No calibration holds as many: a CameraInfo.d of this length or more is not even read."""
SIDEWAYS = 1e6
"""Tangent from which on a ray has no direction that numbers could tell from a right angle to the axis."""
STEPS = 4
"""Of the iteration for the tangential part, which is a thousandth of the radial one."""
TOLERANCE = 1e-5
"""A ray counts if it comes back to its pixel within this share of the focal length."""


@dataclass(frozen=True)
class Lens:
    """A camera without its place: what ray a pixel sees. Pixel (0, 0) is the centre of the top left pixel.

    Rays are in the optical frame (REP-103): x right, y down, z forward. Raises ConfigError, naming the field of
    CameraInfo, for values no camera can have.
    """

    fx: float
    fy: float
    """Focal lengths in pixels."""
    cx: float
    cy: float
    """Principal point in pixels."""
    model: str = "none"
    """One of LENGTHS."""
    distortion: tuple[float, ...] = ()
    """plumb_bob k1 k2 p1 p2 [k3]; rational_polynomial k1 k2 p1 p2 k3 k4 k5 k6; equidistant k1 k2 k3 k4."""

    def __post_init__(self) -> None:
        if not all(math.isfinite(v) for v in (self.fx, self.fy, self.cx, self.cy)) or min(self.fx, self.fy) <= 0:
            raise ConfigError(
                f"CameraInfo.k holds no calibration: fx {self.fx} and fy {self.fy} must be positive, cx {self.cx} and "
                f"cy {self.cy} finite; calibrate the camera"
            )
        if self.model not in LENGTHS:
            known = ", ".join(sorted(LENGTHS))
            raise ConfigError(
                f"CameraInfo.distortion_model is {self.model[:40]!r}; known are {known}: rectify the images"
            )
        if len(self.distortion) not in LENGTHS[self.model]:
            wanted = " or ".join(map(str, LENGTHS[self.model]))
            raise ConfigError(
                f"CameraInfo.d holds {len(self.distortion)} values, {self.model} takes {wanted}: calibrate the camera"
            )
        if not all(math.isfinite(v) for v in self.distortion):
            raise ConfigError("CameraInfo.d holds a value that is not finite: calibrate the camera")

    @staticmethod
    def from_field_of_view(size: tuple[int, int], hfov_rad: float) -> Lens:
        """Undistorted lens with square pixels and the principal point in the middle of an image of (height, width).

        hfov_rad: horizontal field of view in radians, between 0 and pi; ConfigError outside.
        """
        if not 0 < hfov_rad < math.pi:
            raise ConfigError(f"the horizontal field of view must lie between 0 and pi radians, not {hfov_rad}")
        height, width = size
        focal = width / 2 / math.tan(hfov_rad / 2)
        return Lens(focal, focal, (width - 1) / 2, (height - 1) / 2)

    @staticmethod
    def from_camera_info(info: Any, size: tuple[int, int], *, rectified: bool = False) -> Lens:
        """Lens of the images of `size` (height, width) that come with `info`, a sensor_msgs/CameraInfo of any decoder.

        K and P hold for the full sensor: the region of interest is cut out, and what remains is scaled to the image,
        which covers binning and drivers that resize but forward the sensor's CameraInfo. rectified: the image is
        undistorted already (image_rect), so P counts, or K where P is zero, without D. Raises ConfigError.
        """
        k, d = _floats(info.k, (9,), "k"), () if rectified else _floats(info.d, range(MOST_COEFFICIENTS), "d")
        if rectified and any(info.p):
            k = [v for i, v in enumerate(_floats(info.p, (12,), "p")) if i % 4 < 3]
        name = "none" if rectified else str(info.distortion_model)
        model = ALIASES.get(name, name)
        if model != "equidistant" and not any(d):  # without coefficients the others are all the same
            model, d = "none", ()
        lens = Lens(k[0], k[4], k[2], k[5], model, tuple(d))
        lens = dataclasses.replace(lens, cx=lens.cx - info.roi.x_offset, cy=lens.cy - info.roi.y_offset)
        height, width = info.roi.height or info.height, info.roi.width or info.width
        return lens.scaled(size[1] / width, size[0] / height) if width and height else lens

    def scaled(self, factor_x: float, factor_y: float) -> Lens:
        """The same lens for an image resized by these factors; distortion does not depend on the pixels' size."""
        cx, cy = (self.cx + 0.5) * factor_x - 0.5, (self.cy + 0.5) * factor_y - 0.5
        return dataclasses.replace(self, fx=self.fx * factor_x, fy=self.fy * factor_y, cx=cx, cy=cy)

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Unit rays, float64 [N, 3], that the pixels [N, 2] see; NaN where the distortion cannot be inverted."""
        pixels = np.asarray(pixels, float).reshape(-1, 2)
        with np.errstate(all="ignore"):  # far outside of the field of view everything overflows; NaN is the answer
            bent = (pixels - (self.cx, self.cy)) / (self.fx, self.fy)
            flat = self._straightened(bent) if self.distortion else bent
            return self._from_flat(np.where(np.abs(flat) < SIDEWAYS, flat, np.nan))

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels, float64 [N, 2], in which points [N, 3] of the optical frame appear; NaN where the lens sees none."""
        points = np.asarray(points, float).reshape(-1, 3)
        away = np.hypot(points[:, 0], points[:, 1])
        with np.errstate(all="ignore"):
            if self.model == "equidistant":
                flat_away = np.arctan2(away, points[:, 2])
            else:
                flat_away = np.where(points[:, 2] > 0, away / points[:, 2], np.nan)
            flat = points[:, :2] * np.where(away > 0, flat_away / away, 0.0)[:, None]
            seen = flat_away <= (self._profile[0][-1] if self.distortion else np.inf)
            pixels = self._bent(flat) * (self.fx, self.fy) + (self.cx, self.cy)
        return np.where(seen[:, None], pixels, np.nan)

    @functools.cached_property
    def _profile(self) -> tuple[np.ndarray, np.ndarray]:
        """Distances from the axis in plane coordinates and what the lens makes of them, as far as both grow together.

        Outside of the field of view the polynomials of a calibration fold back: a pixel has many rays there, or none.
        """
        flat = np.linspace(0.0, np.pi if self.model == "equidistant" else MOST_TANGENT, 4001)
        with np.errstate(all="ignore"):
            bent = flat * self._bend(np.c_[flat, np.zeros_like(flat)])[0][:, 0]
        grows = np.diff(bent) > 0
        count = len(flat) if grows.all() else int(np.argmin(grows)) + 1
        return flat[:count], bent[:count]

    def _straightened(self, bent: np.ndarray) -> np.ndarray:
        """Undistorted plane coordinates [N, 2]: the radial part is looked up, the small rest iterated."""
        radii, bent_radii = self._profile
        flat = bent
        for _ in range(STEPS):
            aim = bent - self._bend(flat)[1]
            away = np.hypot(aim[:, 0], aim[:, 1])
            flat = aim * (np.interp(away, bent_radii, radii, right=np.nan) / np.maximum(away, 1e-12))[:, None]
        missed = np.abs(self._bent(flat) - bent).max(axis=1, initial=0.0)
        return np.where((missed < TOLERANCE)[:, None], flat, np.nan)

    def _from_flat(self, flat: np.ndarray) -> np.ndarray:
        """Unit rays of undistorted plane coordinates: x / z, y / z, or for equidistant the angle along x and y."""
        if self.model != "equidistant":
            rays = np.c_[flat, np.ones(len(flat))]
            return rays / np.linalg.norm(rays, axis=1, keepdims=True)
        angle = np.hypot(flat[:, 0], flat[:, 1])
        return np.c_[flat * np.sinc(angle / np.pi)[:, None], np.cos(angle)]

    def _bent(self, flat: np.ndarray) -> np.ndarray:
        factor, shift = self._bend(flat)
        return flat * factor + shift

    def _bend(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray | float]:
        """Factor [N, 1] and shift [N, 2] by which the lens moves undistorted plane coordinates [N, 2]."""
        if not self.distortion:
            return np.ones((len(flat), 1)), 0.0
        square = (flat**2).sum(axis=1, keepdims=True)
        if self.model == "equidistant":
            return _series(square, self.distortion), 0.0
        k1, k2, p1, p2, k3, k4, k5, k6 = (*self.distortion, 0.0, 0.0, 0.0, 0.0)[:8]
        factor = _series(square, (k1, k2, k3)) / _series(square, (k4, k5, k6))
        both = 2 * flat[:, :1] * flat[:, 1:]
        return factor, both * (p1, p2) + (square + 2 * flat**2) * (p2, p1)


def _series(square: np.ndarray, coefficients: Sequence[float]) -> np.ndarray:
    """1 + c0 s + c1 s^2 + ..."""
    total = np.zeros_like(square)
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * square
    return 1 + total


def _floats(values: Any, lengths: Container[int], field: str) -> list[float]:
    """The numbers of a CameraInfo field, which may have these lengths."""
    if len(values) not in lengths:
        raise ConfigError(
            f"CameraInfo.{field} holds {len(values)} values, as no calibration does: calibrate the camera"
        )
    return [float(v) for v in values]
