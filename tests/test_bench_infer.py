"""`mgcda bench` on the tiny chain: that its figures fit each other and what is counted by hand; no speed is held."""

from __future__ import annotations

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from command_line import Run, only_error
from onnx import TensorProto, helper
from tiny_artefact import write_artefact
from torch import nn

import mgcda_core
from mgcda_core.bench import floors
from mgcda_core.bench.floors import Limits, floors_ms, orin_estimates
from mgcda_core.bench.infer import MEASURES, _limits, bench
from mgcda_core.bench.infer_table import WIDTH
from mgcda_core.bench.sides import Child, Side
from mgcda_core.bench.stages import STAGES, Timeline, Work, count, count_work, profiled_session, watched
from mgcda_core.bench.subject import Subject
from mgcda_core.bench.train import network_gmac
from mgcda_core.config import PROFILES, ConfigError, SegmenterConfig
from mgcda_core.models import uncertainty
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter

CHECKOUT = Path(mgcda_core.__file__).parents[1]
SHORT: dict[str, Any] = {"size": (64, 96), "frames": 2, "repeats": 2, "warm_up": 1, "threads": 1, "device": "cpu"}
LIMITS = Limits("fp32", 50.0, 8.0)


@pytest.fixture
def known_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured peaks take seconds and have a test of their own."""
    monkeypatch.setattr(floors, "measure", lambda device, precision: replace(LIMITS, precision=precision))


def check_side(side: dict[str, Any]) -> None:
    times = side["milliseconds"]
    for name in MEASURES:
        if times[name] is not None:
            assert 0 < times[name]["p50"] <= times[name]["p95"] <= times[name]["p99"]
    assert 0 < times["chain"]["p50"] <= times["frame"]["p50"]
    assert side["best_frames_per_s"] == max(side["frames_per_s"]) and len(side["frames_per_s"]) == 2
    # Two runs of two frames: the mean over all of them is the mean of the runs' own.
    assert np.mean([1000 / rate for rate in side["frames_per_s"]]) == pytest.approx(times["frame"]["mean"])


@pytest.mark.usefixtures("known_limits")
def test_two_precisions_are_compared(tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "bench.json"
    weights = str(tiny_weights)
    bench(weights, "torch", **SHORT, against=weights, against_backend="torch", against_precision="bf16", orin=True,
          json=file)  # fmt: skip
    figures, printed = json.loads(file.read_text()), capsys.readouterr().out
    assert list(figures) == ["command", "date", "machine", "versions", "size", "batch", "frames", "repeats", "warm_up",
                             "threads", "sides", "ratio", "orin"]  # fmt: skip
    assert {"mgcda", "python", "torch"} <= figures["versions"].keys() and figures["machine"]["cores"] == 1
    plain, half = figures["sides"]
    for side in (plain, half):
        check_side(side)
        assert (side["name"], side["device"]) == ("torch tiny", "cpu")
        assert side["memory_mb"]["opening_mb"] > 50 and side["memory_mb"]["cuda_mb"] is None
        assert list(side["stages"]) == list(STAGES)
        assert all(side["stages"][stage]["ms"] > 0 for stage in STAGES if stage != "student")  # DiCNet's alone
        total = sum(entry["gflops"] for entry in side["stages"].values())
        assert total == pytest.approx(side["gflops"])
        found = side["floors"]
        assert (found["peak_gflops"], found["gbytes"]) == (50.0, 8.0)
        assert found["flops_ms"] == pytest.approx(1000 * side["gflops"] / found["peak_gflops"])
        assert found["bytes_ms"] == pytest.approx(1000 * side["bytes"] / (found["gbytes"] * 1e9))
        assert found["ratio"] == pytest.approx(side["milliseconds"]["chain"]["p50"] / found["larger_ms"])
    assert (plain["precision"], half["precision"], plain["bytes"]) == ("fp32", "bf16", 2 * half["bytes"])
    for name in ("chain", "cpu"):
        ratio = half["milliseconds"][name]["p50"] / plain["milliseconds"][name]["p50"]
        assert figures["ratio"][name]["median"] == pytest.approx(ratio)
        assert figures["ratio"][name]["low"] <= figures["ratio"][name]["high"]
    assert max(map(len, printed.splitlines()[:-1])) <= WIDTH
    assert "torch tiny bf16 takes" in printed and "CPU time" in printed and "estimates, nothing measured" in printed


@pytest.mark.usefixtures("known_limits")
def test_another_checkout_takes_turns(tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(tiny_weights)
    bench(weights, "torch", **SHORT, against=weights, against_checkout=CHECKOUT, stages=False, json=tmp_path / "b.json")
    ours, theirs = json.loads((tmp_path / "b.json").read_text())["sides"]
    check_side(ours)
    check_side(theirs)
    assert (ours["checkout"], theirs["checkout"]) == (None, str(CHECKOUT))
    assert theirs["sha256"] == ours["sha256"] and theirs["name"] == f"torch tiny of {CHECKOUT}"
    assert theirs["gflops"] is theirs["stages"] is theirs["floors"] is ours["stages"] is None
    assert ours["gflops"] > 0
    assert "not measured: only of this checkout" in capsys.readouterr().out


def test_frames_may_come_as_ros_messages_or_in_batches(tiny_weights: Path) -> None:
    side = {"weights": str(tiny_weights), "backend": "torch", "device": "cpu", "precision": "fp32", "size": [64, 96],
            "threads": 0, "checkout": "", "stages": False}  # fmt: skip
    one, two = Subject({**side, "batch": 1}), Subject({**side, "batch": 2})
    assert one.frame()["message"] is None  # ROS is not imported before `about`
    pytest.importorskip("sensor_msgs.msg")
    assert one.about()["message"] == ""
    times = one.frame()
    assert times["chain"] and times["frame"] and times["message"]
    assert times["chain"] < times["frame"] < times["message"]
    assert two.about()["message"] == "a batch has no message"
    times = two.frame()
    assert times["chain"] and times["frame"] is times["message"] is None


@pytest.mark.usefixtures("known_limits")
def test_sides_of_the_same_name_go_by_their_weights(tmp_path: Path, mgcda: Run) -> None:
    pytest.importorskip("onnxruntime")
    a, b = (write_artefact(tmp_path / name / "lite-720x1280-fp32.onnx") for name in "ab")
    code, printed, _ = mgcda("bench", "--weights", a, "--against", b, "--device", "cpu", "--size", "[64,96]",
                             "--frames", 1, "--stages", "false", "--threads", 1)  # fmt: skip
    assert code == 0
    ratio = rf" {re.escape(str(b))} takes [\d.]+ times as long as {re.escape(str(a))} \(half of"
    assert re.search(ratio, " ".join(printed.split()))
    assert f"  weights   {a}\n" in printed and f"  weights   {b}\n" in printed


@pytest.mark.parametrize(("threads", "cores"), [(0, 3), (2, 2)])
def test_chain_and_limits_use_the_same_cores(threads: int, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever OMP_NUM_THREADS says."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 5})
    monkeypatch.setattr(floors, "measure", lambda *_: Limits("fp32", float(torch.get_num_threads()), 1.0))
    side = Side("nowhere", "torch", "cpu", "fp32", (2, 2), 1, threads)
    before = torch.get_num_threads()
    try:
        assert _limits(side, {"device": "cpu", "precision": "fp32"})["gflops"] == cores
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr("mgcda_core.bench.sides._pin", lambda _: None)
    with Child(side) as child:
        environment = Path(f"/proc/{child._process.pid}/environ").read_bytes().split(b"\0")
    assert f"OMP_NUM_THREADS={cores}".encode() in environment


def test_a_batch_the_chain_was_not_made_for(mgcda: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    words = ("--device", "cpu", "--batch", 5, "--size", "[64,96]")
    error = only_error(mgcda("bench", *words), code=2)
    assert re.search(
        r"batch is 5, .*\.onnx takes up to 1 at a time: give --backend torch, .*mgcda export --max_batch 5$", error
    )
    artefact = write_artefact(tmp_path / "x.onnx")
    error = only_error(mgcda("bench", "--weights", artefact, *words), code=2)
    assert error.endswith("x.onnx takes up to 4 at a time: export one with mgcda export --max_batch 5")


def test_operations_are_those_counted_by_hand() -> None:
    conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
    flops, values, answer = count(lambda: conv(torch.zeros(2, 3, 16, 20)))
    assert answer.shape == (2, 8, 8, 10)
    assert flops == 2 * (2 * 8 * 8 * 10) * (3 * 9)  # multiply and add: outputs times weights of each
    assert values == 2 * 3 * 16 * 20 + 2 * 8 * 8 * 10
    flops, values, _ = count(lambda: nn.Linear(5, 7)(torch.zeros(4, 5)).relu())
    assert (flops, values) == (2 * 4 * 5 * 7, 4 * 5 + 4 * 7)


def test_a_chain_is_counted_without_being_run(tiny_config: SegmenterConfig) -> None:
    work = count_work(tiny_config, (64, 96))
    assert work.parameters == sum(p.numel() for p in AnomalySegmenter(tiny_config).parameters())
    comparing = 2e9 * network_gmac(tiny_config.dissimilarity, tiny_config.dissimilarity.size)
    assert work.stages["dissimilarity"] == pytest.approx(comparing, rel=1e-3)
    assert sum(work.stages.values()) == work.flops and work.stages["rest"] == 0


def test_the_outermost_stage_has_the_time() -> None:
    clock = itertools.accumulate(itertools.count()).__next__  # 0, 1, 3, 6, 10, 15, 21
    timeline = Timeline(clock, lambda begun, ended: ended - begun)
    inner = timeline.wrapped("perceptual", lambda: None)
    outer = timeline.wrapped("segmentation", inner)
    timeline.start()  # 0
    outer()  # 1 to 3
    inner()  # 6 to 10
    assert timeline.spent() == dict.fromkeys(STAGES, 0.0) | {"rest": 1 + 3 + 5, "segmentation": 2, "perceptual": 4}


def test_wrapped_calls_are_given_back(tiny_config: SegmenterConfig) -> None:
    chain, maps = AnomalySegmenter(tiny_config), uncertainty.uncertainty_maps
    before = set(vars(chain)), set(vars(chain.segmentation))
    with watched(chain, Timeline(lambda: 0, lambda a, b: b - a)):
        assert uncertainty.uncertainty_maps is not maps and "resized" in vars(chain)
    assert uncertainty.uncertainty_maps is maps
    assert (set(vars(chain)), set(vars(chain.segmentation))) == before


def test_operators_of_onnxruntime_belong_to_stages(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    names = ["chain.segmentation.a.weight", "chain.generator.b.weight", "chain.segmentation.a.weight"]
    nodes, value = [helper.make_node("Cast", ["image"], ["x0"], name="in", to=TensorProto.FLOAT)], "x0"
    for k, name in enumerate(names):
        nodes.append(helper.make_node("MatMul", [value, name], [f"m{k}"], name=f"product{k}"))
        nodes.append(helper.make_node("Sin", [f"m{k}"], [f"x{k + 1}"], name=f"sine{k}"))
        value = f"x{k + 1}"
    weights = [helper.make_tensor(n, TensorProto.FLOAT, [3, 3], np.eye(3).ravel()) for n in dict.fromkeys(names)]
    shape = [1, 64, 96, 3]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, shape)], weights,
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), tmp_path / "g.onnx")
    found = profiled_session(tmp_path / "g.onnx", np.zeros(shape, np.uint8), threads=1)
    assert set(found["operators"]) == {"Cast", "MatMul", "Sin"}
    assert found["stages"].keys() == {"segmentation", "synthesis", "perceptual", "rest"}
    assert sum(found["stages"].values()) == pytest.approx(sum(found["operators"].values()))


def test_an_exported_chain_has_its_own_precision(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    artefact = write_artefact(tmp_path / "x.onnx", precision="fp16")
    side = {"weights": str(artefact), "backend": "auto", "device": "cpu", "size": [64, 96], "batch": 1, "threads": 1,
            "checkout": "", "stages": True}  # fmt: skip
    subject = Subject({**side, "precision": "fp32"})
    assert subject.about()["precision"] == "fp16" and subject.stages() is None
    operators = subject.operators()
    assert operators is not None and "AveragePool" in operators["operators"]
    with pytest.raises(ConfigError, match="has its own: leave --precision out"):
        Subject({**side, "precision": "bf16"})


def test_floors_are_operations_and_bytes_over_the_limits() -> None:
    work = Work(parameters=1000, flops=4e9, activations=500, stages={})
    assert work.bytes(4) == 6000
    assert floors_ms(work, Limits("fp32", 200.0, 1e-3)) == {"flops_ms": 20.0, "bytes_ms": 6.0, "larger_ms": 20.0}
    assert floors_ms(work, Limits("int8", None, 1e-3)) == {"flops_ms": None, "bytes_ms": 1.5, "larger_ms": 1.5}
    nano = orin_estimates(work)[0]
    assert nano["floor_ms"] == pytest.approx(4 / 10.2)  # 4 GFLOP at 10.2 TFLOP/s
    assert nano["fps_at_floor"] == pytest.approx(3 * float(nano["fps_at_3x_floor"]))


def test_limits_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "_COPIED", 1 << 20)
    monkeypatch.setattr(floors, "_SIDE", {"cpu": 256})
    monkeypatch.setattr(floors, "_REPEATS", 1)
    limits = floors.measure(torch.device("cpu"), "fp32")
    assert limits.gflops and limits.gflops > 1 and limits.gbytes > 0.1
    assert floors.measure(torch.device("cpu"), "int8").gflops is None
    assert floors.measure(torch.device("cpu"), "fp16").gflops is None


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (("--frames", 0), 2, "time at least one frame"),
        (("--warm_up", 0), 2, "after one to warm up"),
        (("--against_precision", "bf16"), 2, "need --against"),
        (("--against", "published", "--against_backend", "torch"), 2, "has its own backend"),
        (("--against_checkout", "nowhere"), 2, "no checkout of this project"),
        (("--backend", "nonsense"), 2, "backend is 'nonsense'"),
        (("--weights", "random:nonsense", "--backend", "torch"), 2, "no profile 'nonsense'"),
        (("--weights", "nowhere.safetensors"), 1, "no weights file at nowhere.safetensors"),
    ],
)
def test_wrong_use_is_named(mgcda: Run, tiny_weights: Path, flags: tuple[object, ...], code: int, text: str) -> None:
    weights = () if "--weights" in flags else ("--weights", tiny_weights)
    assert text in only_error(mgcda("bench", *weights, "--device", "cpu", *flags), code=code)


def test_only_a_published_chain_has_a_published_composition(mgcda: Run, tiny_weights: Path) -> None:
    run = mgcda("bench", "--weights", tiny_weights, "--backend", "torch", "--device", "cpu", "--against", "published",
                "--size", "[64,96]", "--frames", 1)  # fmt: skip
    assert "no chain of the published kind" in only_error(run, code=2)


def test_random_weights_are_the_profiles() -> None:
    from mgcda_core.bench.subject import open_side

    backend = open_side("random:lite", "torch", "cpu", 0)
    assert backend.config == PROFILES["lite"] and backend.name == "torch random lite"
    with pytest.raises(ConfigError, match="runs in PyTorch only"):
        open_side("random:lite", "onnxruntime", "cpu", 0)
