"""What a frame's prediction holds: the logit map and what follows from it (score, mask, regions, JSON)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np

FOOT_COLUMNS = 0.1
"""Share of a region's columns that may hang below its contact with the ground: a spur of the mask is no foot."""
FOOT_RISE = 0.2
"""A column belongs to the foot if it ends within this share of the region's height above the contact."""

UNSEEN_LOGIT = -80.0
"""Of pixels that were not looked at or do not count: the least that `Prediction.score` tells apart."""


@dataclass(frozen=True)
class Region:
    """One 8-connected anomalous region of the mask, in pixels of the input image."""

    x: int
    y: int
    width: int
    height: int
    """Bounding box: left, top, width, height."""
    area: int
    """Pixels in the region."""
    score: float
    """Mean score over the region, in [0, 1]."""
    contact_x: float
    contact_y: float
    """Where it touches the ground, in pixels: the middle of its foot, on the lower edge; (0, 0) is a pixel's centre."""
    cut: bool = False
    """Its foot lies on the image's last row or on pixels that do not count: it may touch the ground farther below."""


@dataclass(frozen=True)
class Prediction:
    """Per-pixel anomaly prediction of one image at the size of that image."""

    logits: np.ndarray
    """float32 [H, W], unbounded, larger = more anomalous."""
    threshold: float = 0.5
    """Score at and above which a pixel belongs to the mask."""
    segmentation: np.ndarray | None = None
    """uint8 [H, W] predicted Cityscapes train ids, where the backend gives them."""
    timings_ms: dict[str, float] = field(default_factory=dict)
    """Wall-clock milliseconds of each stage."""

    @cached_property  # 5 ms at 720p, read by mask, regions and JSON; it writes __dict__, so the class may be frozen
    def score(self) -> np.ndarray:
        """float32 [H, W] in [0, 1], the sigmoid of the logits; higher = more anomalous."""
        return 1.0 / (1.0 + np.exp(-np.clip(self.logits, -80.0, 80.0), dtype=np.float32))

    @property
    def mask(self) -> np.ndarray:
        """bool [H, W], True where the score reaches the threshold."""
        return self.score >= np.float32(self.threshold)

    def regions(self, min_area: int = 1) -> list[Region]:
        """8-connected regions of the mask with at least `min_area` pixels, the largest first."""
        score, mask = self.score, self.mask
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
        if count == 1:
            return []
        sums = np.bincount(labels[mask], score[mask], minlength=count)
        x, y, cut = _contacts(mask, labels, stats, self.logits <= UNSEEN_LOGIT)
        kept = np.flatnonzero(stats[:, 4] >= min_area)
        regions = [
            Region(
                *(int(v) for v in stats[i, :4]),
                area=int(stats[i, 4]),
                score=float(sums[i] / stats[i, 4]),
                contact_x=float(x[i]),
                contact_y=float(y[i]),
                cut=bool(cut[i]),
            )
            for i in kept[kept > 0]
        ]
        return sorted(regions, key=lambda r: -r.area)

    def to_json(self, min_area: int = 1) -> dict[str, Any]:
        """Plain values for predictions.json: size, threshold, masked share, regions, timings."""
        height, width = self.logits.shape
        return {
            "height": height,
            "width": width,
            "threshold": self.threshold,
            "masked_fraction": float(self.mask.mean()) if self.logits.size else 0.0,
            "max_score": float(self.score.max()) if self.logits.size else 0.0,
            "regions": [vars(r) for r in self.regions(min_area)],
            "timings_ms": self.timings_ms,
        }


def _contacts(
    mask: np.ndarray, labels: np.ndarray, stats: np.ndarray, unseen: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contact points x and y of all components and whether they are cut, each [N].

    `labels` and `stats` are as connectedComponentsWithStats gives them, `unseen` bool [H, W].
    """
    below = np.zeros_like(mask)
    below[:-1] = mask[1:]
    rows, columns = np.divmod(np.flatnonzero(mask & ~below), mask.shape[1])
    found = labels[rows, columns]
    order = np.lexsort((rows, columns, found))
    found, columns, rows = found[order], columns[order], rows[order]
    # A component touches each column of its box, so these are stats' widths: the lowest row in each of its columns.
    lowest = np.append((np.diff(columns) != 0) | (np.diff(found) != 0), True)
    found, columns, rows = found[lowest], columns[lowest], rows[lowest]
    width, height = stats[:, 2].copy(), stats[:, 3]
    width[0] = 0
    first = np.cumsum(width) - width
    downwards = np.lexsort((-rows, found))
    spur = (FOOT_COLUMNS * width).astype(int)
    foot = np.r_[0, rows[downwards][first[1:] + spur[1:]]]
    stands = rows >= foot[found] - FOOT_RISE * height[found]
    left, right = np.full(len(stats), mask.shape[1]), np.zeros(len(stats), int)
    np.minimum.at(left, found[stands], columns[stands])
    np.maximum.at(right, found[stands], columns[stands])
    bottom = len(mask) - 1
    hidden = (rows == bottom) | unseen[np.minimum(rows + 1, bottom), columns]
    cut = np.bincount(found, stands & hidden, minlength=len(stats)) > spur
    return (left + right) / 2, foot + 0.5, cut
