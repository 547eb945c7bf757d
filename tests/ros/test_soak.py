"""The soak: what its verdict finds in records that were made up, and a run of 20 seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from tiny_artefact import write_artefact

from mgcda_ros.soak_verdict import Record, faults, figures, lost_while_idle, stale

PERIOD = 1.0 / 15.0


def good(minutes: float = 3.0) -> Record:
    """A network that takes 0.2 s, and every third frame of 15 Hz; a node that holds 300 MB, give or take."""
    sent = [PERIOD * number for number in range(round(900 * minutes))]
    masks = [(stamp, stamp + 0.2) for stamp in sent[::3]]
    rng = np.random.default_rng(0)
    memory = [(float(second), 300.0 + rng.normal() + (50.0 * second if second < 5 else 250.0))
              for second in range(round(60 * minutes))]  # fmt: skip
    counts = {"frames_in": len(sent), "masks_out": len(masks), "dropped": len(sent) - len(masks), "errors": 0}
    return Record(sent, masks, memory, [0.0], {name: str(count) for name, count in counts.items()})


def said(record: Record) -> list[str]:
    return faults(record, figures(record, 60.0), 1.0)


def test_a_slow_network_that_takes_the_newest_frame_is_no_fault() -> None:
    found = figures(good(), 60.0)
    assert (found.sent, found.masks, found.lost_in_transport, found.stale, found.lost_while_idle) == (
        2700,
        900,
        0,
        0,
        0,
    )
    assert found.latency_ms == pytest.approx((200.0, 200.0))
    assert abs(found.slope_mb_per_min or 1.0) < 0.5
    assert said(good()) == []


def test_memory_that_grows_is_found_behind_noise_and_steps_of_the_start() -> None:
    record = good()
    record.memory = [(at, held + 1.5 * at / 60.0) for at, held in record.memory]
    assert said(record)[0].startswith("memory grows by 1.")


def test_a_queue_makes_masks_stale_a_slow_network_does_not() -> None:
    """Behind a queue of five the network begins with a frame that five newer ones have followed."""
    record = good(0.2)
    assert stale(record.sent, [(stamp, stamp + 0.2 + 5 * PERIOD) for stamp, _ in record.masks]) >= len(record.masks) - 2
    slow = [(stamp, stamp + 1.0) for stamp in record.sent[::15]]
    assert stale(record.sent, slow) == 0


def test_a_frame_that_finds_the_node_idle_must_have_its_mask() -> None:
    sent = [0.0, 1.0, 2.0, 2.0 + PERIOD, 2.0 + 2 * PERIOD]
    answered = [(stamp, stamp + 0.15) for stamp in sent]
    assert lost_while_idle(sent, answered) == 0
    assert lost_while_idle(sent, [answered[0], *answered[2:]]) == 1
    assert lost_while_idle(sent, answered[1:]) == 1  # the first one of all
    assert lost_while_idle(sent, answered[:3]) == 0  # it was at work when the last two came


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"died": True, "exit_code": -11}, "the node died with exit code -11"),
        ({"exit_code": 134}, "after SIGINT the node ended with exit code 134"),
        ({"masks": []}, "no mask came"),
        ({"memory": [(0.0, 300.0)]}, "the run is too short to say anything of the memory"),
        ({"node": {"frames_in": "10", "masks_out": "7", "dropped": "2", "errors": "0"}},
         "10 frames became 9 masks, drops and errors"),
        ({"node": {"frames_in": "10", "masks_out": "7", "dropped": "2", "errors": "1"}},
         "1 frames could not be processed"),
        ({"refused": ["roi is odd"]}, "parameters were refused: roi is odd"),
    ],
)  # fmt: skip
def test_what_else_fails(change: dict[str, object], sentence: str) -> None:
    record = good()
    for name, value in change.items():
        setattr(record, name, value)
    assert sentence in said(record)


@pytest.mark.ros
def test_twenty_seconds_of_the_real_node(tmp_path: Path) -> None:
    """Too short for the slope: the heap still grows into its size."""
    weights, out = write_artefact(tmp_path / "tiny.onnx"), tmp_path / "out"
    words = ["--minutes", "0.25", "--weights", str(weights), "--out", str(out), "--settle", "5", "--slope", "1000"]
    run = subprocess.run([sys.executable, "-m", "mgcda_ros.soak", *words], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    report = json.loads((out / "report.json").read_text())
    assert report["sent"] > 100
    assert report["masks"] > 20
    assert report["cameras"] >= 2
    assert report["faults"] == []
    assert report["node"]["dropped"] == str(report["sent"] - report["lost_in_transport"] - report["masks"])
    plot = cv2.imread(str(out / "soak.png"))
    assert plot is not None
    assert plot.std() > 5.0
    assert "Traceback" not in (out / "node.log").read_text()


@pytest.mark.ros
def test_transport_counts_what_arrives() -> None:
    words = [sys.executable, "-m", "mgcda_ros.soak", "--transport", "15"]
    run = subprocess.run(words, capture_output=True, text=True, timeout=60)
    counted = json.loads(run.stdout.partition("transport: ")[2])
    assert counted["sent"] == 15
    assert counted["received"] >= 13  # a machine at work may lose one: depth 1
    assert run.returncode == int(counted["lost"] > 0)
    assert 0.0 < counted["p50_ms"] < 1000.0
