"""Pixel-wise AP, FPR95 and AUROC of anomaly scores pooled over a whole set (spec 5.1, 5.2).

Convention of every number: label 1 is positive, 0 negative, 255 left out; a higher score is more anomalous; equal
scores are one tie group; AP is the step sum (as in scikit-learn); FPR95 is the false positive rate at the first
threshold whose recall reaches 0.95 (Fishyscapes). Never average these over images: pool, as `PixelMetrics` does.
"""

from __future__ import annotations

from typing import Literal, TypedDict

import numpy as np

from mgcda_core.labels import ANOMALY, IGNORE, NORMAL

BUCKETS = 1 << 20
_HALF_BITS = 0x3F000000  # float32 bits of 0.5


class PixelScores(TypedDict):
    """Metrics as fractions in [0, 1]; NaN, with the reason, where a set has no positives or no negatives."""

    ap: float
    fpr95: float
    auroc: float
    pixels: int
    positives: int
    reason: str | None
    ap_bound: float
    fpr95_bound: float


def exact(score: np.ndarray, label: np.ndarray) -> PixelScores:
    """Exact metrics of one array of scores (spec 5.1).

    `score` is any float array (cast to float32), `label` of the same shape with the values 0, 1, 255. Both bounds of
    the result are 0. Raises ValueError for NaN scores under a counted label, other label values, unequal shapes.
    """
    metrics = ExactMetrics()
    metrics.update(score, label)
    return metrics.compute()


class ExactMetrics:
    """Exact metrics by keeping every counted score, 4 bytes a pixel, and sorting once (spec 5.1)."""

    def __init__(self) -> None:
        self.pixels = 0
        self._positives: list[np.ndarray] = []
        self._negatives: list[np.ndarray] = []

    def update(self, score: np.ndarray, label: np.ndarray) -> None:
        """Add one image; the arguments and errors of `exact`."""
        counted, positive = _counted(score, label)
        self._positives.append(counted[positive])
        self._negatives.append(counted[~positive])
        self.pixels += counted.size

    def merge(self, other: ExactMetrics) -> None:
        """Add the scores of another accumulator, for example of a second process; order does not matter."""
        self._positives += other._positives
        self._negatives += other._negatives
        self.pixels += other.pixels

    def compute(self) -> PixelScores:
        """Metrics of everything added so far; both bounds are 0."""
        positives, negatives = (
            np.sort(np.concatenate(part or [np.empty(0, np.float32)])) for part in (self._positives, self._negatives)
        )
        result = _empty(positives.size, negatives.size)
        if result["reason"] is None:
            # Recall only changes at a positive's score, so these thresholds are all there is to know.
            values, counts = np.unique(positives, return_counts=True)
            below, up_to = (np.searchsorted(negatives, values, side) for side in ("left", "right"))
            tp, fp = np.cumsum(counts[::-1]), (negatives.size - below)[::-1]
            result["ap"] = float(np.sum(counts[::-1] * (tp / (tp + fp))) / positives.size)
            result["fpr95"] = float(fp[_first_95(tp)] / negatives.size)
            result["auroc"] = float(np.sum(counts * (below + up_to)) / (2.0 * positives.size * negatives.size))
        return result


class PixelMetrics:
    """Bounded-memory metrics: two histograms over 2^20 order-preserving buckets, 16 MiB whatever the set (spec 5.2).

    mode "logits" takes unbounded scores (logits, energy, max-logit): the top 20 bits of the ordered float32. mode
    "unit" takes scores that exist only in [0, 1] (softmax probabilities) and is as fine near 1 as near 0. A bucket
    counts as one tie group; `compute` says by how much that can have changed AP and FPR95.
    """

    def __init__(self, mode: Literal["logits", "unit"] = "logits") -> None:
        if mode not in ("logits", "unit"):
            raise ValueError(f"mode is {mode!r}; it must be 'logits' (unbounded scores) or 'unit' (scores in [0, 1])")
        self.mode = mode
        self.positives = np.zeros(BUCKETS, np.int64)
        self.negatives = np.zeros(BUCKETS, np.int64)

    def update(self, score: np.ndarray, label: np.ndarray) -> None:
        """Add one image: `score` float [H, W], `label` [H, W] in {0, 1, 255}.

        Raises ValueError for NaN scores under a counted label, other label values, unequal shapes, and in mode "unit"
        for scores outside [0, 1]. The state is unchanged after an error.
        """
        counted, positive = _counted(score, label)
        bucket = _unit_bucket(counted) if self.mode == "unit" else _logit_bucket(counted)
        both = np.bincount(bucket + positive * np.int64(BUCKETS), minlength=2 * BUCKETS)
        self.negatives += both[:BUCKETS]
        self.positives += both[BUCKETS:]

    def merge(self, other: PixelMetrics) -> None:
        """Add the counts of another accumulator, for example of a second process; order does not matter."""
        if other.mode != self.mode:
            raise ValueError(f"cannot merge metrics of mode {other.mode!r} into mode {self.mode!r}")
        self.positives += other.positives
        self.negatives += other.negatives

    def compute(self) -> PixelScores:
        """Metrics of everything added so far, with the largest possible error of AP and FPR95 against `exact`."""
        filled = np.flatnonzero(self.positives + self.negatives)[::-1]
        positives, negatives = self.positives[filled], self.negatives[filled]
        tp, fp = np.cumsum(positives), np.cumsum(negatives)
        result = _from_curve(tp, fp)
        if result["reason"] is None:
            result["ap_bound"] = _ap_bound(tp, fp, positives, negatives)
            result["fpr95_bound"] = float(negatives[_first_95(tp)] / fp[-1])
        return result


