"""The latency-aware streaming score: which output is the newest, and what it is worth."""

from __future__ import annotations

import numpy as np
import pytest

from mgcda_core.evaluation.bag.streaming import Output, Schedule, StreamingScore
from mgcda_core.evaluation.pixel_metrics import ExactMetrics


def judged(stamps: list[int], latencies: list[int]) -> list[int | None]:
    """Stamp of the output each frame is judged against."""
    schedule = Schedule()
    found = []
    for stamp, latency in zip(stamps, latencies, strict=True):
        schedule.arrive(Output(stamp, latency, np.zeros((1, 1), np.float32)))
        newest = schedule.newest(stamp)
        found.append(None if newest is None else newest.stamp_ns)
    return found


def by_definition(stamps: list[int], latencies: list[int]) -> list[int | None]:
    """The same, spelled out: the predictor jumps from frame to frame, then each frame looks back."""
    done: list[tuple[int, int]] = []
    free, taken = 0, -1
    while taken < len(stamps) - 1:
        free = max(free, stamps[taken + 1])
        taken = max(i for i, stamp in enumerate(stamps) if stamp <= free)
        free += latencies[taken]
        done.append((free, stamps[taken]))
    return [max((taken for ready, taken in done if ready <= stamp), default=None) for stamp in stamps]


def test_by_hand() -> None:
    stamps = [0, 10, 20, 30, 40, 50]
    assert judged(stamps, [0] * 6) == stamps
    assert judged(stamps, [1] * 6) == [None, 0, 10, 20, 30, 40]
    # Free at 25: frame 20 is the newest by then, ready at 50; 10 is never worked on.
    assert judged(stamps, [25] * 6) == [None, None, None, 0, 0, 20]
    # Ready at 10 in the moment frame 10 comes: it counts, and 10 is taken at once.
    assert judged(stamps, [10] * 6) == [None, 0, 10, 20, 30, 40]
    assert judged(stamps, [100] * 6) == [None] * 6


@pytest.mark.parametrize("seed", range(20))
def test_against_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stamps = np.cumsum(rng.integers(1, 6, 40)).tolist()
    latencies = rng.integers(0, 15, 40).tolist()
    assert judged(stamps, latencies) == by_definition(stamps, latencies)


def test_a_slow_model_pays_for_its_age() -> None:
    """An anomaly that moves one column a frame: right scores that are late miss it."""
    scores, slow, fast = np.full((12, 4, 12), -3.0, np.float32), StreamingScore(), StreamingScore()
    labels = np.zeros((12, 4, 12), np.uint8)
    for i in range(12):
        labels[i, :, i], scores[i, :, i] = 1, 3.0
        stamp = i * 10
        ages = (slow.add(stamp, labels[i], Output(stamp, 10, scores[i])),
                fast.add(stamp, labels[i], Output(stamp, 0, scores[i])))  # fmt: skip
        assert ages == ((None if i == 0 else 10 / 1e6), 0.0)
    assert (slow.frames_without_output, fast.frames_without_output) == (1, 0)
    assert slow.mean_age_ms == pytest.approx(10 / 1e6)
    assert fast.metrics.compute()["ap"] == 1.0
    wanted = ExactMetrics()
    wanted.update(np.concatenate([np.full((1, 4, 12), -np.inf, np.float32), scores[:-1]]), labels)
    assert slow.metrics.compute()["ap"] == pytest.approx(wanted.compute()["ap"], abs=1e-4)
    assert slow.metrics.compute()["ap"] < 0.2


def test_before_the_first_output_nothing_was_reported() -> None:
    score = StreamingScore()
    label = np.array([[0, 1, 255, 0]], np.uint8)
    assert score.add(0, label, Output(0, 5, np.full((1, 4), -9.0, np.float32))) is None
    assert score.add(10, label, Output(10, 5, np.zeros((1, 4), np.float32))) == pytest.approx(10 / 1e6)
    result = score.metrics.compute()
    # One of the two anomalous pixels ties with two normal ones below everything, the other with two above them.
    assert result["ap"] == pytest.approx(0.5 * (1 / 3) + 0.5 * (2 / 6))
    assert (score.frames_without_output, result["pixels"]) == (1, 6)


def test_frames_that_were_never_answered_are_judged_too() -> None:
    score = StreamingScore()
    label = np.array([[0, 1]], np.uint8)
    score.add(0, label, Output(0, 0, np.array([[-1.0, 1.0]], np.float32)))
    assert score.add(50, label, None) == pytest.approx(50 / 1e6)
    assert score.metrics.compute()["pixels"] == 4
    assert score.metrics.compute()["ap"] == 1.0


def test_an_output_of_another_size_is_scaled_to_the_frame() -> None:
    score = StreamingScore()
    score.add(0, None, Output(0, 0, np.array([[-1.0, 1.0]], np.float32)))
    score.add(9, np.array([[0, 0, 1, 1]] * 2, np.uint8), None)
    assert score.metrics.compute()["ap"] == 1.0
