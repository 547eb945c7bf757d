"""Component metrics: the specification's anchors, a literal reading of the definitions, and the rules one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mgcda_core.evaluation.component_metrics import SMALLEST, ComponentMetrics, Track, match, object_rows

EIGHT = np.ones((3, 3))


def image(height: int = 100, width: int = 100, **boxes: list[tuple[int, int, int, int]]) -> dict[str, np.ndarray]:
    """Label maps with a box (y, x, height, width) of 1 or 255 for each `anomaly` or `ignore`, masks for each `mask`."""
    label, mask = np.zeros((height, width), np.uint8), np.zeros((height, width), bool)
    for name, array, value in (("anomaly", label, 1), ("mask", mask, True), ("ignore", label, 255)):
        for y, x, h, w in boxes.get(name, []):
            array[y : y + h, x : x + w] = value
    return {"mask": mask, "label": label}


def scores(drawing: dict[str, np.ndarray], track: Track = "anomaly") -> ComponentMetrics:
    metrics = ComponentMetrics(track, 0.5)
    metrics.update(drawing["mask"].astype(np.float32), drawing["label"])
    return metrics


def test_two_objects_under_one_prediction() -> None:
    """Appendix D, smiyc.siou: what lies on the other object is not held against this one."""
    found = scores(image(anomaly=[(20, 10, 30, 30), (20, 44, 30, 30)], mask=[(20, 10, 30, 64)])).compute()
    assert (found.objects, found.predictions) == (2, 1)
    assert found.siou == pytest.approx(900 / 1020, abs=1e-15)
    assert found.ppv == 0.9375
    assert found.mean_f1 == 1.0


def test_a_prediction_is_false_where_its_precision_is_below_the_threshold() -> None:
    """Appendix D, smiyc.fp: PPV 0.5 is a false positive from 0.55 on; sIoU 0.5 is a miss from there on, too."""
    f1 = scores(image(anomaly=[(10, 10, 30, 30)], mask=[(10, 10, 30, 60)])).compute().f1
    assert {t for t, value in f1.items() if value == 1.0} == {"0.25", "0.30", "0.35", "0.40", "0.45", "0.50"}
    assert all(value == 0.0 for t, value in f1.items() if t > "0.50")
    assert len(f1) == 11


@pytest.mark.parametrize("track", ["anomaly", "obstacle"])
def test_small_predictions_go_and_small_objects_are_ignored(track: Track) -> None:
    predicted, truth = SMALLEST[track]
    on_line = image(700, 100, anomaly=[(0, 0, truth - 1, 1), (0, 10, truth, 1)],
                    mask=[(0, 50, predicted - 1, 1), (0, 60, predicted, 1)])  # fmt: skip
    components = match(on_line["mask"], on_line["label"], track)
    assert components.size.tolist() == [truth]
    assert components.predicted_size.tolist() == [predicted]
    over = image(700, 100, anomaly=[(5, 5, truth - 1, 1)], mask=[(0, 0, 600, 20)])
    ignored = match(over["mask"], over["label"], track)
    assert ignored.predicted_size.tolist() == [12000 - (truth - 1)]
    assert ignored.siou.size == 0
    assert ignored.ppv.tolist() == [0.0]


def test_ignored_pixels_are_no_part_of_a_prediction() -> None:
    drawing = image(anomaly=[(0, 0, 40, 40)], mask=[(0, 0, 40, 100)], ignore=[(0, 40, 100, 60)])
    components = match(drawing["mask"], drawing["label"], "anomaly")
    assert (components.siou.tolist(), components.ppv.tolist()) == ([1.0], [1.0])


def test_the_threshold_itself_counts_unless_the_public_tool_is_asked_for() -> None:
    drawing = image(anomaly=[(0, 0, 50, 50)], mask=[(0, 0, 50, 50)])
    perfect = drawing["mask"].astype(np.float32)
    ours, literal = ComponentMetrics("anomaly", 1.0), ComponentMetrics("anomaly", 1.0, literal=True)
    for metrics in (ours, literal):
        metrics.update(perfect, drawing["label"])
    assert ours.compute().mean_f1 == 1.0
    assert ours.compute().at_threshold == 0.25
    assert (literal.compute().predictions, literal.compute().mean_f1) == (0, 0.0)
    assert math.isnan(literal.compute().ppv)


def test_what_is_undefined_is_nan() -> None:
    nothing = scores(image()).compute()
    assert all(math.isnan(v) for v in (nothing.siou, nothing.ppv, nothing.mean_f1, *nothing.f1.values()))
    alarm = scores(image(mask=[(0, 0, 30, 30)])).compute()
    assert math.isnan(alarm.siou)
    assert (alarm.ppv, alarm.mean_f1) == (0.0, 0.0)


def test_counts_are_pooled_before_f1_and_merging_is_pooling() -> None:
    hit = image(anomaly=[(0, 0, 30, 30)], mask=[(0, 0, 30, 30)])
    alarms = image(mask=[(0, 0, 30, 30), (50, 0, 30, 30), (0, 50, 30, 30)])
    whole, part = scores(hit), scores(alarms)
    whole.update(alarms["mask"].astype(np.float32), alarms["label"])
    part.merge(scores(hit))
    assert part.compute() == whole.compute()
    assert whole.compute().mean_f1 == pytest.approx(2 / 5)  # the mean over the images would be 1/2
    with pytest.raises(ValueError, match="another track"):
        part.merge(ComponentMetrics("obstacle", 0.5))


def test_bad_input_is_named() -> None:
    metrics = ComponentMetrics("obstacle", 0.5)
    with pytest.raises(ValueError, match="value 2"):
        metrics.update(np.zeros((4, 4)), np.full((4, 4), 2))
    with pytest.raises(ValueError, match="16 of 16 scores are NaN"):
        metrics.update(np.full((4, 4), np.nan), np.zeros((4, 4)))
    with pytest.raises(ValueError, match="track is 'street'"):
        ComponentMetrics("street", 0.5)  # type: ignore[arg-type]


def test_objects_less_than_a_quarter_covered_are_missed() -> None:
    drawing = image(anomaly=[(0, 0, 2, 2), (10, 10, 2, 2), (20, 20, 3, 3), (30, 30, 1, 5)],
                    mask=[(0, 0, 1, 1), (20, 20, 1, 2), (31, 30, 9, 9)])  # fmt: skip
    assert object_rows(drawing["mask"], drawing["label"]) == (4, 3, 9)
    assert object_rows(np.zeros((3, 3), bool), np.zeros((3, 3), np.uint8)) == (0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31))
def test_the_definitions_read_literally(seed: int) -> None:
    """Sets of pixels, component by component, in the order scipy numbers them (raster order of the first pixel)."""
    rng = np.random.default_rng(seed)
    coarse = rng.random((2, 10, 12)).repeat(8, axis=1).repeat(8, axis=2) + 0.3 * rng.random((2, 80, 96))
    label = np.where(rng.random((80, 96)) < 0.02, 255, coarse[0] > 0.9).astype(np.uint8)
    mask = coarse[1] > 0.8
    ours = match(mask, label, "obstacle")

    objects, count = _components(label == 1)
    ignored = label == 255
    for k in range(1, count + 1):
        ignored |= (objects == k) & ((objects == k).sum() < 10)
    parts, count_parts = _components(mask & (label != 255))
    predictions = [parts == j for j in range(1, count_parts + 1) if (parts == j).sum() >= 50]
    predictions = [prediction & ~ignored for prediction in predictions]
    truth = [objects == k for k in range(1, count + 1) if (objects == k).sum() >= 10]
    assert np.allclose(ours.siou, [_siou(k, truth, predictions) for k in truth], rtol=0, atol=1e-12)
    assert np.allclose(ours.predicted_siou, [_siou(j, predictions, truth) for j in predictions], rtol=0, atol=1e-12)
    assert ours.size.tolist() == [k.sum() for k in truth]
    on_objects = [sum((j & k).sum() for k in truth) / j.sum() for j in predictions]
    assert np.allclose(ours.ppv, on_objects, rtol=0, atol=1e-12)


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    labels = np.zeros(mask.shape, np.int32)
    return labels, int(ndimage.label(mask, EIGHT, output=labels))  # type: ignore[arg-type]


def _siou(one: np.ndarray, own: list[np.ndarray], others: list[np.ndarray]) -> float:
    touching = np.zeros_like(one)
    for other in others:
        if (other & one).any():
            touching |= other
    rest = sum((touching & another).sum() for another in own if another is not one)
    return float((one & touching).sum() / ((one | touching).sum() - rest))