def _counted(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that count, flat: float32 scores and bool positives."""
    score, label = np.asarray(score), np.asarray(label)
    if score.shape != label.shape:
        raise ValueError(f"score has shape {score.shape} but label has shape {label.shape}; they must be equal")
    positive, negative = label == ANOMALY, label == NORMAL
    keep = positive | negative
    others = label[~(keep | (label == IGNORE))]
    if others.size:
        raise ValueError(f"label holds the value {others.flat[0]}; only 0 (normal), 1 (anomaly) and 255 (ignore) count")
    # Adding +0.0 turns -0.0 into +0.0: the two compare equal, so their bit patterns must be one tie as well.
    counted = score[keep].astype(np.float32, copy=False) + np.float32(0.0)
    if np.isnan(counted).any():
        raise ValueError(f"{int(np.isnan(counted).sum())} of {counted.size} scores are NaN; check the network's output")
    return counted, positive[keep]


def _logit_bucket(score: np.ndarray) -> np.ndarray:
    """Bucket of an unbounded float32 score: sign-flipped bits order like the numbers themselves."""
    bits = score.view(np.uint32)
    key = bits ^ np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    return (key >> 12).astype(np.int64)


def _unit_bucket(score: np.ndarray) -> np.ndarray:
    """Bucket of a float32 score in [0, 1]: the bits of s up to 0.5, beyond it the mirrored bits of 1 - s.

    1 - s is exact in float32 for s > 0.5. The mirror image is taken at the bits of 0.5, so that the upper half follows
    the lower one; the key ends at twice those bits and 11 bits less fill the 2^20 buckets.
    """
    if score.size and (score.min() < 0.0 or score.max() > 1.0):
        raise ValueError(
            f"scores reach from {score.min():g} to {score.max():g}, outside [0, 1]; use PixelMetrics(mode='logits')"
        )
    upper = score > 0.5
    bits = np.where(upper, np.float32(1.0) - score, score).view(np.uint32).astype(np.int64)
    return np.where(upper, 2 * _HALF_BITS - bits, bits) >> 11


def _first_95(tp: np.ndarray) -> int:
    """Index of the first threshold with recall >= 0.95 in cumulated true positives that end above 0."""
    return int(np.searchsorted(tp / tp[-1], 0.95, side="left"))


def _empty(positives: int, negatives: int) -> PixelScores:
    """Result with the counts and, if there can be no metrics, the reason; the rest is to be filled in."""
    missing = [name for name, count in (("positives", positives), ("negatives", negatives)) if not count]
    return PixelScores(
        ap=float("nan"),
        fpr95=float("nan"),
        auroc=float("nan"),
        pixels=positives + negatives,
        positives=positives,
        reason=f"no {' and no '.join(missing)} among the counted pixels" if missing else None,
        ap_bound=0.0,
        fpr95_bound=0.0,
    )


def _ap_bound(tp: np.ndarray, fp: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> float:
    """Largest |exact AP - bucketed AP|, from the best and the worst order of the pixels within each bucket.

    Best: the bucket's positives come first, as one tie. Worst: its negatives come first, then the positives one by
    one; sum_i (a + i) / (a + i + F) is bounded from below by an integral, p - F ln(1 + p / (a + F)).
    """
    before = tp - positives
    bucketed = positives * (tp / (tp + fp))
    best = positives * (tp / np.maximum(tp + fp - negatives, 1))
    worst = positives - fp * np.log1p(positives / np.maximum(before + fp, 1))
    mixed = (positives > 0) & (negatives > 0)
    gap = max(np.sum((best - bucketed)[mixed]), np.sum((bucketed - worst)[mixed]))
    return float(gap / tp[-1])


def _from_curve(tp: np.ndarray, fp: np.ndarray) -> PixelScores:
    """Metrics from true and false positives cumulated over the tie groups, the highest score first."""
    positives, negatives = (int(tp[-1]), int(fp[-1])) if tp.size else (0, 0)
    result = _empty(positives, negatives)
    if result["reason"] is None:
        recall, fall_out = tp / positives, fp / negatives
        result["ap"] = float(np.sum(np.diff(tp, prepend=0) * (tp / (tp + fp))) / positives)
        result["fpr95"] = float(fall_out[_first_95(tp)])
        heights = (recall + np.append(0.0, recall[:-1])) / 2.0
        result["auroc"] = float(np.sum(np.diff(fall_out, prepend=0.0) * heights))
    return result
