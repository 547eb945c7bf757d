"""Wrong use, failures and help of the commands: exit codes, one-line errors."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import cv2
import pytest
from command_line import Run, only_error
from tiny_artefact import write_artefact

from mgcda_core import cli, doctor
from mgcda_core.inference import sources
from mgcda_core.weights import resolve

WRONG_USE = [
    (),
    ("nonsense",),
    ("train",),
    ("predict",),
    ("predict", "a.png"),
    ("predict", "a.png", "b.png", "--out", "x"),
    ("predict", "a.png", "--out", "x", "--save", "score,heat"),
    ("predict", "a.png", "--out", "x", "--colour", "red"),
    ("eval", "--images", "a", "--masks", "b", "--protocol", "mine"),
    ("eval", "--images", "a", "--masks", "b", "--exact", "perhaps"),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--images", "a"), "needs images and masks"),
        (("--images", "a", "--masks", "b", "--score", "best"), "unknown score best"),
        (("--images", "a", "--masks", "b", "--anomaly_values", "one"), "--anomaly_values is one"),
        (("--images", "a", "--masks", "b", "--dataset", "imagenet"), "belong to dataset folder"),
        (("--dataset", "imagenet", "--root", "a"), "imagenet"),
        (("--images", "images", "--masks", "masks", "--threshold", "7"), "threshold is 7.0"),
    ],
)
def test_wrong_use_of_eval_is_one_sentence(
    mgcda: Run, drive: Path, monkeypatch: pytest.MonkeyPatch, tiny_weights: Path, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(drive)
    assert message in only_error(mgcda("eval", *words, "--weights", tiny_weights), code=2)


@pytest.mark.parametrize("flag", [("--exact",), ("--exact", "true"), ("--exact", "false")])
def test_a_switch_needs_no_value(
    mgcda: Run, drive: Path, tiny_weights: Path, flag: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mgcda_core.evaluation import eval_command

    seen: list[bool] = []
    monkeypatch.setattr(eval_command, "Judging", lambda *given: seen.append(given[2]))
    mgcda("eval", "--images", drive / "images", *flag, "--masks", drive / "masks", "--weights", tiny_weights)
    assert seen == [flag[-1] != "false"]


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
        (("eval-bag", "{tmp}/a", "--out", "{tmp}/d"), "does not exist"),
        (("compare-bags", "{tmp}/a", "{tmp}/b"), "does not exist"),
        (("render", "--out", "{tmp}/drive", "--frames", "0"), "frames >= 1"),
    ],
)  # fmt: skip
def test_failures_exit_with_1_and_one_sentence(mgcda: Run, drive: Path, words: tuple[str, ...], message: str) -> None:
    assert message in only_error(mgcda(*(word.format(tmp=drive) for word in words)))


def test_debug_shows_the_traceback(mgcda: Run, drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MGCDA_DEBUG", "1")
    with pytest.raises(FileNotFoundError):
        cli.main(["predict", str(drive / "nowhere"), "--out", str(drive / "o")])


@pytest.mark.parametrize("fault", [KeyError("x"), AssertionError(), cv2.error("OpenCV(5): a\nb")])
def test_an_unforeseen_fault_is_one_line_too(
    mgcda: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fault: Exception
) -> None:
    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(sources, "open_source", fail)
    words = ("predict", tmp_path, "--out", tmp_path / "o")
    error = only_error(mgcda(*words))
    assert error.startswith(f"error: {type(fault).__name__}: ")
    assert error.endswith("(MGCDA_DEBUG=1 shows the traceback)")
    monkeypatch.setenv("MGCDA_DEBUG", "1")
    with pytest.raises(type(fault)):
        cli.main([str(word) for word in words])


def test_a_missing_library_gives_the_command_that_installs_it(mgcda: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    expected = "error: jsonargparse is missing: pip install 'jsonargparse[signatures]'"
    assert only_error(mgcda("predict", "a.png", "--out", "o")) == expected


def test_doctor_reports_the_argument_parser_missing(mgcda: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_parser(name: str) -> str:
        if name == "jsonargparse":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setitem(sys.modules, "jsonargparse", None)
    monkeypatch.setattr(doctor, "version", without_parser)
    code, text, _ = mgcda("doctor")
    assert code == 0
    assert re.search(r"^jsonargparse +missing", text, re.MULTILINE)


def test_help_names_every_command_and_default(mgcda: Run) -> None:
    code, text, _ = mgcda("--help")
    assert code == 0
    for name in (
        "predict",
        "eval",
        "train segmentation",
        "import synboost",
        "render",
        "eval-bag",
        "compare-bags",
        "calibrate",
        "doctor",
    ):
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
    for word in ("torch", "opencv", "onnxscript", "device", "backend torch", "ROS 2", "weights"):
        assert f"\n{word}" in text


def test_doctor_says_what_auto_runs(
    mgcda: Run, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("mgcda_core.inference.availability.gpu_name", lambda device="auto": None)
    monkeypatch.setattr(resolve, "__file__", str(tmp_path / "resolve.py"))
    monkeypatch.setattr(resolve, "_SHIPPED", tmp_path)
    shutil.copy(tiny_weights, tmp_path)
    sha256 = resolve.checksum(tiny_weights)
    (tmp_path / "tiny.json").write_text(json.dumps({"sha256": sha256}))
    text = mgcda("doctor")[1]
    assert re.search(r"^weights +exported chain beside tiny: none, so that only torch runs it", text, re.M)
    assert re.search(r"^backend auto +takes torch tiny on cpu for tiny$", text, re.M)
    write_artefact(tmp_path / "tiny-fp32.onnx", weights_sha256=sha256)
    text = mgcda("doctor")[1]
    assert re.search(r"^weights +exported chain beside tiny: tiny-fp32.onnx$", text, re.M)
    assert re.search(r"^backend auto +takes onnxruntime tiny fp32 on cpu for tiny$", text, re.M)
    (tmp_path / "tiny.safetensors").write_bytes(b"cut")
    (tmp_path / "tiny-fp32.onnx").unlink()
    code, text, _ = mgcda("doctor")
    assert code == 0
    assert re.search(r"^backend auto +error: .*tiny.safetensors has sha256", text, re.M)


def test_the_module_runs_as_a_program(drive: Path, tiny_weights: Path) -> None:
    words = [sys.executable, "-m", "mgcda_core.cli"]
    done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.startswith("mgcda ")) == (0, True)
    failed = subprocess.run([*words, "predict", "nowhere", "--out", "x"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: nowhere does not exist")
    assert len(failed.stderr.splitlines()) == 1
