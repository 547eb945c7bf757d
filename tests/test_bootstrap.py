"""Bootstrap intervals against a brute-force one that pools the pixels of every resample."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest

from mgcda_core.config import Fpr95Convention
from mgcda_core.evaluation import bootstrap
from mgcda_core.evaluation.bootstrap import Histogram, histogram, mean_interval, pooled_intervals
from mgcda_core.evaluation.pixel_metrics import exact

FIGURES = ("ap", "fpr95", "auroc")


def images(count: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """(score, label) of few distinct scores, each in a bucket of its own even 16 times as coarse."""
    rng = np.random.default_rng(seed)
    labels = [rng.choice(np.array([0, 0, 0, 1, 255], np.uint8), (9, 11)) for _ in range(count)]
    return [(np.round(rng.normal(label == 1, 1.0)).astype(np.float32), label) for label in labels]


@pytest.mark.parametrize(("convention", "block"), list(product(("first_ge", "nearest", "smiyc"), (2, 512))))
def test_intervals_are_those_of_brute_force(
    convention: Fpr95Convention, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "_BLOCK", block)
    pairs, resamples = images(6), 200
    draws = bootstrap._weights(6, resamples).astype(int)
    assert draws.sum(1).tolist() == [6] * resamples
    drawn = [[pairs[i] for i in np.repeat(range(6), draw)] for draw in draws]
    pooled = [
        exact(np.concatenate([s for s, _ in p]), np.concatenate([label for _, label in p]), convention) for p in drawn
    ]
    ours = pooled_intervals([histogram(*pair, "logits") for pair in pairs], resamples, convention)
    for name in FIGURES:
        assert ours[name] == pytest.approx(np.percentile([p[name] for p in pooled], (2.5, 97.5)), abs=1e-12)


def test_resamples_without_anomalies_are_left_out() -> None:
    (score, label), *others = images(4)
    pairs = [(score, label), *((s, np.where(own == 1, 255, own)) for s, own in others)]  # one image holds them all
    intervals = pooled_intervals([histogram(s, own, "logits") for s, own in pairs])
    assert all(interval is not None and 0 <= interval[0] <= interval[1] <= 1 for interval in intervals.values())
    nothing = [histogram(s, np.zeros_like(own), "logits") for s, own in pairs]
    assert pooled_intervals(nothing) == dict.fromkeys(FIGURES)


def test_one_image_has_no_interval() -> None:
    assert pooled_intervals([histogram(*images(1)[0], "logits")]) == dict.fromkeys(FIGURES)
    assert mean_interval([0.5]) is None


def test_the_mean_over_images_leaves_out_those_without_a_value() -> None:
    values = [0.1, None, 0.7, 0.4, None]
    drawn = [[values[i] for i in np.repeat(range(5), draw.astype(int))] for draw in bootstrap._weights(5, 100)]
    means = [np.mean([v for v in own if v is not None]) for own in drawn if any(v is not None for v in own)]
    assert mean_interval(values, 100) == pytest.approx(np.percentile(means, (2.5, 97.5)))
    assert mean_interval([None, None]) is None


def test_a_histogram_holds_every_counted_pixel_once_and_in_order() -> None:
    score = np.array([[-0.0, 0.0, 3.0, -5.0, 9.0]], np.float32)
    label = np.array([[0, 1, 1, 0, 255]], np.uint8)
    found = histogram(score, label, "logits")
    assert (found.normal.tolist(), found.anomalous.tolist()) == ([1, 1, 0], [0, 1, 1])
    assert (np.diff(found.bucket) > 0).all()
    unit = histogram(np.array([[0.0, 1.0, 0.5]]), np.array([[0, 1, 0]]), "unit")
    assert unit.anomalous.tolist() == [0, 0, 1]


def test_a_thousand_images_take_seconds() -> None:
    rng = np.random.default_rng(0)
    bucket = np.arange(30_000, 33_000)
    many = [Histogram(bucket, *rng.integers(0, 900, (2, 3000))) for _ in range(1000)]
    started = time.perf_counter()
    intervals = pooled_intervals(many)
    assert time.perf_counter() - started < 60  # about 1 on one core
    assert intervals["ap"] is not None
    assert intervals["ap"][0] < intervals["ap"][1]
