"""95 % confidence intervals by resampling the images of a set (Efron's percentile bootstrap).

Pixels of one image are no independent draws, so images are what is drawn again. Each image is kept as a sparse
histogram; a resample is a weight per image, and its pooled histogram the weighted sum: all resamples are one product of
matrices, a block of buckets at a time. The sums are whole numbers below 2^53, so no order of summing changes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mgcda_core.config import Fpr95Convention
from mgcda_core.evaluation.score_buckets import BUCKETS, Mode, score_bucket
from mgcda_core.labels import ANOMALY, IGNORE

RESAMPLES = 1000
_SEED = 0
_BUCKETS = 1 << 16
"""16 of the pixel metrics' buckets each: 128 between a score and its double, far finer than any interval is wide."""
_BLOCK = 512

Interval = tuple[float, float]


@dataclass(frozen=True)
class Histogram:
    """One image's counted pixels in its filled buckets, ascending scores."""

    bucket: np.ndarray
    """int32 [n], unique, in [0, 65536)."""
    normal: np.ndarray
    """int32 [n] pixels of label 0; some of the n may be 0 here or in `anomalous`."""
    anomalous: np.ndarray


def histogram(score: np.ndarray, label: np.ndarray, mode: Mode) -> Histogram:
    """Histogram of one image: `score` float [H, W] without NaN, `label` [H, W] in {0, 1, 255}."""
    counted = label != IGNORE
    bucket = score_bucket(score[counted].astype(np.float32, copy=False), mode) // (BUCKETS // _BUCKETS)
    side = (label[counted] == ANOMALY) * np.int64(_BUCKETS)
    normal, anomalous = np.bincount(bucket + side, minlength=2 * _BUCKETS).reshape(2, _BUCKETS)
    filled = np.flatnonzero(normal + anomalous)
    return Histogram(*(part.astype(np.int32) for part in (filled, normal[filled], anomalous[filled])))


def pooled_intervals(
    images: Sequence[Histogram], resamples: int = RESAMPLES, convention: Fpr95Convention = "first_ge"
) -> dict[str, Interval | None]:
    """Intervals of the pooled "ap", "fpr95" and "auroc".

    None for fewer than two images, or where no resample has both labels; resamples that lack one are left out.
    """
    if len(images) < 2:
        return dict.fromkeys(("ap", "fpr95", "auroc"))
    weights = _weights(len(images), resamples)
    positives = weights @ [float(h.anomalous.sum()) for h in images]
    negatives = weights @ [float(h.normal.sum()) for h in images]
    usable = (positives > 0) & (negatives > 0)
    weights, positives, negatives = weights[usable], positives[usable], negatives[usable]
    filled = np.unique(np.concatenate([h.bucket for h in images]))
    tp, fp, ap, auroc = np.zeros((4, len(weights)))
    crossing = _Crossing(positives, convention)
    for last in range(len(filled), 0, -_BLOCK):  # the highest scores first
        new_fp, new_tp = (weights @ counts for counts in _dense(images, filled[max(last - _BLOCK, 0) : last]))
        tps, fps = tp[:, None] + new_tp.cumsum(1), fp[:, None] + new_fp.cumsum(1)
        ap += (new_tp * (tps / np.maximum(tps + fps, 1.0))).sum(1)
        auroc += (new_fp * (tps - new_tp / 2.0)).sum(1)
        crossing.update(tps, fps, tps - new_tp)
        tp, fp = tps[:, -1], fps[:, -1]
    values = {"ap": ap / positives, "fpr95": crossing.fp / negatives, "auroc": auroc / (positives * negatives)}
    return {name: _interval(value) for name, value in values.items()}


def mean_interval(values: Sequence[float | None], resamples: int = RESAMPLES) -> Interval | None:
    """Interval of the mean over images; those without a value (None) are drawn, but left out of the mean."""
    if len(values) < 2:
        return None
    weights = _weights(len(values), resamples)
    given = np.array([value is not None for value in values], float)
    counts = weights @ given
    totals = weights @ np.array([value or 0.0 for value in values])
    return _interval(totals[counts > 0] / counts[counts > 0])


class _Crossing:
    """False positives at 95 % recall of every resample, from curves that come in pieces, the highest score first."""

    def __init__(self, positives: np.ndarray, convention: Fpr95Convention) -> None:
        self._positives, self._nearest = positives[:, None], convention == "nearest"
        self.fp = np.zeros(len(positives))
        self._distance = np.full(len(positives), np.inf)

    def update(self, tps: np.ndarray, fps: np.ndarray, tps_before: np.ndarray) -> None:
        """All float64 [resamples, buckets], cumulated from the first piece on; `tps_before` without the own bucket."""
        recall = tps / self._positives
        # Both conventions are a smallest distance (`fpr95_index` has them). Of first_ge every recall from 0.95 on is
        # as good, and the first counts; of nearest the last of equals, but none once all positives are found.
        distance = np.where(recall >= 0.95, 0.0, np.inf)
        if self._nearest:
            distance = np.where(tps_before < self._positives, np.abs(recall - 0.95), np.inf)
        at = distance.shape[1] - 1 - distance[:, ::-1].argmin(1) if self._nearest else distance.argmin(1)
        rows = np.arange(len(at))
        found = distance[rows, at]
        better = found <= self._distance if self._nearest else found < self._distance
        self.fp = np.where(better, fps[rows, at], self.fp)
        self._distance = np.where(better, found, self._distance)


def _weights(images: int, resamples: int) -> np.ndarray:
    """How often each resample holds each image: float64 [resamples, images], the same in every run."""
    rng = np.random.default_rng(_SEED)
    return rng.multinomial(images, np.full(images, 1.0 / images), size=resamples).astype(np.float64)


def _dense(images: Sequence[Histogram], buckets: np.ndarray) -> np.ndarray:
    """Normal and anomalous counts in `buckets` (ascending), the highest first: float64 [2, images, buckets]."""
    counts = np.zeros((2, len(images), len(buckets)))
    for number, image in enumerate(images):
        part = slice(*np.searchsorted(image.bucket, (buckets[0], buckets[-1] + 1)))
        columns = np.searchsorted(buckets, image.bucket[part])
        counts[0, number, columns], counts[1, number, columns] = image.normal[part], image.anomalous[part]
    return counts[:, :, ::-1]


def _interval(values: np.ndarray) -> Interval | None:
    if not values.size:
        return None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)
