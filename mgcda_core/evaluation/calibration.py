"""The operating point for a wanted false positive rate on road, and how far a score is a probability.

Everything is counted in histograms (`score_bucket`), so the memory does not grow with the pixels. Only the road scores
are kept scene by scene, some thousand filled bins each, because the intervals resample scenes: the pixels of one scene
are right and wrong together, and an interval over pixels would be far too narrow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from mgcda_core.config import ConfigError
from mgcda_core.data.sample import DataError
from mgcda_core.evaluation.pixel_metrics import BUCKETS, PixelMetrics, bucket_threshold, score_bucket
from mgcda_core.labels import ANOMALY, NORMAL

STEP = 16
"""Buckets of `score_bucket` in one bin of a threshold: 256 bins from each power of 1/2 to the next, of the score below
0.5 and of 1 - score above; 0.001 wide between 0.5 and 0.75, finer towards 0 and 1."""
_TOP = int(score_bucket(np.ones(1, np.float32), "unit")[0]) // STEP
FEW_SCENES = 10
"""Fewer scenes with a false positive than this cannot say how often one occurs."""


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and what it does to the composites it was chosen on; rates are fractions."""

    threshold: float
    """Score in [0, 1] at and above which a pixel is masked; a float32 value."""
    threshold_interval: tuple[float, float] | None
    """95 % bootstrap interval over the scenes; None for fewer than two."""
    fpr_wanted: float
    road_fpr: float
    """Share of the road pixels that is masked; at most `fpr_wanted`."""
    road_fpr_interval: tuple[float, float] | None
    """The same interval of the rate at this threshold."""
    road_fpr_below: float
    """The rate at the next lower threshold that changes it, above `fpr_wanted`."""
    pixel_recall: float | None
    """Share of the anomalous pixels that is masked; None without any."""
    object_recall: float | None
    """Share of the objects of which at least a quarter is masked."""
    objects: int
    """8-connected regions of anomalous pixels."""
    images: int
    scenes: int
    """Scenes with a road pixel; several images may be of one."""
    road_pixels: int
    scenes_with_false_positives: int

    def notes(self) -> list[str]:
        """What a reader should know before trusting the threshold, in sentences."""
        notes = []
        if self.scenes < 2:
            notes.append("one scene alone gives no interval")
        if self.fpr_wanted * self.road_pixels < 1:
            notes.append(f"the wanted rate is finer than one of the {self.road_pixels} road pixels: the threshold lies "
                         "just above the highest road score seen; where it should lie is not known")  # fmt: skip
        elif 2 * self.road_fpr < self.fpr_wanted:
            notes.append("many road pixels share one score: the next lower threshold has a rate of "
                         f"{100 * self.road_fpr_below:.3g} %")  # fmt: skip
        elif self.scenes_with_false_positives < FEW_SCENES:
            notes.append(f"the false positives lie in {self.scenes_with_false_positives} of {self.scenes} scenes, too "
                         "few to resolve the wanted rate: take more scenes")  # fmt: skip
        return notes


