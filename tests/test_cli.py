"""The commands as the issue prints them: flags, output layout, exit codes, one-line errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_core import cli, config
from mgcda_core.data.folder import read_mask
from mgcda_core.data.rendered_bag import frames_to_bag
from mgcda_core.data.sample import read_rgb
from mgcda_core.inference.predictor import load
from mgcda_core.weights import synboost

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def mgcda(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(word) for word in words])
        output = capsys.readouterr()
        return int(exit_.value.code or 0), output.out, output.err

    return run


@pytest.fixture
def drive(tmp_path: Path, frames: list[np.ndarray]) -> Path:
    """images/*.png and masks/*.png of four frames, 2 = anomaly."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / "images" / f"f{number}.png"), frame[..., ::-1])
        mask = np.zeros(frame.shape[:2], np.uint8)
        mask[40:50, 30:50], mask[:2] = 2, 255
        cv2.imwrite(str(tmp_path / "masks" / f"f{number}.png"), mask)
    return tmp_path


def only_error(result: tuple[int, str, str], code: int = 1) -> str:
    """The one line `error: ...` of a failed command."""
    assert result[0] == code, result
    assert "Traceback" not in result[2]
    last = result[2].strip().splitlines()[-1]
    if code == 1:
        assert result[2].strip() == last
    assert last.startswith("error: ")
    return last


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


WRONG_USE = [
    (),
    ("nonsense",),
    ("train",),
    ("predict",),
    ("predict", "a.png"),
    ("predict", "a.png", "b.png", "--out", "x"),
    ("predict", "a.png", "--out", "x", "--save", "score,heat"),
    ("predict", "a.png", "--out", "x", "--colour", "red"),
    ("eval", "--images", "a"),
    ("eval", "--images", "a", "--masks", "b", "--score", "best"),
    ("eval", "--images", "a", "--masks", "b", "--anomaly_values", "one"),
    ("eval", "--images", "a", "--masks", "b", "--dataset", "imagenet"),
    ("import", "synboost"),
    ("train", "segmentation", "--run", "r"),
    ("train", "segmentation", "--run", "r", "--config", "nowhere.yaml"),
    ("train", "segmentation", "--run", "r", "--data.rendered", "3", "--loop.stepz", "3"),
    ("train", "segmentation", "--run", "r", "--data.rendered", "many"),
]


@pytest.mark.parametrize("words", WRONG_USE, ids=" ".join)
def test_wrong_use_exits_with_2(mgcda: Run, words: tuple[str, ...]) -> None:
    code, text, errors = mgcda(*words)
    assert code == 2
    assert text == ""
    assert "usage: mgcda" in errors
    assert "Traceback" not in errors


def test_a_threshold_out_of_range_is_wrong_use(mgcda: Run, drive: Path, tiny_weights: Path) -> None:
    result = mgcda("predict", drive / "images", "--weights", tiny_weights, "--out", drive / "o", "--threshold", "7")
    assert "threshold is 7.0" in only_error(result, code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("predict", "{tmp}/nowhere", "--out", "{tmp}/o"), "nowhere does not exist"),
        (("predict", "{tmp}/images", "--out", "{tmp}/o", "--weights", "nonsense"), "unknown weights 'nonsense'"),
        (("predict", "{tmp}/images", "--out", "{tmp}/o", "--weights", "{tmp}/w.safetensors"), "w.safetensors"),
        (("eval", "--images", "{tmp}/nowhere", "--masks", "{tmp}/masks"), "nowhere is not a folder"),
        (("import", "synboost", "{tmp}/models.tar", "--out", "{tmp}/o.safetensors"), "vgg19"),
        (("eval-bag", "--recorded", "{tmp}/a", "--drive", "{tmp}/b", "--result_json", "{tmp}/c", "--out", "{tmp}/d"),
         "does not exist"),
        (("render", "--out", "{tmp}/drive", "--frames", "0"), "frames >= 1"),
    ],
)  # fmt: skip
def test_failures_exit_with_1_and_one_sentence(mgcda: Run, drive: Path, words: tuple[str, ...], message: str) -> None:
    assert message in only_error(mgcda(*(word.format(tmp=drive) for word in words)))


def test_debug_shows_the_traceback(mgcda: Run, drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGCDA_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["predict", str(drive / "nowhere"), "--out", str(drive / "o")])


def test_a_missing_library_gives_the_command_that_installs_it(mgcda: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    assert only_error(mgcda("doctor")) == "error: jsonargparse is missing: pip install 'jsonargparse[signatures]'"


def test_help_names_every_command_and_default(mgcda: Run) -> None:
    code, text, _ = mgcda("--help")
    assert code == 0
    for name in ("predict", "eval", "train segmentation", "import synboost", "render", "eval-bag", "doctor"):
        assert f"\n  {name} " in text
    code, text, _ = mgcda("predict", "--help")
    assert code == 0
    assert "default: lite" in text
    assert "SOURCE" in text
    assert mgcda("train", "--help")[0] == 0


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_explains_itself(mgcda: Run, name: str) -> None:
    code, text, _ = mgcda(*name.split(), "--help")
    assert code == 0
    assert f"usage: mgcda {name}" in text
    assert "lambda" not in text


def test_doctor_reports(mgcda: Run) -> None:
    code, text, _ = mgcda("doctor")
    assert code == 0
    for word in ("torch", "opencv", "device", "backend torch", "ROS 2", "weights"):
        assert f"\n{word}" in text


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
    file.write_text(
        "weights: a.safetensors\ndata:\n  rendered: 3\n  objects: [x, y]\nloop:\n  lr: 1.0e-2\n  batch: 2\n"
    )
    run = tmp_path / "run"
    words = ("train", "dissimilarity", "--config", file, "--run", run, "--loop.batch", "5", *resume)
    assert mgcda(*words)[0] == 0
    ((built, folder, resumed),) = calls
    assert isinstance(built, config.DissimilarityTraining)
    assert (built.loop.batch, built.loop.lr, built.weights) == (5, 0.01, "a.safetensors")
    assert built.data.objects == ("x", "y")
    assert built.segmenter == config.PROFILES["lite"]
    assert (folder, resumed) == (run, bool(resume))


@pytest.mark.parametrize("part", ["segmentation", "synthesis", "dissimilarity"])
def test_shipped_training_configurations_parse(part: str) -> None:
    from mgcda_core.cli_arguments import training_arguments

    file = Path(__file__).parents[1] / "config" / f"train_{part}.yaml"
    built = training_arguments(f"train {part}", ["--config", str(file), "--run", "r"])["config"]
    assert type(built).__name__.lower() == f"{part}training"


def test_import_checks_the_state_in_the_network(
    mgcda: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: config.SegmenterConfig
) -> None:
    def fake(archive: Path, out: Path, vgg19: Path | None, *, check: Callable) -> str:
        check(tiny_config, {})
        return "0" * 64

    monkeypatch.setattr(synboost, "import_synboost", fake)
    error = only_error(mgcda("import", "synboost", "m.tar", "--out", tmp_path / "o.safetensors", "--vgg19", "v.pth"))
    assert "m.tar does not fit AnomalySegmenter" in error


def test_the_module_runs_as_a_program(drive: Path, tiny_weights: Path) -> None:
    words = [sys.executable, "-m", "mgcda_core.cli"]
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.startswith("mgcda ")) == (0, True)
    failed = subprocess.run([*words, "predict", "nowhere", "--out", "x"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: nowhere does not exist")
    assert len(failed.stderr.splitlines()) == 1
