"""`mgcda bench video` on a few small drawn frames with tiny weights: every setting, pooled figures, wrong use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Run, only_error

from mgcda_core.bench.video import Setting, figures, level_camera, run
from mgcda_core.data.rendered import drive
from mgcda_core.evaluation.pixel_metrics import ExactMetrics

SIZE = (96, 192)
SMALL = ("--size", "[96,192]", "--device", "cpu")


def test_each_setting_is_measured_once(mgcda: Run, tiny_weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "video.json"
    code, text, _ = mgcda("bench", "video", "--weights", tiny_weights, "--seeds", "1000033,1000034", "--frames", 3,
                          "--synthesis_every", "1,2", "--crop_top", "0,0.25", "--json", file, *SMALL)  # fmt: skip
    assert code == 0
    written = json.loads(file.read_text())
    rows = written["settings"]
    assert [row["setting"] for row in rows] == ["as it is", "synthesis_every 2", "crop_top 0.25"]
    assert (written["seeds"], written["frames"]) == ([1000033, 1000034], 3)
    for row, line in zip(rows, text.splitlines()[-3:], strict=True):
        assert len(row["drives"]) == 2
        assert min(row["ms"], row["cpu_ms"]) > 0
        assert line.startswith(row["setting"])
        assert f"{100 * row['ap']:.2f}" in line
    assert len({row["ap"] for row in rows}) == 3


def test_the_figures_are_pooled_over_the_pixels_of_all_drives(tiny_weights: Path) -> None:
    setting, exact = Setting(crop_top=0.25), ExactMetrics()
    chain = setting.open(str(tiny_weights), "cpu", "torch")
    scenes = [list(drive(seed, 2, SIZE, anomalies=5, camera=level_camera(SIZE))) for seed in (1000033, 1000034)]
    found = figures(setting, [run([chain], street, 10)[0] for street in scenes])
    for scene in (*scenes[0], *scenes[1]):
        exact.update(chain(scene.image, 0.0).logits, scene.anomaly)
    truth = exact.compute()
    assert found["ap"] == pytest.approx(truth["ap"], abs=1e-3)
    assert found["fpr95"] == pytest.approx(truth["fpr95"], abs=1e-3)


def test_a_filter_is_measured_beside_the_chain_as_it_is(mgcda: Run, tiny_weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "video.json"
    code, text, _ = mgcda("bench", "video", "--weights", tiny_weights, "--seeds", 1000033, "--frames", 4, "--temporal",
                          "ema,vote", "--temporal_seconds", "0.1,0.3", "--json", file, *SMALL)  # fmt: skip
    assert code == 0
    plain, *filtered = json.loads(file.read_text())["settings"]
    assert [row["setting"] for row in filtered] == [
        "temporal ema", "temporal ema, temporal_seconds 0.3", "temporal vote", "temporal vote, temporal_seconds 0.3",
    ]  # fmt: skip
    assert plain["temporal_share"] == 0.0
    assert all(row["temporal_share"] > 0.0 for row in filtered)
    assert len({row["ap"] for row in (plain, *filtered[:2])}) == 3  # random weights see no road for vote to follow
    assert text.count("of the network's time") == 4


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--frames", 0), "frames is 0"),
        (("--seeds", ""), "--seeds is empty"),
        (("--synthesis_every", "two"), "--synthesis_every is two"),
        (("--synthesis_every", "2", "--backend", "torch-compile"), "an option of backend torch, torch-compile"),
        (("--crop_top", "a"), "--crop_top is a"),
        (("--temporal", "median"), "the temporal filter is 'median'"),
        (("--temporal", "vote", "--temporal_seconds", "0"), "time constant is 0.0 s"),
        (("--crop_top", "0.9"), "crop_top is 0.9"),
    ],
)
def test_wrong_use_is_named(mgcda: Run, tiny_weights: Path, words: tuple[object, ...], named: str) -> None:
    result = mgcda("bench", "video", "--weights", tiny_weights, "--seeds", "1000033", "--frames", 1, *SMALL, *words)
    assert named in only_error(result, code=2)