class ThresholdSearch:
    """Collects scores image by image, and then finds the threshold for a wanted false positive rate."""

    def __init__(self) -> None:
        self.images = 0
        self._road: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
        self._anomalous = np.zeros(BUCKETS // STEP, np.int64)
        self._objects: list[float] = []

    def update(self, scene: str, score: np.ndarray, label: np.ndarray, road: np.ndarray) -> None:
        """Add one image: score float32 [H, W] in [0, 1], label uint8 [H, W] in {0, 1, 255}, road bool [H, W].

        `scene` names what the image was made of: images of one scene are resampled together.
        """
        self.images += 1
        counts = np.bincount(score_bucket(score[road & (label == NORMAL)], "unit") // STEP)
        if counts.size:
            filled = np.flatnonzero(counts)
            self._road.setdefault(scene, []).append((filled.astype(np.int32), counts[filled].astype(np.int32)))
        found = score_bucket(score[label == ANOMALY], "unit") // STEP
        self._anomalous += np.bincount(found, minlength=self._anomalous.size)
        self._objects += found_up_to(score, label)

    def choose(self, fpr: float, resamples: int = 1000, seed: int = 0) -> OperatingPoint:
        """The lowest threshold (to one bin, see `STEP`) at which at most the share `fpr` of the road is masked.

        Raises ConfigError unless 0 < fpr < 1, DataError without a road pixel, or if more than that share of the road
        has the score 1, which no threshold leaves out.
        """
        if not 0 < fpr < 1:
            raise ConfigError(f"fpr is {fpr}: it must lie between 0 and 1, both left out")
        if not self._road:
            raise DataError(f"no road pixel in {self.images} images: the labels hold no train id 0; take other scenes")
        bins, above = self._above()
        pooled = above.sum(0)
        place = int((pooled / pooled[0] > fpr).sum())
        if bins[place] > _TOP:
            raise DataError(f"{100 * pooled[place - 1] / pooled[0]:.3g} % of the road pixels have the score 1, no "
                            f"threshold gives a rate of {100 * fpr:.3g} %: the score is saturated")  # fmt: skip
        threshold = _lowest(bins[place])
        intervals = _intervals(above, bins, place, fpr, resamples, seed) if len(above) > 1 else (None, None)
        anomalous = int(self._anomalous.sum())
        return OperatingPoint(
            threshold=threshold,
            threshold_interval=intervals[0],
            fpr_wanted=fpr,
            road_fpr=float(pooled[place] / pooled[0]),
            road_fpr_interval=intervals[1],
            road_fpr_below=float(pooled[place - 1] / pooled[0]),
            pixel_recall=float(self._anomalous[bins[place] :].sum() / anomalous) if anomalous else None,
            object_recall=float(np.mean(np.array(self._objects) >= threshold)) if self._objects else None,
            objects=len(self._objects),
            images=self.images,
            scenes=len(above),
            road_pixels=int(pooled[0]),
            scenes_with_false_positives=int((above[:, place] > 0).sum()),
        )

    def road_fpr(self, threshold: float) -> float:
        """Share of the road pixels that another threshold in [0, 1] masks, to one bin; there has to be some road."""
        bins, above = self._above()
        reached = int(score_bucket(np.array([threshold], np.float32), "unit")[0]) // STEP
        pooled = above.sum(0)
        return float(pooled[np.searchsorted(bins, reached, "right") - 1] / pooled[0])

    def _above(self) -> tuple[np.ndarray, np.ndarray]:
        """Bins int [n + 1] at which a rate changes, from 0 up, and float64 [scenes, n + 1]: pixels at or above each."""
        filled = np.unique(np.concatenate([bins for images in self._road.values() for bins, _ in images]))
        counts = np.zeros((len(self._road), filled.size + 1))
        for row, images in zip(counts, self._road.values(), strict=True):
            for bins, pixels in images:
                row[np.searchsorted(filled, bins)] += pixels
        return np.append(0, filled + 1), counts[:, ::-1].cumsum(1)[:, ::-1]


def found_up_to(score: np.ndarray, label: np.ndarray) -> list[float]:
    """For each 8-connected region of label 1 the highest threshold at which at least a quarter of it is masked.

    score float32 [H, W], label uint8 [H, W].
    """
    count, regions, stats, _ = cv2.connectedComponentsWithStats((label == ANOMALY).astype(np.uint8), connectivity=8)
    highest = []
    for number, (x, y, width, height, area) in enumerate(stats[1:count].tolist(), 1):
        window = np.s_[y : y + height, x : x + width]
        rank = area - -(-area // 4)  # ascending: as many pixels as a quarter, rounded up, reach the score of this rank
        highest.append(float(np.partition(score[window][regions[window] == number], rank)[rank]))
    return highest


def _lowest(bin_: int) -> float:
    """Lowest score in a bin."""
    return float(bucket_threshold(bin_ * STEP, "unit"))


def _intervals(
    above: np.ndarray, bins: np.ndarray, place: int, fpr: float, resamples: int, seed: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % percentile intervals over scenes (Efron & Tibshirani 1993, ch. 13): of the threshold for `fpr`, and of the
    rate at the threshold that was chosen."""
    rng, scenes = np.random.default_rng(seed), len(above)
    thresholds, rates = [], []
    for _ in range(resamples):
        drawn = rng.multinomial(scenes, np.full(scenes, 1 / scenes)) @ above
        drawn /= drawn[0]
        thresholds.append(_lowest(min(int(bins[(drawn > fpr).sum()]), _TOP)))
        rates.append(drawn[place])
    low, high = (float(x) for x in np.quantile(thresholds, (0.025, 0.975)))
    least, most = (float(x) for x in np.quantile(rates, (0.025, 0.975)))
    return (low, high), (least, most)


@dataclass(frozen=True)
class Scaling:
    """Logit -> probability sigmoid(logit / temperature + bias) (Platt 1999); above 0 it keeps the ranking."""

    temperature: float = 1.0
    bias: float = 0.0

    def __call__(self, logit: np.ndarray) -> np.ndarray:
        """Probabilities of any array of logits."""
        return _sigmoid(logit / self.temperature + self.bias)


@dataclass(frozen=True)
class Reliability:
    """Score against the share of anomalous pixels, bin by bin (Guo et al., ICML 2017); tuples of one length."""

    ece: float
    """Expected calibration error: mean |score - anomalous share| of the bins, weighted by their pixels."""
    score: tuple[float, ...]
    anomalous: tuple[float, ...]
    pixels: tuple[int, ...]


def reliability(
    metrics: PixelMetrics, bins: int = 15, equal: Literal["mass", "width"] = "mass", scaling: Scaling | None = None
) -> Reliability:
    """Of all pixels in `metrics` (mode "logits"); bins hold equally many of them, or are equally wide.

    Equal scores stay together, so that fewer bins may be filled. Raises DataError without a pixel.
    """
    logit, positives, pixels = _filled(metrics)
    if not pixels.size:
        raise DataError("no counted pixel: every label is 255")
    score = (scaling or Scaling())(logit)
    if equal == "mass":
        which = (bins * (np.cumsum(pixels) - pixels / 2) / pixels.sum()).astype(np.int64)
    else:
        which = np.minimum((bins * score).astype(np.int64), bins - 1)
    count, hits, total = (np.bincount(which, weight, bins) for weight in (pixels, positives, pixels * score))
    kept = count > 0
    mean, share = total[kept] / count[kept], hits[kept] / count[kept]
    ece = float(np.sum(np.abs(mean - share) * count[kept]) / count.sum())
    return Reliability(ece, tuple(mean.tolist()), tuple(share.tolist()), tuple(count[kept].astype(int).tolist()))


def fit_scaling(metrics: PixelMetrics) -> Scaling | None:
    """Temperature and bias of the least cross entropy on all pixels in `metrics` (mode "logits"), by Newton steps.

    None if the pixels are all of one kind, or if a higher logit is no more often anomalous.
    """
    logit, positives, pixels = _filled(metrics)
    p, n = positives.sum(), pixels.sum() - positives.sum()
    if not (p and n):
        return None
    # Platt's targets, a little off 0 and 1: with the labels themselves a separable set would ask for an infinite slope.
    wanted = positives * (p + 1) / (p + 2) + (pixels - positives) / (n + 2)
    x, line = np.stack([logit, np.ones_like(logit)]), np.zeros(2)
    loss = _cross_entropy(line, x, wanted, pixels)
    for _ in range(100):
        probability = _sigmoid(line @ x)
        hessian = (x * (pixels * probability * (1 - probability))) @ x.T
        step = np.linalg.lstsq(hessian, x @ (wanted - pixels * probability), rcond=None)[0]
        while (after := _cross_entropy(line + step, x, wanted, pixels)) > loss:
            step /= 2
        gain, loss, line = loss - after, after, line + step
        if gain <= 1e-12 * loss:
            break
    return Scaling(float(1 / line[0]), float(line[1])) if line[0] > 0 else None


def _cross_entropy(line: np.ndarray, x: np.ndarray, wanted: np.ndarray, pixels: np.ndarray) -> float:
    value = line @ x
    return float(np.sum(pixels * np.logaddexp(0, value) - wanted * value))


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(value, -80, 80)))


def _filled(metrics: PixelMetrics) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logit in [-80, 80], where the score is cut too, anomalous pixels and all pixels of each bucket that has any."""
    filled = np.flatnonzero(metrics.counts.any(0))
    negatives, positives = metrics.counts[:, filled]
    logit = np.clip(np.asarray(bucket_threshold(filled, "logits"), np.float64), -80, 80)
    return logit, positives, positives + negatives
