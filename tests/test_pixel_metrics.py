"""Pixel metrics against scikit-learn, hand cases, and streaming against exact (test_golden.py has recorded figures)."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple
from multiprocessing import get_context
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from mgcda_core.config import Fpr95Convention
from mgcda_core.evaluation.pixel_metrics import Mode, PixelMetrics, exact

CONVENTIONS: tuple[Fpr95Convention, ...] = get_args(Fpr95Convention)
Image = tuple[np.ndarray, np.ndarray]


def pooled(*images: Image, mode: Mode = "logits") -> PixelMetrics:
    metrics = PixelMetrics(mode)
    for score, label in images:
        metrics.update(score, label)
    return metrics


def streamed(score: np.ndarray, label: np.ndarray, mode: Mode = "logits") -> dict:
    return dict(pooled((score, label), mode=mode).compute())


def sklearn_values(score: np.ndarray, label: np.ndarray) -> dict[str, float]:
    return {
        "ap": float(average_precision_score(label, score)),
        "auroc": float(roc_auc_score(label, score)),
        **{f"fpr95 {convention}": sklearn_fpr95(score, label, convention) for convention in CONVENTIONS},
    }


def sklearn_fpr95(score: np.ndarray, label: np.ndarray, convention: Fpr95Convention) -> float:
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    if convention != "nearest":
        return float(fpr[np.argmax(tpr >= 0.95)])
    last = int(np.argmax(tpr == 1))  # lower thresholds only add false positives
    return min((abs(r - 0.95), -k, f) for k, (r, f) in enumerate(zip(tpr, fpr, strict=True)) if k <= last)[2]


@st.composite
def scored_labels(draw: st.DrawFn) -> Image:
    n = draw(st.integers(2, 60))
    kind = draw(st.sampled_from(["coarse", "saturated", "any", "equal", "shared buckets"]))
    values = {
        "coarse": st.integers(-3, 3).map(lambda v: v / 4),
        "saturated": st.sampled_from([0.0, -0.0, 1.0, 1e-30, 1.0 - 2.0**-24]),
        "any": st.floats(-(2.0**100), 2.0**100, width=32),
        "equal": st.just(0.25),
        "shared buckets": st.integers(0, 8).map(lambda v: 1.0 + v * 2.0**-12),  # two each
    }[kind]
    score = np.array(draw(st.lists(values, min_size=n, max_size=n)), np.float32)
    label = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), np.uint8)
    label[:2] = 0, 1
    return score, label


@settings(max_examples=150, deadline=None)
@given(scored_labels())
def test_exact_equals_scikit_learn(case: Image) -> None:
    ours: dict[str, object] = dict(exact(*case))
    ours |= {f"fpr95 {convention}": exact(*case, convention)["fpr95"] for convention in CONVENTIONS}
    for name, value in sklearn_values(*case).items():
        assert ours[name] == pytest.approx(value, abs=1e-12), name


@settings(max_examples=100, deadline=None)
@given(scored_labels(), st.sampled_from(CONVENTIONS))
def test_streaming_stays_within_its_bounds_and_a_second_pass_is_exact(case: Image, convention: Fpr95Convention) -> None:
    metrics, truth = pooled(case), exact(*case, convention)
    ours, second = metrics.compute(convention), metrics.fpr95_second_pass()
    second.update(*case)
    assert abs(ours["ap"] - truth["ap"]) <= ours["ap_bound"] + 1e-12
    assert abs(ours["fpr95"] - truth["fpr95"]) <= ours["fpr95_bound"] + 1e-12
    assert second.compute(convention) == truth["fpr95"]
    assert (ours["pixels"], ours["positives"]) == (truth["pixels"], truth["positives"])


def test_two_positives_of_one_bucket_count_in_the_bound() -> None:
    case = np.array([2.0, 1.0 + 2.0**-12, 1.0], np.float32), np.array([0, 1, 1])
    ours, truth = pooled(case).compute(), exact(*case)
    assert truth["ap"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert ours["ap"] == pytest.approx(2 / 3)  # the two are one tie here
    assert 0 < ours["ap"] - truth["ap"] <= ours["ap_bound"]


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
def test_a_million_random_pixels_stream_within_the_demanded_error(mode: Mode, shape: Callable) -> None:
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


def test_conventions_by_hand() -> None:
    """Twenty positives: recall 19/20 is 0.95 itself, kept over the two negatives below the nineteenth."""
    positives = np.arange(100, 80, -1.0)
    negatives = np.array([95.5, 81.5, 81.2, 50.0])
    score = np.concatenate([positives, negatives])
    label = np.repeat([1, 0], [20, 4])
    assert exact(score, label)["fpr95"] == 0.25
    assert exact(score, label, "smiyc")["fpr95"] == 0.25
    assert exact(score, label, "nearest")["fpr95"] == 0.75
    with pytest.raises(ValueError, match="convention is 'last'"):
        exact(score, label, "last")  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["logits", "unit"])
def test_a_second_pass_over_many_images_is_exact(mode: Mode) -> None:
    images = [unit_image(seed) for seed in range(3)]
    first = pooled(*images, mode=mode)
    score, label = (np.concatenate(part) for part in zip(*images, strict=True))
    truth = exact(score, label)["fpr95"]
    assert first.compute()["fpr95"] != truth
    second, other = first.fpr95_second_pass(), first.fpr95_second_pass()
    second.update(*images[0])
    with pytest.raises(ValueError, match="other scores than the first"):
        second.compute()
    for image in images[1:]:
        other.update(*image)
    second.merge(other)
    assert second.compute() == truth
    with pytest.raises(ValueError, match="different first ones"):
        second.merge(pooled((images[0][0] / 2, images[0][1]), mode=mode).fpr95_second_pass())


def unit_image(seed: int) -> Image:
    """Scores in so narrow a range of [0, 1] that a bucket holds many of them."""
    rng = np.random.default_rng(seed)
    label = (rng.random(20_000) < 0.05).astype(np.uint8)
    return (0.6 + 0.002 * (rng.normal(size=label.size) + 2 * label)).astype(np.float32), label


def test_two_processes_give_exactly_what_one_gives() -> None:
    whole = pooled(*(unit_image(seed) for seed in range(4)))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as processes:
        first, second = processes.map(_pooled_of_seeds, [(0, 2), (1, 3)])
    second.merge(first)
    assert second.compute() == whole.compute()
    assert second.curves() == whole.curves()


def _pooled_of_seeds(seeds: tuple[int, ...]) -> PixelMetrics:
    return pooled(*(unit_image(seed) for seed in seeds))


def test_curves_are_what_their_thresholds_give() -> None:
    rng = np.random.default_rng(5)
    label = (rng.random(30_000) < 0.1).astype(np.uint8)
    score = (rng.normal(size=label.size) + 2 * label).astype(np.float32)
    score[:3] = np.inf, -np.inf, 1e30
    curves = pooled((score, label)).curves(points=64, bins=20)
    assert len({len(column) for column in astuple(curves)[:4]}) == 1
    assert 20 < len(curves.threshold) <= 65
    assert list(curves.threshold) == sorted(curves.threshold, reverse=True)
    assert (curves.recall[-1], curves.false_positive_rate[-1]) == (1.0, 1.0)
    for t, precision, recall, fall_out in zip(*astuple(curves)[:4], strict=True):
        above = score >= np.float32(t)
        assert precision == pytest.approx(label[above].mean())
        assert recall == pytest.approx(above[label == 1].mean())
        assert fall_out == pytest.approx(above[label == 0].mean())
    assert (len(curves.edges), len(curves.normal), len(curves.anomalous)) == (21, 20, 20)
    assert -4 < curves.edges[0] < curves.edges[-1] < 6  # one endless score does not stretch them
    assert (sum(curves.normal), sum(curves.anomalous)) == pytest.approx((1, 1))


def test_the_best_threshold_has_the_best_f1_of_all_scores() -> None:
    rng = np.random.default_rng(6)
    label = (rng.random(400) < 0.3).astype(np.uint8)
    score = np.round(rng.normal(size=label.size) + 2 * label, 1).astype(np.float32)  # 0.1 apart: a bucket each
    f1 = {float(t): 2 * label[score >= t].sum() / ((score >= t).sum() + label.sum()) for t in score}
    best = pooled((score, label)).best_f1_threshold()
    assert 2 * label[score >= best].sum() / ((score >= best).sum() + label.sum()) == max(f1.values())
    assert best == pytest.approx(max(t for t, value in f1.items() if value == max(f1.values())), abs=1e-3)


def test_a_one_sided_set_has_no_curve_and_equal_scores_have_one() -> None:
    one_sided = pooled((np.zeros(3), np.zeros(3)))
    for method in (one_sided.curves, one_sided.best_f1_threshold, one_sided.fpr95_second_pass):
        with pytest.raises(ValueError, match="no positives"):
            method()
    curves = pooled((np.full(4, 0.3, np.float32), np.array([0, 0, 1, 1]))).curves()
    assert (curves.precision, curves.recall, curves.false_positive_rate) == ((0.5,), (1.0,), (1.0,))
    assert curves.edges[0] < curves.threshold[0] < curves.edges[-1]
