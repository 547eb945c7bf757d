"""The latency-aware streaming score: which output is the newest, and what it is worth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from bag_files import answers, camera, write_bag

from mgcda_core.data.rendered_bag import START_NS
from mgcda_core.evaluation.bag.judge import eval_bag
from mgcda_core.evaluation.bag.streaming import Output, Replayed, Schedule, StreamingScore
from mgcda_core.evaluation.pixel_metrics import ExactMetrics


def judged(
    stamps: list[int], latencies: list[int | None], schedule: Schedule | Replayed | None = None
) -> list[int | None]:
    """Stamp of the output each frame is judged against; a frame without a latency is never answered."""
    schedule = schedule or Schedule()
    found = []
    for stamp, latency in zip(stamps, latencies, strict=True):
        if latency is not None:
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


def test_the_latencies_of_a_replay_hold_the_wait_already() -> None:
    # A node that takes 15: frame 10 waits for frame 0 until 15 and comes at 30, 20 is dropped, 30 comes at 45.
    stamps, latencies = [0, 10, 20, 30, 40, 50], [15, 20, None, 15, 20, None]
    assert judged(stamps, latencies, Replayed()) == [None, None, 0, 10, 10, 30]
    assert judged(stamps, [100, 0, 0, 0, 0, 0], Replayed()) == [None, 10, 20, 30, 40, 50]


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


COUNTS = {"frames_in": 30, "masks_out": 20, "hazards": 0, "latency_p50_ms": 130.0, "latency_p95_ms": 150.0}


@pytest.mark.parametrize(("rate", "age_ms"), [(15.0, 154.8), (0.0, 221.4)])
def test_the_wait_in_the_mailbox_counts_once(tmp_path: Path, tiny_weights: Path, rate: float, age_ms: float) -> None:
    """A node that takes 100 ms at 15 Hz; with rate 0 the same latencies would be those of single frames."""
    at = [START_NS + round(i * 1e9 / 15) for i in range(30)]
    latencies, free, taken = dict[int, float](), 0, -1
    while taken < 29:
        free = max(free, at[taken + 1])
        taken = max(i for i, stamp in enumerate(at) if stamp <= free)
        free += 100_000_000
        latencies[taken] = (free - at[taken]) / 1e6
    drive = write_bag(tmp_path / "drive", camera([np.zeros((32, 48, 3), np.uint8)] * 30, at))
    scores = [np.full((32, 48), 0.2, np.float32)] * len(latencies)
    recorded = write_bag(tmp_path / "result", answers(scores, [at[i] for i in latencies]))
    figures = tmp_path / "result.json"
    figures.write_text(json.dumps(COUNTS | {"rate": rate, "latencies_ms": list(latencies.values())}))
    eval_bag(drive, tmp_path / "out", recorded=recorded, result_json=figures, weights=str(tiny_weights), device="cpu")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["stream_age_ms"] == pytest.approx(age_ms, abs=0.1)
    assert report["stream_latency"] == ("of the replay, waiting included" if rate else "measured")
