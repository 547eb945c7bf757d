"""A network that hangs, fails or runs out of memory, in the real node: the predictor is a stand-in that does so."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from node_client import Client, node_and_client
from std_srvs.srv import Trigger

pytestmark = pytest.mark.ros
# Its first pixel says whether a frame hangs; the file `fault`, while it is there, how all but the CPU's runs fail.
NODE = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
import numpy as np
from mgcda_core.prediction import Prediction
from mgcda_ros import network, node

class Predictor:
    config = SimpleNamespace(threshold=0.5)

    def __init__(self, device, backend):
        self.backend = SimpleNamespace(name=f"{backend} x", device=device, sha256="0" * 64, max_batch=1)

    def seen_size(self, size):
        return size

    def warm_up(self):
        if self.backend.device != "cpu" and Path("fault").exists():
            if (fault := Path("fault").read_text()) == "hang":
                time.sleep(60.0)
            raise {"gpu": RuntimeError("CUDA error: lost"), "memory": MemoryError()}[fault]

    def batch(self, images):
        self.warm_up()
        if images[0][0, 0, 0] == 255:
            time.sleep(60.0)
        return [Prediction(np.zeros(image.shape[:2], np.float32), 0.5) for image in images]

network.load = lambda weights, device, backend, precision: Predictor(device, backend)
network.SOON_S = 2.0
network.FIRST_RETRY_S = network.LAST_RETRY_S = 0.5
sys.exit(node.main())
"""


@pytest.fixture(scope="module")
def watched(
    ros: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[subprocess.Popen[str], Client, Path]]:
    """At the end SIGINT must give exit code 0, with three threads that hang."""
    arguments = ["--ros-args", "-p", "hang_timeout:=0.5", "-p", "device:=gpu", "-p", "backend:=tensorrt"]
    with node_and_client(arguments, tmp_path_factory.mktemp("watched"), program=("-c", NODE)) as parts:
        yield parts


def frame(client: Client, first: int = 0) -> object:
    return client.message(np.full((8, 8, 3), first, np.uint8))


def answered(client: Client) -> bool:
    """Frames come until one has its mask."""
    return client.until(lambda: client.answer(frame(client), timeout=0.3) is not None)


def test_a_run_that_hangs_once_is_abandoned_and_a_fresh_backend_serves(
    watched: tuple[subprocess.Popen[str], Client, Path],
) -> None:
    _, client, log = watched
    assert client.answer(frame(client)) is not None
    for count in (1, 2):  # a run that ends well in between: they are not two in a row
        assert client.answer(frame(client, 255), timeout=0.1) is None
        assert client.until(lambda n=count: log.read_text().count("a fresh backend is loaded") == n)
        assert answered(client)
    level, said, values = client.diagnostics(lambda now: float(now["output_hz"]) > 0.0)
    assert (level, said) == (b"\1", "/image: TimeoutError: a run of the network took more than 0.5 s (hang_timeout)")
    assert values["errors"] == "2"
    ends = ("masks_out", "dropped", "errors")
    client.diagnostics(lambda now: int(now["frames_in"]) == sum(int(now[end]) for end in ends))
    assert client.until(lambda: client.diagnostics()[:2] == (b"\0", "active") or not answered(client))


def test_a_fresh_backend_that_hangs_as_well_gives_way_to_a_stand_in(
    watched: tuple[subprocess.Popen[str], Client, Path],
) -> None:
    _, client, log = watched
    (log.parent / "fault").write_text("hang")
    client.answer(frame(client, 255), timeout=0.1)
    client.diagnostics(lambda now: now["backend"] == "")
    assert client.diagnostics(lambda now: now["backend"] == "")[:2] == (b"\1", "a run hung; a fresh backend is loaded")
    assert answered(client)
    level, said, _ = client.diagnostics(lambda now: now["backend"] == "onnxruntime x")
    assert (level, "another backend stands in" in said) == (b"\1", True)
    (log.parent / "fault").unlink()
    assert client.call(Trigger, "reload_model", Trigger.Request()).success
    client.diagnostics(lambda now: now["backend"] == "tensorrt x")


def test_two_in_a_row_are_an_error_until_the_node_is_activated_again(
    watched: tuple[subprocess.Popen[str], Client, Path],
) -> None:
    _, client, log = watched
    before = log.read_text().count("from now on")
    client.answer(frame(client, 255), timeout=0.1)
    assert client.until(lambda: log.read_text().count("from now on") == before + 1)
    client.answer(frame(client, 255), timeout=0.1)
    assert client.until(lambda: "(hang_timeout), again: deactivate and activate" in log.read_text())
    level, said, values = client.diagnostics()
    assert (level, values["state"]) == (b"\2", "active")
    assert "more than 0.5 s (hang_timeout), again" in said
    assert client.answer(frame(client), timeout=0.3) is None
    answer = client.call(Trigger, "reload_model", Trigger.Request())
    assert (answer.success, "deactivate and activate it" in answer.message) == (False, True)
    assert client.change("deactivate")
    assert client.change("activate")
    client.ready()
    assert client.answer(frame(client)) is not None
    client.diagnostics(lambda now: float(now["output_hz"]) > 0.0)
    assert client.diagnostics()[0] == b"\0"


@pytest.mark.parametrize(("fault", "named"), [("gpu", "CUDA error: lost"), ("memory", "MemoryError")])
def test_a_backend_that_fails_has_a_stand_in_until_it_works_again(
    watched: tuple[subprocess.Popen[str], Client, Path], fault: str, named: str
) -> None:
    _, client, log = watched
    assert client.answer(frame(client)) is not None
    (log.parent / "fault").write_text(fault)
    assert client.answer(frame(client), timeout=0.1) is None
    assert answered(client)
    level, said, values = client.diagnostics(lambda now: now["backend"] == "onnxruntime x")
    assert level == b"\1"  # the frames that failed are not said: masks come again
    assert named in said
    assert values["device"] == "cpu"
    assert client.until(lambda: "recovery failed" in log.read_text().rpartition("to stand in")[2])
    assert client.answer(frame(client)) is not None
    (log.parent / "fault").unlink()
    client.diagnostics(lambda now: now["backend"] == "tensorrt x")
    assert client.answer(frame(client)) is not None
