"""Pixel-wise AP, FPR95 and AUROC of anomaly scores pooled over a whole set (spec 5.1, 5.2).

Convention of every number: label 1 is positive, 0 negative, 255 left out; a higher score is more anomalous; equal
scores are one tie group; AP is the step sum (as in scikit-learn); FPR95 is the false positive rate at the first
threshold whose recall reaches 0.95 (Fishyscapes) unless another convention is asked for by name (`fpr95_index` has
them). Never average these over images: pool, as `PixelMetrics` does.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mgcda_core.config import Fpr95Convention
from mgcda_core.evaluation.pixel_curve import (
    PixelScores,
    ap_bound,
    best_f1_index,
    fpr95_bound,
    fpr95_index,
    pixel_scores,
    shared_histogram,
    thin,
)
from mgcda_core.evaluation.results import Curves
from mgcda_core.evaluation.score_buckets import BUCKETS, LOW_BITS, Mode, bucket_threshold, score_bucket, score_key
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL

__all__ = [
    "BUCKETS",
    "ExactMetrics",
    "Fpr95SecondPass",
    "PixelMetrics",
    "PixelScores",
    "bucket_threshold",
    "counted_pixels",
    "exact",
    "score_bucket",
]
_AT_A_TIME = 1 << 16  # pixels whose keys stay in the processor's cache


def exact(score: np.ndarray, label: np.ndarray, convention: Fpr95Convention = "first_ge") -> PixelScores:
    """Exact metrics of one array of scores (spec 5.1).

    `score` is any float array (cast to float32), `label` of the same shape with the values 0, 1, 255. Both bounds of
    the result are 0. Raises ValueError for NaN scores under a counted label, other label values, unequal shapes.
    """
    metrics = ExactMetrics()
    metrics.update(score, label)
    return metrics.compute(convention)


class ExactMetrics:
    """Exact metrics by keeping every counted score, 4 bytes a pixel, and sorting once (spec 5.1)."""

    def __init__(self) -> None:
        self.pixels = 0
        self._positives: list[np.ndarray] = []
        self._negatives: list[np.ndarray] = []

    def update(self, score: np.ndarray, label: np.ndarray) -> None:
        """Add one image; the arguments and errors of `exact`."""
        counted, positive = counted_pixels(score, label)
        self._positives.append(counted[positive])
        self._negatives.append(counted[~positive])
        self.pixels += counted.size

    def merge(self, other: ExactMetrics) -> None:
        """Add the scores of another accumulator, for example of a second process; order does not matter."""
        self._positives += other._positives
        self._negatives += other._negatives
        self.pixels += other.pixels

    def compute(self, convention: Fpr95Convention = "first_ge") -> PixelScores:
        """Metrics of everything added so far; both bounds are 0."""
        positives, negatives = (
            np.sort(np.concatenate(part or [np.empty(0, np.float32)])) for part in (self._positives, self._negatives)
        )
        # Recall only changes at a positive's score. Each gives two points: just above it, where the negatives between
        # it and the next higher positive are counted, and at it; a last one adds the negatives below all of them.
        values, counts = np.unique(positives, return_counts=True)
        at, above = (negatives.size - np.searchsorted(negatives, values, side)[::-1] for side in ("left", "right"))
        tp = np.concatenate([[0], np.repeat(np.cumsum(counts[::-1]), 2)])
        fp = np.append(np.stack([above, at], axis=1).ravel(), negatives.size)
        return pixel_scores(tp, fp, convention)


class PixelMetrics:
    """Bounded-memory metrics: two histograms over 2^20 order-preserving buckets, 16 MiB whatever the set (spec 5.2).

    mode "logits" takes unbounded scores (logits, energy, max-logit), mode "unit" scores that exist only in [0, 1]
    (softmax probabilities). A bucket counts as one tie group; `compute` says by how much that can have changed AP and
    FPR95, `fpr95_second_pass` makes FPR95 exact.
    """

    def __init__(self, mode: Mode = "logits") -> None:
        if mode not in LOW_BITS:
            raise ValueError(f"mode is {mode!r}; it must be 'logits' (unbounded scores) or 'unit' (scores in [0, 1])")
        self.mode: Mode = mode
        self.positives = np.zeros(BUCKETS, np.int64)
        self.negatives = np.zeros(BUCKETS, np.int64)

    @property
    def counts(self) -> np.ndarray:
        """int64 [2, 2^20]: negatives and positives of each bucket."""
        return np.stack([self.negatives, self.positives])

    def update(self, score: np.ndarray, label: np.ndarray) -> None:
        """Add one image: `score` float [H, W], `label` [H, W] in {0, 1, 255}.

        Raises ValueError for NaN scores under a counted label, other label values, unequal shapes, and in mode "unit"
        for scores outside [0, 1]. The state is unchanged after an error.
        """
        pieces = _pieces(*counted_pixels(score, label))
        for bucket, positive in [(score_bucket(counted, self.mode), positive) for counted, positive in pieces]:
            np.add.at(self.positives, bucket[positive], 1)
            np.add.at(self.negatives, bucket[~positive], 1)

    def merge(self, other: PixelMetrics) -> None:
        """Add the counts of another accumulator, for example of a second process; order does not matter."""
        if other.mode != self.mode:
            raise ValueError(f"cannot merge metrics of mode {other.mode!r} into mode {self.mode!r}")
        self.positives += other.positives
        self.negatives += other.negatives

    def compute(self, convention: Fpr95Convention = "first_ge") -> PixelScores:
        """Metrics of everything added so far, with the largest possible error of AP and FPR95 against `exact`."""
        _, tp, fp = self._curve()
        result = pixel_scores(tp, fp, convention)
        if result["reason"] is None:
            result["ap_bound"] = ap_bound(tp, fp)
            result["fpr95_bound"] = fpr95_bound(tp, fp, convention)
        return result

    def curves(self, points: int = 512, bins: int = 100) -> Curves:
        """Curves of about `points` points and histograms of `bins` bins; ValueError for a one-sided set.

        The histograms span the central 99.8 % of each side, what lies outside is counted in the outermost bins.
        """
        filled, tp, fp = self._two_sided_curve()
        kept, rising = thin(tp, fp, points), filled[::-1]
        edges, normal, anomalous = shared_histogram(
            bucket_threshold(rising, self.mode), self.positives[rising], self.negatives[rising], bins
        )
        columns = (
            bucket_threshold(filled[kept], self.mode),
            tp[kept] / (tp[kept] + fp[kept]),
            tp[kept] / tp[-1],
            fp[kept] / fp[-1],
            edges,
            normal,
            anomalous,
        )
        return Curves(*(tuple(float(v) for v in column) for column in columns))

    def best_f1_threshold(self) -> float:
        """The float32 score t for which `score >= t` has the highest pixel F1, the highest of equals.

        Raises ValueError for a set without positives or without negatives.
        """
        filled, tp, fp = self._two_sided_curve()
        return float(bucket_threshold(filled[best_f1_index(tp, fp)], self.mode))

    def fpr95_second_pass(self) -> Fpr95SecondPass:
        """What makes FPR95 exact if it is shown the same images again; ValueError for a one-sided set."""
        return Fpr95SecondPass(self.mode, *self._two_sided_curve())

    def _curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Filled buckets, the highest first, and the true and false positives down to each."""
        filled = np.flatnonzero(self.positives + self.negatives)[::-1]
        return filled, np.cumsum(self.positives[filled]), np.cumsum(self.negatives[filled])

    def _two_sided_curve(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        filled, tp, fp = self._curve()
        reason = pixel_scores(tp, fp, "first_ge")["reason"]
        if reason is not None:
            raise ValueError(f"there is no curve: {reason}")
        return filled, tp, fp


class Fpr95SecondPass:
    """Exact FPR95 of a set seen before: the scores within the two buckets that can hold its threshold (spec 5.2).

    Those are the bucket in which recall passes 0.95 and, for the nearest recall, the next lower one with a positive;
    within a bucket every score has a key of its own.
    """

    def __init__(self, mode: Mode, filled: np.ndarray, tp: np.ndarray, fp: np.ndarray) -> None:
        self.mode: Mode = mode
        self._positives, self._negatives = int(tp[-1]), int(fp[-1])
        crossing = fpr95_index(tp, self._positives, "first_ge")
        following = min(int(np.searchsorted(tp, tp[crossing], side="right")), tp.size - 1)
        watched = sorted({crossing, following})
        self._watched = filled[watched]
        own = np.diff([fp, tp], axis=1, prepend=0)
        self._expected = own[:, watched].T
        """Negatives and positives of each watched bucket."""
        self._above = np.stack([fp, tp], axis=1)[watched] - self._expected
        """The same of everything above it."""
        self._counts = np.zeros((len(watched), 2, 1 << LOW_BITS[mode]), np.int64)

    def update(self, score: np.ndarray, label: np.ndarray) -> None:
        """Add one image of the first pass again; the arguments and errors of `PixelMetrics.update`."""
        counted, positive = counted_pixels(score, label)
        keys = np.concatenate([score_key(piece, self.mode) for piece, _ in _pieces(counted, positive)] or [counted])
        buckets = keys >> LOW_BITS[self.mode]
        for bucket, counts in zip(self._watched, self._counts, strict=True):
            inside = np.flatnonzero(buckets == bucket)
            low = keys[inside] & (counts.shape[1] - 1)
            np.add.at(counts, (positive[inside].astype(np.int64), low), 1)

    def merge(self, other: Fpr95SecondPass) -> None:
        """Add the counts of another second pass over the same first one, for example of a second process."""
        if not np.array_equal(self._watched, other._watched):
            raise ValueError("cannot merge second passes over different first ones")
        self._counts += other._counts

    def compute(self, convention: Fpr95Convention = "first_ge") -> float:
        """FPR95 as a fraction; ValueError if other scores were added than in the first pass."""
        if not np.array_equal(self._counts.sum(axis=2), self._expected):
            raise ValueError("the second pass saw other scores than the first; show it the same images once each")
        within = np.cumsum(self._counts[:, :, ::-1], axis=2)
        groups = [np.concatenate([above[:, None], above[:, None] + w], axis=1)
                  for above, w in zip(self._above, within, strict=True)]  # fmt: skip
        fp, tp = np.concatenate(groups, axis=1)
        return float(fp[fpr95_index(tp, self._positives, convention)] / self._negatives)


def _pieces(*arrays: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """The same pieces of each flat array, small enough for the processor's cache."""
    for first in range(0, arrays[0].size, _AT_A_TIME):
        yield tuple(array[first : first + _AT_A_TIME] for array in arrays)


def counted_pixels(score: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The pixels with label 0 or 1, flat: float32 scores and bool positives; the errors of `exact`."""
    score, label = np.asarray(score), np.asarray(label)
    if score.shape != label.shape:
        raise ValueError(f"score has shape {score.shape} but label has shape {label.shape}; they must be equal")
    positive, negative = label == ANOMALY, label == NORMAL
    keep = positive | negative
    others = label[~(keep | (label == IGNORE))]
    if others.size:
        raise ValueError(f"label holds the value {others.flat[0]}; only 0 (normal), 1 (anomaly) and 255 (ignore) count")
    counted = score[keep].astype(np.float32, copy=False)
    nan = np.isnan(counted)
    if nan.any():
        raise ValueError(f"{int(nan.sum())} of {counted.size} scores are NaN; check the network's output")
    return counted, positive[keep]
