"""An engine that is built while the node serves: the builder is a stand-in, the process around it is the real one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from node_client import Client
from tiny_artefact import ANY, expected, write_artefact

from mgcda_core.inference.predictor import Predictor
from mgcda_core.inference.sidecar import Dimension
from mgcda_ros.diagnostics import Condition, FrameStatistics, Passage, judge
from mgcda_ros.engine_build import EngineBuild, command
from mgcda_ros.network import Network, View
from mgcda_ros.node_parameters import NodeParameters
from mgcda_ros.node_process import stop_node, wait_active

# Prints as `mgcda build-engine` does, and ends as the file named by its argument says.
BUILDER = """
import os, pathlib, sys, time
print(f"pid {os.getpid()}", flush=True)
print("building tiny.onnx: 5 s (Timing tactics)", flush=True)
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.02)
sys.exit(pathlib.Path(sys.argv[1]).read_text() or 0)
"""


class Log:
    def __init__(self) -> None:
        self.infos: list[str] = []
        self.errors: list[str] = []


class Loaded(Predictor):
    def __init__(self) -> None:
        self.warm = False

    def warm_up(self) -> None:
        self.warm = True


def builder(end: Path) -> list[str]:
    return [sys.executable, "-c", BUILDER, str(end)]


def until(done: Any) -> None:
    deadline = time.monotonic() + 20.0
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


@pytest.fixture()
def log() -> Log:
    return Log()


def test_progress_then_a_predictor_that_is_warm(tmp_path: Path, log: Log) -> None:
    end, loaded = tmp_path / "end", Loaded()
    build = EngineBuild(builder(end), lambda: loaded, log.infos.append, log.errors.append)
    until(lambda: "building tiny.onnx: 5 s (Timing tactics)" in log.infos)
    assert build.state.startswith("building ")
    assert build.take() is None
    end.write_text("")
    until(lambda: build.state == "ready")
    assert build.take() is loaded
    assert loaded.warm
    assert build.take() is None
    assert log.errors == []
    assert build.stop()


@pytest.mark.parametrize("fault", ["builder", "engine"])
def test_what_went_wrong_is_told_and_no_more(tmp_path: Path, log: Log, fault: str) -> None:
    def load() -> Predictor:
        raise ValueError("cannot load it")

    end = tmp_path / "end"
    end.write_text("error: no kernel for /conv" if fault == "builder" else "")
    build = EngineBuild(builder(end), load, log.infos.append, log.errors.append)
    until(lambda: build.state.startswith("failed"))
    said = "no kernel for /conv (exit code 1)" if fault == "builder" else "cannot load it"
    assert build.state == f"failed: {said}"
    assert log.errors == [f"no engine: {said}. The node goes on with the backend it has"]
    assert build.take() is None


def test_it_is_stopped_at_once(tmp_path: Path, log: Log) -> None:
    build = EngineBuild(builder(tmp_path / "never"), Loaded, log.infos.append, log.errors.append)
    until(lambda: len(log.infos) == 2)
    started = time.monotonic()
    assert build.stop()
    assert time.monotonic() - started < 1.0
    assert gone(int(log.infos[0].split()[1]))
    assert (build.take(), log.errors) == (None, [])


def test_the_command_is_the_one_for_users(tmp_path: Path) -> None:
    engine: Any = SimpleNamespace(onnx=tmp_path / "tiny.onnx", library="tensorrt")
    words = command(engine, "cuda:1")
    assert words[1:3] == ["-m", "mgcda_core.cli"]
    assert words[3:] == ["build-engine", str(engine.onnx), "--library", "tensorrt", "--device", "cuda:1"]


def test_diagnostics_say_how_it_stands() -> None:
    statistics = FrameStatistics()
    statistics.received()
    statistics.published(Passage(0.01))
    for level, state in ((b"\0", "building 7 s"), (b"\0", "ready"), (b"\1", "failed: no kernel")):
        said = judge(statistics.snapshot(), Condition("active", engine=state), "/image", NodeParameters())
        assert said == (level, f"active, engine {state}")


def test_bytes_that_are_no_text_do_not_end_the_reading(tmp_path: Path, log: Log) -> None:
    words = [sys.executable, "-c", r"import sys; sys.stdout.buffer.write(b'phase \xff\n'); sys.exit(3)"]
    build = EngineBuild(words, Loaded, log.infos.append, log.errors.append)
    until(lambda: build.state.startswith("failed"))
    assert build.state == "failed: phase \ufffd (exit code 3)"


def test_a_log_that_fails_is_a_failure_not_an_endless_building(tmp_path: Path, log: Log) -> None:
    def broken(_: str) -> None:
        raise RuntimeError("the log is gone")

    build = EngineBuild(builder(tmp_path / "never"), Loaded, broken, log.errors.append)
    until(lambda: build.state == "failed: the log is gone")
    assert build.stop()


def test_it_ends_with_a_node_that_is_killed(tmp_path: Path) -> None:
    node = f"""
