"""Pixel metrics against scikit-learn, hand cases, the recorded Fishyscapes values, and streaming against exact."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mgcda_core.evaluation.pixel_metrics import BUCKETS, PixelMetrics, _unit_bucket, exact

GOLDEN = Path(__file__).parent / "golden"


def streamed(score: np.ndarray, label: np.ndarray, mode: str = "logits") -> dict:
    metrics = PixelMetrics(mode)  # type: ignore[arg-type]
    metrics.update(score, label)
    return dict(metrics.compute())


def sklearn_values(score: np.ndarray, label: np.ndarray) -> dict[str, float]:
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    return {
        "ap": float(average_precision_score(label, score)),
        "auroc": float(roc_auc_score(label, score)),
        "fpr95": float(fpr[np.argmax(tpr >= 0.95)]),
    }


@st.composite
def scored_labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(2, 60))
    kind = draw(st.sampled_from(["coarse", "saturated", "any", "equal"]))
    values = {
        "coarse": st.integers(-3, 3).map(lambda v: v / 4),
        "saturated": st.sampled_from([0.0, -0.0, 1.0, 1e-30, 1.0 - 2.0**-24]),
        "any": st.floats(-(2.0**100), 2.0**100, width=32),
        "equal": st.just(0.25),
    }[kind]
    score = np.array(draw(st.lists(values, min_size=n, max_size=n)), np.float32)
    label = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), np.uint8)
    label[:2] = 0, 1
    return score, label


@settings(max_examples=300, deadline=None)
@given(scored_labels())
def test_exact_equals_scikit_learn(case: tuple[np.ndarray, np.ndarray]) -> None:
    ours = exact(*case)
    for name, value in sklearn_values(*case).items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name


@settings(max_examples=100, deadline=None)
@given(scored_labels())
def test_streaming_stays_within_its_own_bounds(case: tuple[np.ndarray, np.ndarray]) -> None:
    ours, truth = streamed(*case), exact(*case)
    assert abs(ours["ap"] - truth["ap"]) <= ours["ap_bound"] + 1e-12
    assert abs(ours["fpr95"] - truth["fpr95"]) <= ours["fpr95_bound"] + 1e-12
    assert (ours["pixels"], ours["positives"]) == (truth["pixels"], truth["positives"])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0.0, 1.0, width=32), min_size=2, max_size=200))
def test_unit_buckets_keep_the_order_over_both_halves(values: list[float]) -> None:
    score = np.unique(np.array([*values, 0.0, 1.0, 0.5, 0.5 + 2.0**-24], np.float32))
    buckets = _unit_bucket(score)
    assert np.all(np.diff(buckets) >= 0)
    assert 0 <= buckets[0] < buckets[-1] < BUCKETS


def test_unit_buckets_are_as_fine_near_one_as_near_zero() -> None:
    near_zero = np.array([0.0, 1e-6, 2e-6, 4e-6], np.float32)
    assert len(np.unique(_unit_bucket(near_zero))) == len(np.unique(_unit_bucket(np.float32(1) - near_zero))) == 4


def test_ties_perfect_and_inversion_by_hand() -> None:
    label = np.array([1, 0, 0, 0])
    ties = exact(np.full(4, 0.3), label)
    assert (ties["ap"], ties["fpr95"], ties["auroc"]) == (0.25, 1.0, 0.5)
    perfect = exact(np.array([0.9, 0.1, 0.2, 0.3]), label)
    assert (perfect["ap"], perfect["fpr95"], perfect["auroc"]) == (1.0, 0.0, 1.0)
    # Descending: positive, negative, positive, negative. AP = 1/2 * 1 + 1/2 * 2/3; recall 1 at the third, FPR 1/2.
    inversion = exact(np.array([4.0, 3.0, 2.0, 1.0]), np.array([1, 0, 1, 0]))
    assert inversion["ap"] == pytest.approx(5 / 6, abs=1e-15)
    assert (inversion["fpr95"], inversion["auroc"]) == (0.5, 0.75)


def test_ignored_pixels_change_nothing() -> None:
    rng = np.random.default_rng(0)
    score, label = rng.normal(size=500).astype(np.float32), rng.choice([0, 1, 255], 500)
    for changed in (np.float32(1e9), np.float32(np.nan)):
        other = np.where(label == 255, changed, score)
        assert exact(other, label) == exact(score, label)
        assert streamed(other, label) == streamed(score, label)


@pytest.mark.parametrize(
    ("mode", "shape"),
    [
        ("logits", lambda x: x),
        ("unit", lambda x: 1 / (1 + np.exp(-(3 * x - 6)))),
        ("unit", lambda x: 1 / (1 + np.exp(-3 * x))),
        ("unit", lambda x: 1 / (1 + np.exp(-(3 * x + 6)))),
        ("unit", lambda x: np.clip(x / 2 + 0.5, 0, 1)),
    ],
)
def test_a_million_random_pixels_stream_within_the_demanded_error(mode: str, shape: Callable) -> None:
    rng = np.random.default_rng(7)
    label = (rng.random(1_000_000) < 0.0025).astype(np.uint8)
    score = shape((rng.normal(size=label.size) * 2 + 3 * label).astype(np.float32)).astype(np.float32)
    ours, truth = streamed(score, label, mode), exact(score, label)
    assert ours["ap"] == pytest.approx(truth["ap"], abs=1e-4)
    assert ours["fpr95"] == pytest.approx(truth["fpr95"], abs=1e-3)
    assert ours["auroc"] == pytest.approx(truth["auroc"], abs=1e-3)
    assert abs(ours["ap"] - truth["ap"]) <= ours["ap_bound"] + 1e-12
    assert abs(ours["fpr95"] - truth["fpr95"]) <= ours["fpr95_bound"] + 1e-12


def test_the_bound_of_unsaturated_scores_is_small() -> None:
    rng = np.random.default_rng(3)
    label = (rng.random(500_000) < 0.01).astype(np.uint8)
    ours = streamed((rng.normal(size=label.size) + 2 * label).astype(np.float32), label)
    assert 0.0 < ours["ap_bound"] < 0.01
    assert 0.0 < ours["fpr95_bound"] < 0.001


def test_pooling_is_not_the_mean_of_images_and_merging_is_pooling() -> None:
    label = np.array([[0, 1], [0, 1]])
    first, second = np.array([[1.0, 2.0], [1.0, 2.0]]), np.array([[11.0, 12.0], [11.0, 12.0]])
    whole, a, b = PixelMetrics(), PixelMetrics(), PixelMetrics()
    for score, part in ((first, a), (second, b)):
        whole.update(score, label)
        part.update(score, label)
    mean = (a.compute()["ap"] + b.compute()["ap"]) / 2
    a.merge(b)
    assert a.compute() == whole.compute()
    assert mean == 1.0
    assert whole.compute()["ap"] == pytest.approx(exact(np.stack([first, second]), np.stack([label, label]))["ap"])
    assert whole.compute()["ap"] < 0.9


@pytest.mark.parametrize(("label", "reason"), [([0, 0], "no positives"), ([1, 1], "no negatives"), ([255, 255], "and")])
def test_one_sided_sets_give_nan_with_the_reason(label: list[int], reason: str) -> None:
    for result in (exact(np.array([0.1, 0.2]), np.array(label)), streamed(np.array([0.1, 0.2]), np.array(label))):
        assert all(math.isnan(result[name]) for name in ("ap", "fpr95", "auroc"))
        assert reason in str(result["reason"])


def test_bad_input_is_named() -> None:
    metrics = PixelMetrics("unit")
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        exact(np.array([np.nan, 1.0]), np.array([0, 1]))
    with pytest.raises(ValueError, match="value 2"):
        metrics.update(np.array([0.1, 0.2]), np.array([0, 2]))
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        metrics.update(np.zeros(2), np.zeros(3))
    with pytest.raises(ValueError, match="outside \\[0, 1\\]"):
        metrics.update(np.array([0.5, 1.5]), np.array([0, 1]))
    with pytest.raises(ValueError, match="merge"):
        metrics.merge(PixelMetrics("logits"))
    assert metrics.compute()["pixels"] == 0


def _golden_cases() -> tuple[dict, object]:
    sys.path.insert(0, str(GOLDEN))  # synthetic_metrics imports synthetic_weights by its bare name
    try:
        spec = importlib.util.spec_from_file_location("synthetic_metrics", GOLDEN / "synthetic_metrics.py")
        assert spec is not None and spec.loader is not None
        rule = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(rule)
    finally:
        sys.path.remove(str(GOLDEN))
    return json.loads((GOLDEN / "metrics.json").read_text()), rule


def test_recorded_fishyscapes_values() -> None:
    recorded, rule = _golden_cases()
    salt, pooled = recorded["salt"], []
    for group, make in (("frames", rule.metric_frame), ("small", rule.metric_small)):  # type: ignore[attr-defined]
        for name, case in recorded[group].items():
            score, label = make(name, salt)
            if group == "frames":
                pooled.append((score.ravel(), label.ravel()))
            _assert_fishyscapes(exact(score, label), case["fishyscapes"], 1e-9)
    scores, labels = (np.concatenate(part) for part in zip(*pooled, strict=True))
    _assert_fishyscapes(exact(scores, labels), recorded["pooled"]["fishyscapes"], 1e-9)
    _assert_fishyscapes(streamed(scores, labels), recorded["pooled"]["fishyscapes"], 1e-3)


def _assert_fishyscapes(ours: Mapping[str, object], recorded: dict[str, float], tolerance: float) -> None:
    for name in ("AP", "FPR95", "AUROC"):
        assert ours[name.lower()] == pytest.approx(recorded[name], abs=tolerance)
