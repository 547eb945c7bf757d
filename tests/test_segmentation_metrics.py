"""mIoU and open mIoU by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mgcda_core.evaluation.segmentation_metrics import SegmentationMetrics
from mgcda_core.labels import TRAIN_NAMES

ROAD, SIDEWALK, CAR = (TRAIN_NAMES.index(name) for name in ("road", "sidewalk", "car"))
PREDICTED = np.array([[ROAD, ROAD, ROAD, SIDEWALK, CAR, ROAD, CAR, ROAD]], np.uint8)
SEMANTICS = np.array([[ROAD, ROAD, ROAD, ROAD, 255, 255, 255, SIDEWALK]], np.uint8)
LABEL = np.array([[0, 0, 0, 0, 1, 1, 0, 255]], np.uint8)


def measured(mask: list[int]) -> SegmentationMetrics:
    metrics = SegmentationMetrics()
    metrics.update(PREDICTED, SEMANTICS, np.array([mask], bool), LABEL)
    return metrics


def test_missed_anomalies_and_flagged_pixels_cost_open_iou_only() -> None:
    """Road: four pixels, one taken for sidewalk. A missed anomaly is called road, a found one car, one road flagged."""
    scores = measured([0, 0, 1, 0, 1, 0, 0, 0]).compute()
    assert scores.iou["road"] == 3 / 4
    assert scores.iou["sidewalk"] == 0.0  # predicted, never there
    assert scores.iou["car"] is None
    assert scores.miou == pytest.approx(3 / 8)
    assert scores.open_iou["road"] == 2 / 5  # two hits; four true pixels and the missed anomaly
    assert scores.open_iou["sidewalk"] == 0.0
    assert scores.open_iou["car"] is None  # that anomaly was found
    assert scores.open_miou == pytest.approx(1 / 5)


def test_a_missed_anomaly_counts_against_the_class_it_was_given() -> None:
    scores = measured([0] * 8).compute()
    assert scores.open_iou["car"] == 0.0
    assert scores.iou["car"] is None
    assert scores.open_iou["road"] == 3 / 5


def test_a_perfect_mask_makes_both_equal() -> None:
    scores = measured([0, 0, 0, 0, 1, 1, 0, 0]).compute()
    assert scores.open_iou == scores.iou
    assert scores.open_miou == scores.miou


def test_merging_is_pooling_and_nothing_is_nan() -> None:
    both, part = measured([0] * 8), measured([1] * 8)
    both.update(PREDICTED, SEMANTICS, np.ones((1, 8), bool), LABEL)
    part.merge(measured([0] * 8))
    assert part.compute() == both.compute()
    assert math.isnan(SegmentationMetrics().compute().miou)


def test_bad_input_is_named() -> None:
    metrics, mask = SegmentationMetrics(), np.zeros((1, 8), bool)
    with pytest.raises(ValueError, match="prediction holds 19"):
        metrics.update(np.full_like(PREDICTED, 19), SEMANTICS, mask, LABEL)
    with pytest.raises(ValueError, match="semantics hold 33"):
        metrics.update(PREDICTED, np.full_like(SEMANTICS, 33), mask, LABEL)
    with pytest.raises(ValueError, match="value 2"):
        metrics.update(PREDICTED, SEMANTICS, mask, np.full_like(LABEL, 2))
    with pytest.raises(ValueError, match=r"\(1, 3\).*must be equal"):
        metrics.update(PREDICTED, SEMANTICS, mask[:, :3], LABEL)
