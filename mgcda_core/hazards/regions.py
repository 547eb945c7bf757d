"""Anomalous image regions to hazards: a place on the flat road and how sure it is, a size and a distance in metres."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from mgcda_core.config import ConfigError
from mgcda_core.hazards.ground_plane import EXPECTED, Camera, Uncertainty
from mgcda_core.prediction import Region

ON_WAY = np.linspace(0.0, 1.0, 5)
"""Where a box is measured between its contact point and its edges."""
STEEP = 0.05
"""What is seen nearer to the camera's foot than this share of its height, 3 degrees, is seen from straight above."""


@dataclass(frozen=True)
class Hazard:
    """One anomalous region, placed on the road in base_link (x forward, y left, z up)."""

    position: tuple[float, float, float]
    """Contact point (x, y, z) in metres; z = 0 is the road. If `region.cut`, the farthest one that is possible."""
    width_m: float
    """Extent across the line of sight, from the region's box."""
    height_m: float
    """Extent upwards, from the region's box."""
    distance_m: float
    """Horizontal distance from base_link's origin to the contact point."""
    score: float
    """Mean anomaly score of the region, in [0, 1]."""
    region: Region
    covariance: tuple[float, float, float]
    """Of the position, in square metres: xx, xy, yy."""

    @property
    def distance_std_m(self) -> float:
        """Standard deviation of the distance."""
        return self._std(self.position[0], self.position[1])

    @property
    def across_std_m(self) -> float:
        """Standard deviation of the position across the line from base_link's origin."""
        return self._std(-self.position[1], self.position[0])

    def _std(self, x: float, y: float) -> float:
        xx, xy, yy = self.covariance
        square = x * x + y * y
        return max(0.0, (x * x * xx + 2 * x * y * xy + y * y * yy) / square if square else (xx + yy) / 2) ** 0.5


def to_hazards(
    regions: Iterable[Region],
    camera: Camera,
    *,
    uncertainty: Uncertainty = EXPECTED,
    max_distance_m: float = 120.0,
    min_size_m: float = 0.0,
) -> list[Hazard]:
    """Hazards of the regions that stand on the road, the nearest first.

    Left out are regions whose contact point lies at or above the horizon, out of the lens's view or farther than
    `max_distance_m` (a single camera cannot place them), and those whose width and height are both below `min_size_m`.
    One that is cut may stand anywhere between the camera and its contact point, which its covariance covers.
    Raises ConfigError for a maximum that is not positive.
    """
    if not max_distance_m > 0:
        raise ConfigError(f"max_distance_m must be positive, not {max_distance_m}")
    candidates = list(regions)
    contacts = np.array([(region.contact_x, region.contact_y) for region in candidates]).reshape(-1, 2)
    points = camera.road_points(contacts)
    away = points[:, :2] - camera.mount.position[:2]
    cut = np.array([region.cut for region in candidates], float)
    # The mean square of the way from the point to any place on the line to the camera: a third of the line's.
    spread = camera.road_covariances(contacts, uncertainty) + np.einsum("n,ni,nj->nij", cut / 3, away, away)
    distances = np.hypot(points[:, 0], points[:, 1])
    placed = np.flatnonzero((distances <= max_distance_m) & np.isfinite(spread).all(axis=(1, 2)))  # NaN is not
    nearest = placed[np.argsort(distances[placed])]
    sizes = _sizes([candidates[i] for i in nearest], contacts[nearest], points[nearest], camera)
    return [
        Hazard(
            position=(float(points[i, 0]), float(points[i, 1]), 0.0),
            width_m=float(width),
            height_m=float(height),
            distance_m=float(distances[i]),
            score=candidates[i].score,
            region=candidates[i],
            covariance=(float(spread[i, 0, 0]), float(spread[i, 0, 1]), float(spread[i, 1, 1])),
        )
        for i, (width, height) in zip(nearest, sizes, strict=True)
        if max(width, height) >= min_size_m
    ]


def _sizes(regions: list[Region], contacts: np.ndarray, points: np.ndarray, camera: Camera) -> np.ndarray:
    """Width and height [N, 2] in metres of the boxes on upright planes that face the camera at the contact points.

    A box is measured along its lines from the contact point to its edges, as far as the lens sees them. Pixel i covers
    i - 0.5 .. i + 0.5. What is seen from straight above is measured on the road, and has no height.
    """
    if not regions:
        return np.zeros((0, 2))
    u, v = contacts.T
    left, top, width = np.array([(region.x, region.y, region.width) for region in regions], float).T
    edges = np.stack([np.c_[left - 0.5, v], np.c_[left + width - 0.5, v], np.c_[u, top - 0.5]])
    on_way = contacts + ON_WAY[:, None, None, None] * (edges - contacts)
    rays = camera.rays(on_way.reshape(-1, 2)).reshape(-1, len(regions), 3)
    away = points[:, :2] - camera.mount.position[:2]
    height = camera.mount.position[2]
    steep = np.linalg.norm(away, axis=1) < STEEP * height
    away[steep] = camera.mount.rotation[:2] @ (0.0, -1.0, 1.0)  # the way that is up in the image, or its axis
    reach = np.linalg.norm(away, axis=1)
    ahead = away / np.maximum(reach, 1e-9)[:, None]
    advance = np.where(steep, -rays[..., 2], np.einsum("kni,ni->kn", rays[..., :2], ahead))
    met = rays * (np.where(steep, height, reach) / np.where(advance > 1e-3, advance, np.nan))[..., None]
    across = np.einsum("kni,ni->kn", met[..., :2], ahead[:, ::-1] * (-1, 1))
    up = height + met[..., 2]
    return np.c_[np.nanmax(across, axis=0) - np.nanmin(across, axis=0), np.nanmax(up, axis=0)]
