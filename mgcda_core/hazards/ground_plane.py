"""Where a pixel's ray meets the flat road: a lens on its mount over the plane z = 0 of base_link (REP-103)."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from mgcda_core.config import ConfigError
from mgcda_core.hazards.lens import Lens
from mgcda_core.hazards.mount import Mount

MIN_DROP = 1e-3
"""A ray that falls by less than this for each metre of its way counts as parallel to the road (2 km away, 2 m up)."""


@dataclass(frozen=True)
class Uncertainty:
    """Standard deviations of what the geometry is told; all independent of each other."""

    pitch_std_rad: float = 0.01
    """Of the line of sight against the road: braking, load, slope, calibration."""
    pixel_std_px: float = 3.0
    """Of a contact point in the image, along each axis."""
    height_std_m: float = 0.03
    """Of the camera's height: load and springs."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not 0 <= getattr(self, field.name) < float("inf"):
                raise ConfigError(f"{field.name} must be 0 or a positive number, not {getattr(self, field.name)}")


EXPECTED = Uncertainty()
"""Of a car with a calibrated camera and masks of a network."""


@dataclass(frozen=True)
class Camera:
    """A lens and where it sits."""

    lens: Lens
    mount: Mount

    def rays(self, pixels: np.ndarray) -> np.ndarray:
        """Unit rays of the pixels [N, 2] in base_link, float64 [N, 3]; NaN where the lens sees nothing."""
        return self.lens.rays(pixels) @ self.mount.rotation.T

    def road_points(self, pixels: np.ndarray) -> np.ndarray:
        """Road points in base_link, float64 [N, 3] metres with z = 0, seen in the pixels [N, 2].

        NaN at and above the horizon.
        """
        return self._meet_road(self.rays(pixels))

    def road_covariances(self, pixels: np.ndarray, uncertainty: Uncertainty) -> np.ndarray:
        """Covariances of the road points' x and y, float64 [N, 2, 2] in square metres; NaN where there is no point.

        To first order: a point at the ground distance r from the camera's foot, seen from the height h, moves away by
        (r^2 + h^2) / h for each radian that its ray rises, by r / h for each metre that the camera rises, and by
        the ray's derivative in u and v for each pixel.
        """
        pixels = np.asarray(pixels, float).reshape(-1, 2)
        half = np.array([(0.0, 0.0), (0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5)])
        rays, right, left, below, above = self.rays((half[:, None] + pixels).reshape(-1, 2)).reshape(5, -1, 3)
        height = self.mount.position[2]
        away = (self._meet_road(rays) - self.mount.position)[:, :2]
        reach = np.linalg.norm(away, axis=1, keepdims=True)
        tilt = away / np.maximum(reach, 1e-9) * (reach**2 + height**2) / height

        def moved(turned: np.ndarray) -> np.ndarray:
            """How the point moves with its ray: by the ray, since half a pixel up may be above the horizon."""
            return (height * turned[:, :2] + away * turned[:, 2:]) / -rays[:, 2:]

        causes = np.stack(
            [
                uncertainty.pitch_std_rad * tilt,
                uncertainty.height_std_m * away / height,
                uncertainty.pixel_std_px * moved(right - left),
                uncertainty.pixel_std_px * moved(below - above),
            ]
        )
        return np.einsum("kni,knj->nij", causes, causes)

    def project(self, points: np.ndarray) -> np.ndarray:
        """Pixels, float64 [N, 2], of points [N, 3] in base_link; NaN where they are not seen."""
        return self.lens.project((np.asarray(points, float) - self.mount.position) @ self.mount.rotation)

    def _meet_road(self, rays: np.ndarray) -> np.ndarray:
        drop = np.where(-rays[:, 2] > MIN_DROP, -rays[:, 2], np.nan)
        points = self.mount.position + rays * (self.mount.position[2] / drop)[:, None]
        points[:, 2] *= 0.0  # exactly the road, and NaN where there is none
        return points
