"""SegmentMeIfYouCan's component metrics: are whole objects found, and how much of what is found is one (spec 5.3).

Source: Chan et al., SegmentMeIfYouCan, NeurIPS 2021 Datasets and Benchmarks, and the public road-anomaly-benchmark.
Components are 8-connected. Pixels with label 255 are no part of a prediction. Predicted components below the track's
size are removed; ground-truth components below it are ignored, as if labelled 255.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from mgcda_core.evaluation.pixel_metrics import counted_pixels
from mgcda_core.evaluation.results import ComponentScores
from mgcda_core.labels import ANOMALY, IGNORE

Track = Literal["anomaly", "obstacle"]
SMALLEST: dict[Track, tuple[int, int]] = {"anomaly": (500, 100), "obstacle": (50, 10)}
"""Pixels of the smallest predicted and the smallest ground-truth component that count."""
SIOU_THRESHOLDS = np.linspace(0.25, 0.75, 11)


@dataclass(frozen=True)
class Components:
    """The components of one image; arrays in raster order of each component's first pixel."""

    siou: np.ndarray
    """float [ground-truth components]: how well the predictions that touch it cover it, in [0, 1]."""
    size: np.ndarray
    """int [ground-truth components], pixels."""
    ppv: np.ndarray
    """float [predicted components]: share that lies on ground truth."""
    predicted_siou: np.ndarray
    """float [predicted components]: sIoU with the roles exchanged."""
    predicted_size: np.ndarray
    """int [predicted components], pixels that count."""


def match(mask: np.ndarray, label: np.ndarray, track: Track) -> Components:
    """Components of one image: `mask` bool [H, W], `label` [H, W] in {0, 1, 255}, and how they cover each other."""
    smallest_predicted, smallest_object = SMALLEST[track]
    objects, _ = _large_components(label == ANOMALY, smallest_object)
    predictions, _ = _large_components(mask & (label != IGNORE), smallest_predicted)
    # What is left of label 1 outside the objects was too small: it is ignored, for the predictions too. None of them
    # vanishes by that: one that lay on small ground truth alone would itself be too small.
    predictions[(label == ANOMALY) & (objects == 0)] = 0
    size, predicted_size = (np.bincount(part[part > 0], minlength=1)[1:] for part in (objects, predictions))
    both = (objects > 0) & (predictions > 0)
    width = predicted_size.size + 1
    pairs, pixels = np.unique(objects[both].astype(np.int64) * width + predictions[both], return_counts=True)
    k, j = pairs // width - 1, pairs % width - 1
    on_prediction = np.bincount(k, pixels, size.size)
    on_object = np.bincount(j, pixels, predicted_size.size)
    return Components(
        siou=on_prediction / (size + np.bincount(k, (predicted_size - on_object)[j], size.size)),
        size=size,
        ppv=on_object / predicted_size,
        predicted_siou=on_object / (predicted_size + np.bincount(j, (size - on_prediction)[k], predicted_size.size)),
        predicted_size=predicted_size,
    )


def object_rows(mask: np.ndarray, label: np.ndarray) -> tuple[int, int, int]:
    """(objects, missed objects, pixels of the largest missed one) of one image, as `ImageRow` defines them.

    `mask` is bool [H, W], `label` [H, W] in {0, 1, 255}. Objects are regions of label 1 of any size; one is missed if
    less than a quarter of it is in the mask.
    """
    objects, size = _large_components(label == ANOMALY, 1)
    covered = np.bincount(objects[mask], minlength=size.size + 1)[1:]
    missed = size[4 * covered < size]
    return size.size, missed.size, int(missed.max(initial=0))


