"""Memory of a process, for tests that it stays flat."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np


def resident_mb(pid: int | str = "self") -> float:
    """Resident memory in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def growth_mb(run: Callable[[np.ndarray], object], images: Sequence[np.ndarray], frames: int = 500) -> float:
    """By how much `frames` images, over and over the same ones, make it grow, after four rounds to warm up."""
    for number in range(4 * len(images)):
        run(images[number % len(images)])
    before = resident_mb()
    for number in range(frames):
        run(images[number % len(images)])
    return resident_mb() - before
