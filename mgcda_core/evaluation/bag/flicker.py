"""Temporal flicker: how much of the mask changes between frames beyond what the motion of the picture explains."""

from __future__ import annotations

import cv2
import numpy as np

LEAST_FOLLOWED = 0.3
"""Share of the picture whose motion must be found; below it the frames are a cut, not a movement."""
LEAST_SIDE = 16


class Flicker:
    """1 - IoU of each mask with the one before, moved along with the picture, pooled over the drive.

    The motion is dense optical flow between the grey pictures (DIS, Kroeger et al., ECCV 2016). Only pixels count whose
    flow leads back to them when followed in the other direction (Sundaram et al., ECCV 2010, eq. 5): what comes into
    view or is uncovered has no past to differ from.
    """

    def __init__(self) -> None:
        self.pairs = 0
        """Pairs of frames whose motion was found."""
        self.cuts = 0
        """Pairs left out: too little of the picture was found again, or its size changed."""
        self._changed = self._union = 0
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._before: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def value(self) -> float | None:
        """Changed share of the mask in [0, 1]; None if no followed pair has a mask."""
        return self._changed / self._union if self._union else None

    def merge(self, other: Flicker) -> None:
        """Add the pairs of another drive."""
        self.pairs += other.pairs
        self.cuts += other.cuts
        self._changed += other._changed
        self._union += other._union

    def add(self, image: np.ndarray, mask: np.ndarray) -> float | None:
        """The next frame, uint8 [H, W, 3] RGB and bool [H, W].

        Returns the changed share against the frame before; None for the first frame, after a cut, without any mask.
        """
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        before, self._before = self._before, (grey, mask)
        if before is None:
            return None
        if before[0].shape != grey.shape or min(grey.shape) < LEAST_SIDE:
            self.cuts += 1
            return None
        moved, followed = self._moved(*before, grey)
        if followed.mean() < LEAST_FOLLOWED:
            self.cuts += 1
            return None
        self.pairs += 1
        union = int(((moved | mask) & followed).sum())
        changed = int(((moved ^ mask) & followed).sum())
        self._union += union
        self._changed += changed
        return changed / union if union else None

    def _moved(self, before: np.ndarray, mask: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The mask of `before` moved to `now`, and where that can be said: both bool [H, W]."""
        initial = np.zeros((*now.shape, 2), np.float32)
        back, forth = self._flow.calc(now, before, initial.copy()), self._flow.calc(before, now, initial)
        height, width = now.shape
        columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
        x, y = columns + back[..., 0], rows + back[..., 1]
        inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
        returned = cv2.remap(forth, x, y, cv2.INTER_LINEAR)
        error = ((back + returned) ** 2).sum(-1)
        motion = (back**2).sum(-1) + (returned**2).sum(-1)
        moved = cv2.remap(mask.astype(np.uint8), x, y, cv2.INTER_NEAREST) > 0
        return moved, inside & (error < 0.01 * motion + 0.5)