class ComponentMetrics:
    """Component metrics of a set at one threshold; images are counted together before any F1 is taken."""

    def __init__(self, track: Track, threshold: float, literal: bool = False) -> None:
        """`threshold` is compared in float32; literal: with `score > threshold` as the public tool does, not >=."""
        if track not in SMALLEST:
            raise ValueError(f"track is {track!r}; it must be anomaly or obstacle")
        self.track: Track = track
        self.threshold = float(np.float32(threshold))
        self.literal = literal
        self._images: list[Components] = []
        self._counted = self._at_threshold = 0

    def update(self, score: np.ndarray, label: np.ndarray) -> None:
        """Add one image: `score` float [H, W], `label` [H, W] in {0, 1, 255}; the errors of `pixel_metrics.exact`."""
        counted, _ = counted_pixels(score, label)
        threshold = np.float32(self.threshold)
        self._counted += counted.size
        self._at_threshold += int((counted == threshold).sum())
        score = score.astype(np.float32, copy=False)
        self._images.append(match(score > threshold if self.literal else score >= threshold, label, self.track))

    def merge(self, other: ComponentMetrics) -> None:
        """Add the images of another accumulator of the same track, threshold and rule; order does not matter."""
        for name in ("track", "threshold", "literal"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"cannot merge component metrics of another {name}")
        self._images += other._images
        self._counted += other._counted
        self._at_threshold += other._at_threshold

    def compute(self) -> ComponentScores:
        """sIoU over the ground-truth components, PPV over the predicted ones, F1 at each sIoU; NaN where undefined.

        An F1 is 2 TP / (2 TP + FN + FP): TP and FN are ground-truth components of sIoU >= t and < t, FP are predicted
        ones of PPV < t.
        """
        siou, ppv = (np.sort(self.pooled(name)) for name in ("siou", "ppv"))  # so that no order of images shows
        f1 = [f1_score(*counts) for counts in match_counts(siou, ppv)]
        return ComponentScores(
            track=self.track,
            threshold=self.threshold,
            mean_f1=float(np.mean(f1)),
            siou=mean_or_nan(siou),
            ppv=mean_or_nan(ppv),
            f1={f"{t:.2f}": value for t, value in zip(SIOU_THRESHOLDS, f1, strict=True)},
            objects=siou.size,
            predictions=ppv.size,
            at_threshold=self._at_threshold / self._counted if self._counted else 0.0,
        )

    def pooled(self, name: Literal["siou", "size", "ppv", "predicted_siou", "predicted_size"]) -> np.ndarray:
        """One array of `Components` over all images."""
        return np.concatenate([np.empty(0), *(getattr(image, name) for image in self._images)])


def match_counts(siou: np.ndarray, ppv: np.ndarray) -> list[tuple[int, int, int]]:
    """(TP, FN, FP) at each of `SIOU_THRESHOLDS`."""
    return [(int((siou >= t).sum()), int((siou < t).sum()), int((ppv < t).sum())) for t in SIOU_THRESHOLDS]


def f1_score(tp: int, fn: int, fp: int) -> float:
    """2 TP / (2 TP + FN + FP); NaN without any component."""
    return 2 * tp / (2 * tp + fn + fp) if tp + fn + fp else float("nan")


def mean_or_nan(values: np.ndarray) -> float:
    """NaN, without a warning, of nothing."""
    return float(values.mean()) if values.size else float("nan")


def _large_components(mask: np.ndarray, smallest: int) -> tuple[np.ndarray, np.ndarray]:
    """int32 [H, W], 0 or the number of the component of at least `smallest` pixels, from 1 on, and their sizes."""
    # This algorithm numbers components in raster order of their first pixel, cv2's default one does not.
    total, labels, stats, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask.astype(np.uint8), 8, cv2.CV_32S, cv2.CCL_WU
    )
    sizes = stats[:, cv2.CC_STAT_AREA]
    kept = sizes >= smallest
    kept[0] = False
    numbers = np.zeros(total, np.int32)
    numbers[kept] = np.arange(1, kept.sum() + 1)
    return numbers[np.asarray(labels, np.int32)], sizes[kept].astype(np.int64)
