"""The node's two threads: a GPU infers the next frame while the last one is described; none is lost, nothing grows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_client import Client, node_and_client
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tiny_artefact import write_artefact

from mgcda_ros.camera_stream import Frame
from mgcda_ros.device_health import resident_mb
from mgcda_ros.lifecycle_node import MgcdaNode
from mgcda_ros.messages import to_image
from mgcda_ros.mounting import Mounting
from mgcda_ros.outputs import Outputs

pytestmark = pytest.mark.ros
SIZE = (120, 160)
SLOW_S = 0.1


@pytest.fixture
def published(ros: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[MgcdaNode, list[str]]]:
    """An active node in this process whose hazards take SLOW_S, and what it has published, in order."""
    said: list[str] = []

    def mask(self: Outputs, header: Header, prediction: object) -> None:
        said.append(f"mask {header.stamp.sec}")

    def hazards(self: Outputs, header: Header, *_: object) -> None:
        time.sleep(SLOW_S)
        said.append(f"hazards {header.stamp.sec}")

    # rclpy keeps the lifecycle services of a node that is gone: in later tests they would be taken for the real one's.
    given = [Parameter("weights", value=str(write_artefact(tmp_path / "tiny.onnx")))]
    silent = partialmethod(LifecycleNode.__init__, enable_communication_interface=False, parameter_overrides=given)
    monkeypatch.setattr(LifecycleNode, "__init__", silent)
    monkeypatch.setattr(Outputs, "publish_mask", mask)
    monkeypatch.setattr(Outputs, "publish_hazards", hazards)
    node = MgcdaNode()
    node.start()
    assert node.network.predictor is not None
    backend: Any = node.network.predictor.backend
    backend.device = "cuda:0 pretended"
    yield node, said
    node.close()
    node.destroy_node()


def frame(number: int) -> Image:
    message = to_image(Image().header, SIZE, "rgb8", np.full(SIZE[0] * SIZE[1] * 3, number, np.uint8), SIZE[1] * 3)
    message.header.stamp.sec = number
    return message


def send(node: MgcdaNode, number: int) -> None:
    node._on_image(Frame(node.streams[""], frame(number), time.monotonic()))


def test_every_mask_has_its_hazards_in_order_and_drops_are_counted(published: tuple[MgcdaNode, list[str]]) -> None:
    node, said = published
    for number in range(1, 31):
        send(node, number)
        time.sleep(SLOW_S / 10)
    node.close()  # ends both threads; a mask that is out still gets its hazards
    masks, hazards = ([line.split()[1] for line in said if line.startswith(kind)] for kind in ("mask", "hazards"))
    assert masks == hazards == sorted(masks, key=int)
    assert 2 <= len(masks) < 30
    assert said[1].startswith("mask")  # the second frame's, before the first one's hazards
    counts = node.streams[""].statistics.snapshot()
    assert (counts.frames_in, counts.masks_out, counts.errors) == (30, len(masks), 0)
    assert counts.dropped == 30 - len(masks)  # what was still waiting at the end as well


def test_on_a_cpu_one_frame_comes_after_the_other(published: tuple[MgcdaNode, list[str]]) -> None:
    node, said = published
    assert node.network.predictor is not None
    backend: Any = node.network.predictor.backend
    backend.device = "cpu"
    send(node, 1)
    wait_for(lambda: said == ["mask 1"])
    send(node, 2)
    wait_for(lambda: len(said) == 4)
    assert said == ["mask 1", "hazards 1", "mask 2", "hazards 2"]


def test_errors_of_the_second_stage_are_counted_and_the_node_goes_on(
    published: tuple[MgcdaNode, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, said = published

    def broken(*_: object) -> None:
        raise ValueError("no place for it")

    def pictures(self: Outputs, header: Header, *_: object) -> None:
        said.append(f"pictures {header.stamp.sec}")

    with monkeypatch.context() as patch:
        patch.setattr(Outputs, "publish_hazards", broken)
        patch.setattr(Outputs, "publish_pictures", pictures)
        send(node, 1)
        wait_for(lambda: node.streams[""].statistics.snapshot().other_errors == 1)
    assert "no place for it" in (node.streams[""].statistics.snapshot().recent_error or "")
    send(node, 2)
    wait_for(lambda: said[-1] == "hazards 2")
    assert said == ["mask 1", "pictures 1", "mask 2", "hazards 2"]


def test_the_mounting_is_looked_up_until_the_last_hazards_are_out(
    published: tuple[MgcdaNode, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, said = published
    with monkeypatch.context() as patch:
        patch.setattr(Mounting, "close", lambda _: said.append("closed"))
        send(node, 1)
        wait_for(lambda: said == ["mask 1"])
        node.on_deactivate(LifecycleState("active", 3))
    assert said == ["mask 1", "hazards 1", "closed"]


@pytest.mark.parametrize("ended_by", ["watchdog", "deactivation"])
def test_a_frame_whose_run_hangs_is_counted_once(
    published: tuple[MgcdaNode, list[str]], monkeypatch: pytest.MonkeyPatch, ended_by: str
) -> None:
    node, said = published
    begun, released = threading.Event(), threading.Event()
    predictor: Any = node.network.predictor
    answer = predictor.batch

    def hung(images: list[np.ndarray]) -> Any:
        begun.set()
        released.wait(20.0)
        return answer(images)

    monkeypatch.setattr(predictor, "batch", hung)
    monkeypatch.setattr(MgcdaNode._halt, "__defaults__", (0.02,))
    for number in (1, 2, 3):
        send(node, number)
        assert begun.wait(5.0)
    late = node._worker
    if ended_by == "watchdog":
        node.set_parameters([Parameter("hang_timeout", value=0.5)])
        wait_for(lambda: late is not None and late.busy_s > 0.5)
        node._poll()
    else:
        node.on_deactivate(LifecycleState("active", 3))
    ends = (0, 2, 1) if ended_by == "watchdog" else (0, 3, 0)
    statistics = node.streams[""].statistics
    for _ in range(2):
        counts = statistics.snapshot()
        assert (counts.masks_out, counts.dropped, counts.errors) == ends
        released.set()
        wait_for(lambda: late is not None and not late.in_work)
    assert said == []


def test_deactivation_tells_of_a_second_stage_that_does_not_end(
    published: tuple[MgcdaNode, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, said = published
    monkeypatch.setattr(MgcdaNode._halt, "__defaults__", (0.02,))
    send(node, 1)
    wait_for(lambda: said == ["mask 1"])
    started = time.monotonic()
    assert node.on_deactivate(LifecycleState("active", 3)) == TransitionCallbackReturn.SUCCESS
    assert time.monotonic() - started < SLOW_S
    assert node.stuck


def wait_for(done: Callable[[], bool], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("exported", [True, pytest.param(False, marks=[pytest.mark.long, pytest.mark.timeout(400)])],
                         ids=["eight nodes", "real chain"])  # fmt: skip
def test_memory_of_the_node_is_flat_over_500_frames(
    ros: None, tiny_weights: Path, tmp_path: Path, exported: bool
) -> None:
    """From the message to hazards, score and overlay; one answer kept of each frame would make it grow by 110 MB."""
    weights = write_artefact(tmp_path / "tiny.onnx") if exported else tiny_weights
    arguments = ["--ros-args", "-p", f"weights:={weights}", "-p", "device:=cpu"]
    with node_and_client(arguments, tmp_path) as (process, client, _):
        for output in ("score", "overlay"):
            client.listen(output, Image)
        client.ready()
        images = np.random.default_rng(0).integers(0, 256, (8, *SIZE, 3), np.uint8)
        _feed(client, images, 40)
        before = resident_mb(process.pid)
        _feed(client, images, 500)
        assert resident_mb(process.pid) - before < 20.0


def _feed(client: Client, images: np.ndarray, count: int) -> None:
    for number in range(count):
        assert client.answer(client.message(images[number % len(images)]), "overlay") is not None
        for kept in client.got.values():
            kept.clear()
