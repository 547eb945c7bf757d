"""The commands as the issue prints them: flags, output layout, what a failure leaves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import Run, only_error

from mgcda_core import config
from mgcda_core.data.folder import read_mask
from mgcda_core.data.rendered_bag import frames_to_bag
from mgcda_core.data.sample import read_rgb
from mgcda_core.inference.predictor import load
from mgcda_core.weights import synboost


def test_predict_writes_what_the_issue_lists(mgcda: Run, drive: Path, tiny_weights: Path) -> None:
    out = drive / "out"
    code, text, _ = mgcda(
        "predict", drive / "images", "--weights", tiny_weights, "--out", out, "--save", "score,mask,overlay"
    )
    assert code == 0
    assert "frames=4" in text
    stems = ["f0", "f1", "f2", "f3"]
    for kind, suffix in (("score", "npy"), ("mask", "png"), ("overlay", "png")):
        assert sorted(p.name for p in (out / kind).iterdir()) == [f"{s}.{suffix}" for s in stems]
    expected = load(tiny_weights, "cpu")(read_rgb(drive / "images" / "f2.png"))
    score = np.load(out / "score" / "f2.npy")
    assert score.dtype == np.float32
    np.testing.assert_allclose(score, expected.score, atol=1e-5)
    mask = read_mask(out / "mask" / "f2.png")
    np.testing.assert_array_equal(mask, np.where(score >= np.float32(expected.threshold), 255, 0))
    assert read_rgb(out / "overlay" / "f2.png").shape == (64, 96, 3)
    written = json.loads((out / "predictions.json").read_text())
    assert written["complete"] is True
    assert [f["stem"] for f in written["frames"]] == stems
    assert written["frames"][2]["masked_fraction"] == pytest.approx(float((mask > 0).mean()))
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("kind", ["score", "mask", "overlay"])
def test_predict_saves_one_kind(mgcda: Run, drive: Path, tiny_weights: Path, kind: str) -> None:
    out = drive / "out"
    assert (
        mgcda("predict", drive / "images" / "f0.png", "--weights", tiny_weights, "--out", out, "--save", kind)[0] == 0
    )
    assert sorted(p.name for p in out.iterdir()) == sorted([kind, "predictions.json"])


def test_predict_takes_a_threshold(mgcda: Run, drive: Path, tiny_weights: Path) -> None:
    for threshold, colour in (("0", 255), ("1", 0)):
        mgcda("predict", drive / "images" / "f0.png", "--weights", tiny_weights, "--out", drive / "out",
              "--save", "mask", "--threshold", threshold)  # fmt: skip
        assert (read_mask(drive / "out" / "mask" / "f0.png") == colour).all()


def test_predict_looks_below_crop_top(mgcda: Run, drive: Path, tiny_weights: Path) -> None:
    out = drive / "out"
    mgcda("predict", drive / "images" / "f0.png", "--weights", tiny_weights, "--out", out,
          "--save", "score", "--crop_top", "0.5")  # fmt: skip
    score = np.load(out / "score" / "f0.npy")
    assert score[:32].max() < 1e-30 < score[32:].min()
    assert json.loads((out / "predictions.json").read_text())["crop_top"] == 0.5


def test_predict_keeps_what_was_done_before_a_bad_frame(mgcda: Run, drive: Path, tiny_weights: Path) -> None:
    (drive / "images" / "f2.png").write_bytes(b"rubbish")
    out = drive / "out"
    result = mgcda("predict", drive / "images", "--weights", tiny_weights, "--out", out, "--save", "score")
    assert "f2.png is not a readable image" in only_error(result)
    written = json.loads((out / "predictions.json").read_text())
    assert written["complete"] is False
    assert [f["stem"] for f in written["frames"]] == ["f0", "f1"]
    assert sorted(p.name for p in (out / "score").iterdir()) == ["f0.npy", "f1.npy"]


def test_predict_reads_recordings_and_keeps_what_a_cut_off_one_held(
    mgcda: Run, tmp_path: Path, tiny_weights: Path, frames: list[np.ndarray]
) -> None:
    bag = frames_to_bag([(frame, None) for frame in frames], tmp_path / "bag")
    out = tmp_path / "out"
    arguments = ("--weights", tiny_weights, "--out", out, "--save", "mask")
    assert mgcda("predict", bag, *arguments)[0] == 0
    stems = [f"camera_image_{i:06d}" for i in range(4)]
    assert sorted(p.stem for p in (out / "mask").iterdir()) == stems
    written = json.loads((out / "predictions.json").read_text())["frames"]
    assert written[1]["stamp_ns"] > written[0]["stamp_ns"] > 0

    (file,) = bag.glob("*.mcap")
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 6 // 10])
    message = only_error(mgcda("predict", file, "--weights", tiny_weights, "--out", tmp_path / "cut", "--save", "mask"))
    assert file.name in message
    kept = json.loads((tmp_path / "cut" / "predictions.json").read_text())
    assert kept["complete"] is False
    assert 0 < len(kept["frames"]) < 4


def test_predict_names_a_frame_that_is_too_small(mgcda: Run, drive: Path, tiny_weights: Path) -> None:
    cv2.imwrite(str(drive / "images" / "f0.png"), np.zeros((1, 1, 3), np.uint8))
    result = mgcda("predict", drive / "images", "--weights", tiny_weights, "--out", drive / "out")
    assert "frame f0 of" in only_error(result)
    assert "image is 1x1" in result[2]


@pytest.mark.parametrize("score", ["model", "msp", "maxlogit", "entropy"])
def test_eval_as_printed(mgcda: Run, drive: Path, tiny_weights: Path, score: str) -> None:
    code, text, _ = mgcda(
        "eval", "--dataset", "folder", "--images", drive / "images", "--masks", drive / "masks",
        "--anomaly_values", "2", "--ignore_values", "255", "--weights", tiny_weights, "--score", score,
        "--json", drive / "out.json",
    )  # fmt: skip
    assert code == 0
    report = json.loads((drive / "out.json").read_text())
    assert (report["dataset"], report["score"], report["images"]) == ("folder", score, 4)
    assert 0 < report["ap"] < 1
    assert f"score={score}" in text


def test_eval_takes_comma_lists(mgcda: Run, drive: Path, tiny_weights: Path) -> None:
    arguments = ("eval", "--images", drive / "images", "--masks", drive / "masks", "--weights", tiny_weights,
                 "--score", "maxlogit")  # fmt: skip
    assert (
        mgcda(*arguments, "--anomaly_values", "2,3", "--ignore_values", "255,254", "--json", drive / "a.json")[0] == 0
    )
    both = mgcda(*arguments, "--anomaly_values", "2", "--ignore_values", "254")
    assert "f0.png holds the value 255" in only_error(both)
    assert "named twice" in only_error(mgcda(*arguments, "--anomaly_values", "255"), code=2)


def test_eval_needs_the_right_values(mgcda: Run, drive: Path, tiny_weights: Path) -> None:
    result = mgcda("eval", "--images", drive / "images", "--masks", drive / "masks", "--weights", tiny_weights)
    assert "masks/f0.png holds the value 2" in only_error(result)
    assert "--anomaly_values" in result[2]


def test_render_writes_a_recording(mgcda: Run, tmp_path: Path) -> None:
    code, text, _ = mgcda("render", "--out", tmp_path / "drive", "--frames", "2", "--size", "[48,96]")
    assert code == 0
    assert (tmp_path / "drive" / "metadata.yaml").is_file()
    assert "drive" in text


@pytest.mark.parametrize("resume", [(), ("--resume",), ("--resume", "true")])
def test_train_passes_the_configuration_on(
    mgcda: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: tuple[str, ...]
) -> None:
    from mgcda_core.training import dissimilarity

    calls: list[tuple[object, Path, bool]] = []
    monkeypatch.setattr(dissimilarity, "train", lambda config, run, resume=False: calls.append((config, run, resume)))
    file = tmp_path / "c.yaml"
    file.write_text("weights: a.safetensors\nvoid_class: v\nvalidation: [x, y]\nloop:\n  lr: 1.0e-2\n  batch: 2\n")
    run = tmp_path / "run"
    words = ("train", "dissimilarity", "--config", file, "--run", run, "--loop.batch", "5", *resume)
    assert mgcda(*words)[0] == 0
    ((built, folder, resumed),) = calls
    assert isinstance(built, config.DissimilarityTraining)
    assert (built.loop.batch, built.loop.lr, built.weights) == (5, 0.01, "a.safetensors")
    assert (built.void_class, built.anomaly_mix, built.validation) == ("v", None, ("x", "y"))
    assert built.dissimilarity is None and built.mdat is None
    assert (folder, resumed) == (run, bool(resume))


def test_import_checks_the_state_in_the_network(
    mgcda: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: config.SegmenterConfig
) -> None:
    def fake(archive: Path, out: Path, vgg19: Path | None, *, check: Callable) -> str:
        check(tiny_config, {})
        return "0" * 64

    monkeypatch.setattr(synboost, "import_synboost", fake)
    error = only_error(mgcda("import", "synboost", "m.tar", "--out", tmp_path / "o.safetensors", "--vgg19", "v.pth"))
    assert "m.tar does not fit AnomalySegmenter" in error
