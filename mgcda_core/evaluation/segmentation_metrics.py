"""mIoU of the segmentation network, and what is left of it once anomalies are part of the world (open mIoU).

Source of the open mIoU: Grcic et al., DenseHybrid, ECCV 2022: an anomaly that was missed is a false positive of the
class it was given, a known pixel taken for an anomaly a false negative of its own class.
"""

from __future__ import annotations

import numpy as np

from mgcda_core.evaluation.results import SegmentationScores
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL, TRAIN_NAMES

_CLASSES = len(TRAIN_NAMES)
_UNKNOWN = _CLASSES  # row of the anomalies


class SegmentationMetrics:
    """Accumulates one confusion matrix of the pixels the mask passes and one of those it takes for anomalies."""

    def __init__(self) -> None:
        self._counts = np.zeros((2, _CLASSES + 1, _CLASSES), np.int64)
        """[in the mask, true class (anomalies last), predicted class]"""

    def update(self, predicted: np.ndarray, semantics: np.ndarray, mask: np.ndarray, label: np.ndarray) -> None:
        """Add one image, all [H, W].

        `predicted` holds train ids 0..18, `semantics` train ids or 255 where there is none, `mask` bool what is taken
        for an anomaly, `label` 0 normal, 1 anomaly, 255 ignore. Counted are anomalies and normal pixels with a class.
        Raises ValueError for unequal shapes and other values.
        """
        shapes = [array.shape for array in (predicted, semantics, mask, label)]
        if len(set(shapes)) > 1:
            raise ValueError(f"prediction, semantics, mask and label have the shapes {shapes}; they must be equal")
        if predicted.size and predicted.max() >= _CLASSES:
            raise ValueError(f"the prediction holds {predicted.max()}; only train ids 0 to {_CLASSES - 1} are classes")
        others = np.setdiff1d(semantics, [*range(_CLASSES), IGNORE])
        if others.size:
            raise ValueError(f"semantics hold {others[0]}; only train ids 0 to {_CLASSES - 1} and 255 have a meaning")
        others = np.setdiff1d(label, [NORMAL, ANOMALY, IGNORE])
        if others.size:
            raise ValueError(f"label holds the value {others[0]}; only 0 (normal), 1 (anomaly) and 255 (ignore) count")
        truth = np.where(label == NORMAL, semantics, IGNORE)
        truth[label == ANOMALY] = _UNKNOWN
        counted = truth != IGNORE
        cell = (mask[counted] * (_CLASSES + 1) + truth[counted]) * np.int64(_CLASSES) + predicted[counted]
        self._counts += np.bincount(cell, minlength=self._counts.size).reshape(self._counts.shape)

    def merge(self, other: SegmentationMetrics) -> None:
        """Add the counts of another accumulator, for example of a second process; order does not matter."""
        self._counts += other._counts

    def compute(self) -> SegmentationScores:
        """IoU of each class and their means; a class that is neither in the truth nor predicted has none.

        Which pixels a class is predicted on differs between the two: only the open one counts anomalies.
        """
        known = self._counts[:, :_CLASSES]
        truth = known.sum(axis=(0, 2))
        closed = known.sum(axis=0)
        iou = _iou(closed.diagonal(), truth, closed.sum(axis=0))
        passed = self._counts[0]
        open_iou = _iou(passed[:_CLASSES].diagonal(), truth, passed.sum(axis=0))
        return SegmentationScores(miou=_mean(iou), open_miou=_mean(open_iou), iou=iou, open_iou=open_iou)


def _iou(hits: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
    union = truth + predicted - hits
    return {name: float(h / u) if u else None for name, h, u in zip(TRAIN_NAMES, hits, union, strict=True)}


def _mean(iou: dict[str, float | None]) -> float:
    values = [value for value in iou.values() if value is not None]
    return float(np.mean(values)) if values else float("nan")