import sys, time
from mgcda_ros.engine_build import EngineBuild
words = [sys.executable, "-c", {BUILDER!r}, {str(tmp_path / "never")!r}]
EngineBuild(words, None, lambda line: print(line, flush=True), print)
time.sleep(60.0)
"""
    with subprocess.Popen([sys.executable, "-c", node], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline().split()[1])
        assert not gone(pid)
        process.kill()
        process.stdout.close()
    until(lambda: gone(pid) or "(zombie)" in Path(f"/proc/{pid}/status").read_text())


@pytest.mark.parametrize(
    ("views", "taken"),
    [
        ([], None),  # nobody knows yet
        ([View((720, 1280))], True),
        ([View((720, 1280)), View((600, 1920))], False),
        ([View((1400, 1280))], False),
        ([View((1400, 1280), crop_top=0.25)], True),
        ([View((2160, 3840), scale="network")], True),
        ([View((50, 50))], False),
    ],
)
def test_an_engine_is_taken_if_it_takes_what_it_would_see_of_every_camera(
    views: list[View], taken: bool | None, log: Log
) -> None:
    def ignored(_: str) -> None:
        pass

    network = Network(cast("Any", SimpleNamespace(info=ignored, warning=ignored, error=log.errors.append)))
    sizes = SimpleNamespace(name="tensorrt x fp16", device="cuda:0", min_size=(64, 64), max_size=(1100, 1300))
    sizes.config = SimpleNamespace(threshold=0.5, segmentation=SimpleNamespace(size=(512, 1024)))
    waiting: list[Any] = [Predictor(cast("Any", sizes))]
    network._build = cast("Any", SimpleNamespace(take=lambda: waiting.pop() if waiting else None))
    for _ in range(2):
        network.poll(views)
    assert (network.predictor is not None) == (taken is True)
    assert any("is not used" in line for line in log.errors) == (taken is False)
    if taken is None:
        network.poll([View((720, 1280))])
        assert network.predictor is not None


# The node with an engine to build: its plan and its builder are stand-ins; the "engine" runs in ONNX Runtime.
NODE = """
import sys
from pathlib import Path
from types import SimpleNamespace
from mgcda_ros import network, node
onnx, end, builder = sys.argv[1:4]
engine = SimpleNamespace(onnx=Path(onnx), library="onnxruntime")
network.pending_engine = lambda *_: engine
network.command = lambda engine, device: [sys.executable, "-c", builder, end]
sys.exit(node.main(sys.argv[4:]))
"""


@contextmanager
def node_that_builds(
    weights: Path, folder: Path, shape: tuple[Dimension, ...] = ANY
) -> Iterator[tuple[subprocess.Popen[str], Client, Path]]:
    """The node, a client, and the file that ends the builder; `shape`: frames that the engine takes."""
    onnx, end, log = write_artefact(folder / "other.onnx", shape), folder / "end", folder / "node.log"
    words = [sys.executable, "-c", NODE, str(onnx), str(end), BUILDER, "--ros-args", "-p", f"weights:={weights}"]
    client = Client()
    with log.open("w") as stream, subprocess.Popen(words, stdout=stream, stderr=stream, text=True) as process:
        try:
            wait_active(client, client.spinner, process, 60.0)
            client.ready()
            yield process, client, end
        finally:
            process.kill()
            client.spinner.shutdown()
            client.destroy_node()


@pytest.mark.ros
def test_the_node_serves_while_it_builds_and_then_switches(ros: None, tiny_weights: Path, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 70, 3), np.uint8)
    with node_that_builds(tiny_weights, tmp_path) as (process, client, end):
        assert client.answer(client.message(image)) is not None
        _, said, values = client.diagnostics(lambda values: values["engine"].startswith("building"))
        assert "engine building" in said
        assert values["backend"] == "torch tiny"
        end.write_text("")
        client.diagnostics(lambda values: values["backend"] == "onnxruntime tiny fp32" and values["engine"] == "ready")
        mask = client.answer(client.message(image))
        score = 1 / (1 + np.exp(-expected(image)))
        assert np.array_equal(np.frombuffer(bytes(mask.data), np.uint8).reshape(48, 70) == 255, score >= 0.7)
        assert stop_node(process) == 0
    log = (tmp_path / "node.log").read_text()
    assert "building tiny.onnx: 5 s (Timing tactics)" in log
    assert "from now on onnxruntime tiny fp32 on cpu" in log
    assert "no exported chain made of" in log  # the core's own line


@pytest.mark.ros
def test_an_engine_for_smaller_frames_than_the_cameras_is_not_used(
    ros: None, tiny_weights: Path, tmp_path: Path
) -> None:
    image = np.zeros((48, 70, 3), np.uint8)
    with node_that_builds(tiny_weights, tmp_path, (1, (2, 64), (2, 64), 3)) as (process, client, end):
        assert client.answer(client.message(image)) is not None
        end.write_text("")
        client.diagnostics(lambda values: values["engine"] == "ready")
        assert client.answer(client.message(image)) is not None
        _, _, values = client.diagnostics(lambda values: True)
        assert values["backend"] == "torch tiny"
        assert stop_node(process) == 0
    log = (tmp_path / "node.log").read_text()
    assert "is not used: it takes frames of 2x2 to 64x64, what it would see of a camera's is 48x70" in log


@pytest.mark.ros
def test_a_signal_while_it_builds_ends_both_processes(ros: None, tiny_weights: Path, tmp_path: Path) -> None:
    with node_that_builds(tiny_weights, tmp_path) as (process, client, _):
        client.diagnostics(lambda values: values["engine"].startswith("building"))
        started = time.monotonic()
        assert stop_node(process) == 0
        assert time.monotonic() - started < 5.0
    log = (tmp_path / "node.log").read_text()
    assert gone(int(log.partition("pid ")[2].split()[0]))
    assert "Traceback" not in log
    assert "no engine" not in log
