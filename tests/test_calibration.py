"""Threshold for a road false positive rate, reliability and scaling, against the same by hand on the pixels."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_core.config import ConfigError
from mgcda_core.data.sample import DataError
from mgcda_core.evaluation.calibration import (
    OperatingPoint,
    Reliability,
    Scaling,
    ThresholdSearch,
    fit_scaling,
    found_up_to,
    reliability,
)
from mgcda_core.evaluation.calibration_plot import draw_reliability
from mgcda_core.evaluation.pixel_metrics import PixelMetrics

SCORES = {
    "spread": lambda rng: rng.beta(1, 6, (20, 40, 50)),
    "ties": lambda rng: rng.integers(0, 9, (20, 40, 50)) / 8 * 0.9,
    "near 0": lambda rng: rng.beta(1, 6, (20, 40, 50)) * 1e-6,
    "near 1": lambda rng: 1 - rng.integers(1, 400, (20, 40, 50)) * 2.0**-24,
}


def _search(scores: np.ndarray, label: np.ndarray | None = None, names: list[str] | None = None) -> ThresholdSearch:
    search = ThresholdSearch()
    label = np.zeros(scores.shape[1:], np.uint8) if label is None else label
    for i, score in enumerate(scores.astype(np.float32)):
        search.update(names[i] if names else f"{i}", score, label, np.ones(label.shape, bool))
    return search


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("fpr", [0.001, 0.01, 0.2])
def test_the_lowest_threshold_that_masks_no_more_of_the_road(kind: str, fpr: float) -> None:
    road = SCORES[kind](np.random.default_rng(1)).astype(np.float32)
    point = _search(road).choose(fpr, resamples=20)
    assert point.road_fpr == (road >= np.float32(point.threshold)).mean() <= fpr < point.road_fpr_below
    lower = road[road < np.float32(point.threshold)].max()  # the next score that there is: above it, one bin at most
    side = min(point.threshold, 1 - lower)
    assert point.threshold - lower <= side / 128 or (road >= lower).mean() > fpr
    for other in (0.0, point.threshold, float(lower), 1.0):
        assert _search(road).road_fpr(other) == pytest.approx((road >= np.float32(other)).mean(), abs=0.002)
    assert point.threshold_interval and point.threshold_interval[0] <= point.threshold <= point.threshold_interval[1]


def test_only_normal_road_counts_and_recall_is_of_what_is_anomalous() -> None:
    score = np.full((10, 20), 0.2, np.float32)
    label = np.zeros((10, 20), np.uint8)
    road = np.zeros((10, 20), bool)
    road[5:] = True
    score[:5], label[9] = 0.99, 255  # high off the road, and ignored on it
    label[6, 2:10], score[6, 2:4], score[6, 4:10] = 1, 0.9, 0.1  # a quarter of 8 is found
    label[6, 12:18], score[6, 12], score[6, 13:18] = 1, 0.9, 0.1  # a sixth of 6 is not
    search = ThresholdSearch()
    search.update("a", score, label, road)
    point = search.choose(0.01)
    assert (point.road_pixels, point.road_fpr, point.road_fpr_below) == (80 - 14, 0.0, 1.0)
    assert 0.2 < point.threshold < 0.2 * 1.005
    assert point.pixel_recall == pytest.approx(3 / 14)
    assert (point.objects, point.object_recall) == (2, 0.5)
    assert point.threshold_interval is None and "no interval" in point.notes()[0]


def test_an_object_is_found_as_long_as_a_quarter_of_it_is_masked() -> None:
    rng = np.random.default_rng(0)
    score, label = rng.random((30, 40)).astype(np.float32), np.zeros((30, 40), np.uint8)
    label[2:7, 3:9], label[7:9, 9], label[20, 20], label[25:27, 30:33] = 1, 1, 1, 1
    regions = [np.s_[2:7, 3:9], np.s_[20:21, 20:21], np.s_[25:27, 30:33]]
    for highest, region, corner in zip(found_up_to(score, label), regions, (score[7:9, 9], [], []), strict=True):
        pixels = np.append(score[region], corner)
        assert 4 * (pixels >= highest).sum() >= pixels.size > 4 * (pixels > highest).sum()


def test_the_interval_is_over_scenes() -> None:
    rng = np.random.default_rng(2)
    level = rng.normal(0, 0.1, (40, 1, 1))  # what a scene's pixels share
    scores = np.clip(0.3 + level + rng.normal(0, 0.05, (40, 30, 30)), 0, 1)
    several, few = _search(scores).choose(0.05), _search(scores[:10]).choose(0.05)
    copied = _search(np.repeat(scores[:10], 4, 0), names=[f"{i // 4}" for i in range(40)]).choose(0.05)
    width = {k: np.ptp(p.threshold_interval or ()) for k, p in (("40", several), ("10", few), ("copies", copied))}
    assert width["10"] > 1.2 * width["40"] > 0
    assert copied.threshold_interval == few.threshold_interval and copied.images == 40 and copied.scenes == 10
    assert several.road_fpr_interval and several.road_fpr_interval[0] < 0.05 < several.road_fpr_interval[1]


def test_a_95_percent_interval_covers_the_threshold_of_the_whole_population() -> None:
    rng = np.random.default_rng(3)

    def scenes(count: int) -> np.ndarray:
        return 1 / (1 + np.exp(3 - rng.normal(0, 0.5, (count, 1, 1)) - rng.normal(0, 0.5, (count, 8, 8))))

    true = np.quantile(scenes(20_000), 0.9)
    inside = 0
    for _ in range(40):
        low, high = _search(scenes(40)).choose(0.1, resamples=200).threshold_interval or (1, 0)
        inside += low <= true <= high
    assert inside >= 34  # 38 expected; percentile intervals of 40 scenes are a little narrow


def test_a_rate_that_cannot_be_had_or_told_is_said() -> None:
    road = SCORES["spread"](np.random.default_rng(1))
    for fpr in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="must lie between 0 and 1"):
            _search(road).choose(fpr)
    with pytest.raises(DataError, match="no road pixel in 2 images"):
        _search(road[:2], label=np.full((40, 50), 255, np.uint8)).choose(0.1)
    with pytest.raises(DataError, match=r"50 % of the road pixels have the score 1, no threshold .* saturated"):
        _search(np.tile([0.3, 1.0], (2, 4, 4))).choose(0.1)
    assert _search(np.tile([0.3, 1.0], (2, 4, 4))).choose(0.5).threshold == pytest.approx(0.3, rel=0.005)
    (finer,) = _search(road).choose(1e-6).notes()
    assert "finer than one of the 40000 road pixels" in finer
    (ties,) = _search(np.tile([0.3, 0.6, 0.6], (4, 4, 4))).choose(0.5).notes()
    assert "share one score" in ties and "66.7 %" in ties
    concentrated = road * 0.5
    concentrated[3] = road[3] + 0.5
    (few,) = _search(np.clip(concentrated, 0, 0.999)).choose(0.01).notes()
    assert "lie in 1 of 20 scenes" in few
    assert not _search(road).choose(0.01).notes()


def _metrics(logit: np.ndarray, label: np.ndarray) -> PixelMetrics:
    metrics = PixelMetrics("logits")
    metrics.update(logit.astype(np.float32), label.astype(np.uint8))
    return metrics


def _drawn(count: int, temperature: float, bias: float) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels that are anomalous with the probability sigmoid(logit / temperature + bias)."""
    rng = np.random.default_rng(5)
    logit = rng.normal(-1, 2, count)
    return logit, (rng.random(count) < Scaling(temperature, bias)(logit)).astype(np.uint8)


