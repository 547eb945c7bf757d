"""~/hazards_info: the hazards of a frame as JSON, for consumers without messages of their own (docs/vehicle.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from std_msgs.msg import Header

from mgcda_core.hazards.tracks import Track

VERSION = 1
"""Raised when a field changes its meaning or goes; new fields may come at any time."""


def to_info(
    tracks: Sequence[Track], header: Header, frame: str, scale: tuple[float, float] = (1.0, 1.0)
) -> dict[str, Any]:
    """Plain values: metres, seconds, radians, pixels of the input image; `frame` is that of positions and velocities.

    `scale` is (rows, columns) of the input image by those of the mask.
    """
    return {
        "version": VERSION,
        "stamp": {"sec": header.stamp.sec, "nanosec": header.stamp.nanosec},
        "image_frame": header.frame_id,
        "frame": frame,
        "hazards": [_hazard(track, scale) for track in tracks],
    }


def _hazard(track: Track, scale: tuple[float, float]) -> dict[str, Any]:
    hazard, region = track.hazard, track.hazard.region
    xx, xy, yy = hazard.covariance
    return {
        "id": track.id,
        "position": list(hazard.position),
        "position_covariance": [xx, xy, yy],
        "distance": hazard.distance_m,
        "distance_std": hazard.distance_std_m,
        "across_std": hazard.across_std_m,
        "width": hazard.width_m,
        "height": hazard.height_m,
        "velocity": list(track.velocity),
        "velocity_std": list(track.velocity_std),
        "score": hazard.score,
        "confidence": track.confidence,
        "age": track.age_s,
        "unseen": track.unseen_s,
        "hits": track.hits,
        "cut": region.cut,
        "box": [
            region.x * scale[1] - 0.5, region.y * scale[0] - 0.5,
            region.width * scale[1], region.height * scale[0],
        ],
    }  # fmt: skip
