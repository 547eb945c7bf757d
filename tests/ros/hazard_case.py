"""Tracked hazards for the tests of what is published of them."""

from __future__ import annotations

from mgcda_core.hazards.regions import Hazard
from mgcda_core.hazards.tracks import Track
from mgcda_core.prediction import Region


def track(number: int = 1, width: float = 0.8, height: float = 0.5, unseen: float = 0.0) -> Track:
    """A hazard 12 m ahead and 1.5 m to the right, whose distance is known to about 0.6 m."""
    region = Region(10, 20, 30, 40, 900, 0.75, 24.5, 59.5)
    hazard = Hazard((12.0, -1.5, 0.0), width, height, 12.1, 0.75, region, (0.36, 0.0, 0.01))
    return Track(number, hazard, (-8.0, 0.1), (0.5, 0.2), 1.2, unseen, 7, True, 0.6)