@pytest.mark.parametrize("equal", ["mass", "width"])
def test_ece_is_that_of_the_pixels(equal: str) -> None:
    logit, label = _drawn(30_000, 0.5, -1.5)
    found = reliability(_metrics(logit, label), 15, equal)  # type: ignore[arg-type]
    score, order = Scaling()(logit), np.argsort(logit)
    edges = np.linspace(0, 1, 16)[1:-1]
    parts = (
        np.array_split(order, 15)
        if equal == "mass"
        else [np.flatnonzero(np.digitize(score, edges) == i) for i in range(15)]
    )
    gaps = [len(p) * abs(score[p].mean() - label[p].mean()) for p in parts if len(p)]
    assert found.ece == pytest.approx(sum(gaps) / 30_000, abs=5e-4)
    assert found.ece > 0.03 and sum(found.pixels) == 30_000
    if equal == "mass":
        assert len(found.pixels) == 15 and max(found.pixels) - min(found.pixels) < 60


def test_equal_scores_stay_in_one_bin() -> None:
    found = reliability(_metrics(np.zeros(100), np.arange(100) < 30))
    assert (found.score, found.anomalous, found.pixels) == ((0.5,), (0.3,), (100,))
    assert found.ece == pytest.approx(0.2)
    with pytest.raises(DataError, match="every label is 255"):
        reliability(_metrics(np.zeros(3), np.full(3, 255)))


def test_scaling_is_found_again_and_calibrates() -> None:
    logit, label = _drawn(200_000, 2.0, -1.0)
    fitted = fit_scaling(_metrics(logit[::2], label[::2]))
    assert fitted and fitted.temperature == pytest.approx(2, rel=0.03) and fitted.bias == pytest.approx(-1, abs=0.03)
    other = _metrics(logit[1::2], label[1::2])
    assert reliability(other, scaling=fitted).ece < 0.006 < 0.05 < reliability(other).ece


def test_scaling_of_a_separable_or_hopeless_half() -> None:
    logit = np.linspace(-5, 5, 1000)
    separable = fit_scaling(_metrics(logit, logit > 0))
    assert separable and 0 < separable.temperature < 1
    assert fit_scaling(_metrics(logit, logit < 0)) is None  # it would turn the ranking round
    assert fit_scaling(_metrics(logit, np.zeros(1000))) is None
    saturated = fit_scaling(_metrics(np.where(logit > 0, 1e30, -1e30), logit > -1))
    assert saturated and np.isfinite([saturated.temperature, saturated.bias]).all()


def test_the_diagram_is_drawn(tmp_path: Path) -> None:
    point: OperatingPoint = _search(SCORES["spread"](np.random.default_rng(1))).choose(0.01, resamples=20)
    raw = reliability(_metrics(*_drawn(3000, 2.0, -1.0)))
    pictures = []
    for name, other in (("one", None), ("both", Reliability(0.01, (0.2, 0.7), (0.2, 0.7), (10, 10)))):
        alone = dataclasses.replace(point, threshold_interval=None) if other is None else point
        draw_reliability(tmp_path / "new" / f"{name}.png", "t", (raw, raw), other and (other, other), alone)
        pictures.append(cv2.imread(str(tmp_path / "new" / f"{name}.png")))
    assert pictures[0].shape == pictures[1].shape and (pictures[0] != pictures[1]).any()
