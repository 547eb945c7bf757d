"""What a frame's prediction holds: the logit map and what follows from it (score, mask, regions, JSON)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import cv2
import numpy as np


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
        score = self.score
        mask = (score >= np.float32(self.threshold)).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        sums = np.bincount(labels.ravel(), score.ravel(), minlength=count)
        regions = [
            Region(*(int(v) for v in stats[i, :4]), area=int(stats[i, 4]), score=float(sums[i] / stats[i, 4]))
            for i in range(1, count)
            if stats[i, 4] >= min_area
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
