"""Memory of a process, for tests that it stays flat."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mgcda_ros.device_health import resident_mb


def growth_mb(run: Callable[[np.ndarray], object], images: Sequence[np.ndarray], frames: int = 500) -> float:
    """By how much `frames` images, over and over the same ones, make it grow, after four rounds to warm up."""
    for number in range(4 * len(images)):
        run(images[number % len(images)])
    before = resident_mb()
    for number in range(frames):
        run(images[number % len(images)])
    return resident_mb() - before
