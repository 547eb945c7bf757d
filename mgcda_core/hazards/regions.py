"""Anomalous image regions to hazards: a place on the flat road, a size and a distance in metres."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from mgcda_core.hazards.ground_plane import Camera
from mgcda_core.prediction import Region


@dataclass(frozen=True)
class Hazard:
    """One anomalous region, placed on the road in base_link (x forward, y left, z up)."""

    position: tuple[float, float, float]
    """Contact point (x, y, z) in metres; z = 0 is the road."""
    width_m: float
    """Extent across the view, from the region's box."""
    height_m: float
    """Extent upwards, from the region's box."""
    distance_m: float
    """Horizontal distance from base_link's origin to the contact point."""
    score: float
    """Mean anomaly score of the region, in [0, 1]."""
    region: Region


def to_hazards(
    regions: Iterable[Region], camera: Camera, *, max_distance_m: float = 120.0, min_area: int = 1
) -> list[Hazard]:
    """Hazards of the regions that stand on the road, the nearest first.

    The contact point is the bottom centre of the region's box, on the lower edge of its last pixel row. Regions whose
    contact point lies at or above the horizon, farther than `max_distance_m`, or that have fewer than `min_area`
    pixels are left out: a single camera cannot place them. Raises ValueError for a maximum that is not positive.
    """
    if not max_distance_m > 0:
        raise ValueError(f"max_distance_m must be positive, not {max_distance_m}")
    placed = (_place(region, camera) for region in regions if region.area >= min_area)
    found = [hazard for hazard in placed if hazard is not None and hazard.distance_m <= max_distance_m]
    return sorted(found, key=lambda hazard: hazard.distance_m)


def _place(region: Region, camera: Camera) -> Hazard | None:
    # Pixel i covers i - 0.5 .. i + 0.5, so a box of height h that starts in row y ends at y + h - 0.5.
    point = camera.road_point(region.x + (region.width - 1) / 2, region.y + region.height - 0.5)
    if point is None:
        return None
    x, y, _ = point
    depth = camera.depth(x)
    return Hazard(
        position=point,
        width_m=region.width * depth / camera.fx,
        height_m=region.height * depth / camera.fy,
        distance_m=math.hypot(x, y),
        score=region.score,
        region=region,
    )
