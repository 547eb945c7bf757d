"""The pixel metrics exactly as the public SegmentMeIfYouCan tool approximates them, to reproduce its published figures.

Source: road-anomaly-benchmark, metrics PixBinaryClass-uniThr (4096 uniform bins on [-0.01, 1.01]; scores outside are
lost) and PixBinaryClass (per image, bins at 384 quantiles of each side and just beyond the extremes; the bins of all
images are merged). For anything else take `pixel_metrics`, which is exact.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import numpy as np

from mgcda_core.evaluation.pixel_metrics import counted_pixels

Binning = Literal["uniform", "percentile"]
_UNIFORM_BINS, _UNIFORM_RANGE = 4096, (-0.01, 1.01)
_QUANTILES = 384


class SmiycScores(TypedDict):
    """Fractions, and thresholds in units of the score; all NaN for a set without positives or without negatives."""

    ap: float
    auroc: float
    fpr95: float
    fpr95_threshold: float
    best_f1: float
    best_f1_threshold: float
    """The public tool's component metrics take `score > best_f1_threshold` in float32."""


class SmiycPixel:
    """Accumulates images; the tool itself sees float16 scores, so cast to that first to get its published figures."""

    def __init__(self, binning: Binning) -> None:
        if binning not in ("uniform", "percentile"):
            raise ValueError(f"binning is {binning!r}; it must be uniform or percentile")
        self.binning: Binning = binning
        self._images: list[tuple[np.ndarray, np.ndarray]] = []
        """(thresholds, falling; [2, bins] negatives and positives of the bins above each) of each image."""
        self._sides = np.zeros(2, np.int64)
        """Negatives and positives, those outside the bins included."""

    def update(self, score: np.ndarray, label: np.ndarray) -> None:
        """Add one image: `score` float [H, W], `label` [H, W] in {0, 1, 255}; the errors of `pixel_metrics.exact`."""
        counted, positive = counted_pixels(score, label)
        sides = counted[~positive], counted[positive]
        if not counted.size:
            return
        if self.binning == "uniform":
            edges = np.histogram_bin_edges(counted, _UNIFORM_BINS, _UNIFORM_RANGE)
        else:
            edges = _percentile_edges(sides[0], sides[1])
        counts = np.stack([np.histogram(side, edges)[0] for side in sides])
        self._images.append((edges[-2::-1], counts[:, ::-1]))
        self._sides += [side.size for side in sides]

    def merge(self, other: SmiycPixel) -> None:
        """Add the images of another accumulator of the same binning; order does not matter."""
        if other.binning != self.binning:
            raise ValueError(f"cannot merge metrics of {other.binning} bins into {self.binning} ones")
        self._images += other._images
        self._sides += other._sides

    def compute(self) -> SmiycScores:
        """Metrics of everything added so far."""
        if not self._sides.all():
            nan = float("nan")
            return SmiycScores(ap=nan, auroc=nan, fpr95=nan, fpr95_threshold=nan, best_f1=nan, best_f1_threshold=nan)
        thresholds, fp, tp = self._curve()
        recall, fall_out = tp / tp[-1], fp / fp[-1]
        precision = np.where(tp + fp > 0, tp / np.maximum(tp + fp, 1), 1.0)
        crossing = int(np.searchsorted(recall, 0.95))
        f1 = 2 * tp / (tp + fp + tp[-1])
        best = int(np.argmax(f1))
        return SmiycScores(
            ap=float(np.sum(np.diff(recall) * precision[1:])),
            auroc=float(np.sum(np.diff(fall_out) * (recall[1:] + recall[:-1]) / 2)),
            fpr95=float(fall_out[crossing]),
            fpr95_threshold=float(thresholds[crossing]),
            best_f1=float(f1[best]),
            best_f1_threshold=float(thresholds[best]),
        )

    def _curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Falling thresholds and what is counted down to each, from nothing to all.

        Pixels outside the bins are taken as one last step, so a recall of 0.95 the bins do not reach has FPR 1.
        """
        if self.binning == "uniform":  # every image has the same
            thresholds, counts = self._images[0][0], np.sum([counts for _, counts in self._images], axis=0)
        else:
            thresholds = np.concatenate([thresholds for thresholds, _ in self._images])
            order = np.argsort(thresholds, kind="stable")[::-1]
            thresholds = thresholds[order]
            counts = np.concatenate([counts for _, counts in self._images], axis=1)[:, order]
        thresholds, cumulated = thresholds.astype(np.float64), np.cumsum(counts, axis=1)
        # Of a repeated threshold its last index counts; the very first index is kept whatever follows.
        kept = np.union1d(np.flatnonzero(thresholds[:-1] != thresholds[1:]), [0, thresholds.size - 1])
        thresholds, cumulated = thresholds[kept], cumulated[:, kept]
        if cumulated[:, 0].any():
            thresholds = np.append(thresholds.max() + 1, thresholds)
            cumulated = np.insert(cumulated, 0, 0, axis=1)
        if not np.array_equal(cumulated[:, -1], self._sides):
            thresholds = np.append(thresholds, thresholds.max() - 1)
            cumulated = np.append(cumulated, self._sides[:, None], axis=1)
        return thresholds, cumulated[0], cumulated[1]


def _percentile_edges(*sides: np.ndarray) -> np.ndarray:
    """Rising bin edges of one image: quantiles of each side, and one edge beyond either extreme."""
    low = min(side.min() for side in sides if side.size)
    high = max(side.max() for side in sides if side.size)
    beyond = max((high - low) * 1e-2, 1e-2)
    quantiles = [np.quantile(side, np.linspace(0, 1, min(_QUANTILES, side.size))) for side in sides if side.size]
    return np.unique(np.concatenate([[low - beyond, high + beyond], *quantiles]))
