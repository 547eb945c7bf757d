"""`mgcda bench metrics` on a few tiny frames: both sides measured, in processes of their own, with equal figures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mgcda_core.bench.metrics import bench_metrics, made_frames, pool
from mgcda_core.evaluation.pixel_metrics import ExactMetrics


def test_both_sides_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench_metrics(frames=4, size=(64, 128), sklearn_frames=2, json=tmp_path / "out" / "bench.json")
    printed = capsys.readouterr().out
    assert "ms a frame of 128x64" in printed
    assert "times as much" in printed
    figures = json.loads((tmp_path / "out" / "bench.json").read_text())
    ours, theirs = figures["mgcda"], figures["scikit-learn"]
    assert 0 < ours["peak_mb"] < 300  # its own, whatever this process holds
    assert (ours["frames"], theirs["frames"], ours["pixels"]) == (4, 2, 2 * theirs["pixels"])
    assert ours["ap"] == pytest.approx(theirs["ap"], abs=1e-3)
    assert ours["auroc"] == pytest.approx(theirs["auroc"], abs=1e-4)


def test_scikit_learn_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    bench_metrics(frames=1, size=(32, 32), sklearn_frames=0)
    assert "scikit-learn" not in capsys.readouterr().out


def test_the_figures_are_those_of_the_frames() -> None:
    exact = ExactMetrics()
    for score, label in made_frames(2, (32, 64)):
        exact.update(score, label)
    measured, truth = pool(3, (32, 64), compared=2), exact.compute()
    assert measured.ap == pytest.approx(truth["ap"], abs=1e-3)
    assert measured.pixels == truth["pixels"] * 3 / 2


def test_wrong_figures_are_refused() -> None:
    with pytest.raises(ValueError, match="sklearn_frames 5"):
        bench_metrics(frames=2)
