"""Several cameras: their own topics, parameters, figures, one network for all; or a process each, by namespace."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from node_client import Client, node_and_client, node_in_process
from std_msgs.msg import Header
from tiny_artefact import expected, write_artefact

from mgcda_ros.camera_stream import Frame
from mgcda_ros.lifecycle_node import MgcdaNode
from mgcda_ros.messages import to_image
from mgcda_ros.node_process import running_node, stop_node

pytestmark = pytest.mark.ros
FRONT, REAR = (48, 70), (32, 40)


def picture(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


@pytest.fixture(scope="module")
def cameras(ros: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Client, Client, Client]]:
    """Clients of front and rear, cameras of one node, and of a second node in the namespace /left."""
    folder = tmp_path_factory.mktemp("cameras")
    given = ["--ros-args", "-p", f"weights:={write_artefact(folder / 'tiny.onnx')}", "-p", "confirm_hits:=1"]
    both = [*given, "-p", "cameras:=[front, rear]", "-p", "front.camera_height:=3.0", "-p", "threshold:=0.0"]
    left, rear = Client(node="/left/mgcda_node"), Client("rear")
    with (folder / "left.log").open("w") as log:
        alone = running_node([*given, "-r", "__ns:=/left"], cwd=folder, stdout=log, stderr=log)
        with alone as process, node_and_client(both, folder, camera="front") as (_, front, _):
            rear.ready()
            left.ready(timeout=60.0)
            yield front, rear, left
            assert stop_node(process) == 0, (folder / "left.log").read_text()
    for client in (left, rear):
        client.spinner.shutdown()
        client.destroy_node()


def test_each_camera_has_its_topics_sizes_and_parameters(cameras: tuple[Client, Client, Client]) -> None:
    feet = []
    for client, size in zip(cameras, (FRONT, REAR), strict=False):
        sent = client.message(picture(size))
        mask, hazards = client.answer(sent), client.answer(sent, "hazards")
        assert (mask.height, mask.width) == size
        assert mask.header == sent.header
        cube = hazards.markers[1]
        feet.append(
            cube.pose.position.x * size[0] / size[1]
        )  # the tangent of the angle of its lower edge is in proportion
    assert feet[0] == pytest.approx(2 * feet[1], rel=0.05)  # camera_height 3.0 and, by default, 1.5
    front, _, _ = cameras
    assert front.set("rear.camera_height", 2.0).successful
    assert "rear.ego_mask cannot change while the node is active" in front.set("rear.ego_mask", "x.png").reason
    assert not front.set("camera_height", 2.0).successful  # with names there is none without


def test_a_camera_that_sends_nonsense_has_a_bad_status_the_other_goes_on(
    cameras: tuple[Client, Client, Client],
) -> None:
    front, rear, _ = cameras
    _, _, before = rear.diagnostics()
    for _ in range(5):
        broken = rear.message(picture(REAR))
        broken.data = b"\0" * 10
        rear.images.publish(broken)
        rear.until(lambda: False, 0.05)
        assert front.answer(front.message(picture(FRONT))) is not None
    level, said, values = rear.diagnostics(lambda now: int(now["decode_errors"]) > int(before["decode_errors"]))
    assert level != b"\0"
    assert "/rear/image: data holds 10 bytes" in said
    assert (values["camera"], values["frame"]) == ("rear", "32x40")
    level, said, values = front.diagnostics()
    assert (level, said) == (b"\0", "active")
    assert (values["camera"], values["frame"], values["errors"]) == ("front", "48x70", "0")
    assert rear.answer(rear.message(picture(REAR))) is not None


def test_one_process_a_camera_by_namespace(cameras: tuple[Client, Client, Client]) -> None:
    front, rear, left = cameras
    quiet = [len(client.got["mask"]) for client in (front, rear)]
    image = picture(FRONT)
    mask = left.answer(left.message(image))
    assert np.array_equal(
        np.frombuffer(bytes(mask.data), np.uint8).reshape(FRONT) == 255, expected(image) >= np.log(0.7 / 0.3)
    )
    assert left.diagnostics(lambda now: now["topic"] == "/left/image")[2]["camera"] == ""
    assert quiet == [len(client.got["mask"]) for client in (front, rear)]


# One node in this process, whose backend is looked at -----------------------------------------------------------


@pytest.fixture
def both(ros: None, tmp_path: Path) -> Iterator[MgcdaNode]:
    weights = str(write_artefact(tmp_path / "tiny.onnx"))
    with node_in_process(weights=weights, device="cpu", cameras=["front", "rear"], max_batch=2, batch_wait=0.5) as node:
        yield node


def send(node: MgcdaNode, camera: str, image: np.ndarray) -> None:
    message = to_image(Header(), (image.shape[0], image.shape[1]), "rgb8", image.reshape(-1), 3 * image.shape[1])
    node._on_image(Frame(node.streams[camera], message, time.monotonic()))


def settled(node: MgcdaNode) -> bool:
    return all(
        counts.frames_in == counts.masks_out + counts.dropped + counts.errors
        for counts in (stream.statistics.snapshot() for stream in node.streams.values())
    )


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20.0
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def together(node: MgcdaNode, sizes: tuple[tuple[int, int], tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    images = picture(sizes[0], 1), picture(sizes[1], 2)
    for camera, image in zip(node.streams, images, strict=True):
        send(node, camera, image)
    wait_for(lambda: settled(node))
    return images


def watch(node: MgcdaNode, monkeypatch: pytest.MonkeyPatch, seconds: float = 0.0) -> list[tuple[int, ...]]:
    """Images, height and width of each run of the backend; each takes `seconds` longer."""
    assert node.network.predictor is not None
    backend: Any = node.network.predictor.backend
    runs: list[tuple[int, ...]] = []
    answer = backend.run_batch

    def watched(images: np.ndarray) -> Any:
        runs.append(images.shape[:3])
        time.sleep(seconds)
        return answer(images)

    monkeypatch.setattr(backend, "run_batch", watched)  # its `run` is a batch of one
    return runs


def test_frames_that_come_together_are_one_run_and_each_gets_its_own_answer(
    both: MgcdaNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = watch(both, monkeypatch)
    together(both, (FRONT, FRONT))  # the first run finds out how many the backend takes
    runs.clear()
    images = together(both, (FRONT, FRONT))
    assert runs == [(2, *FRONT)]
    for stream, image in zip(both.streams.values(), images, strict=True):
        assert stream.last is not None
        np.testing.assert_allclose(stream.last.prediction.logits, expected(image), atol=1e-5)
    runs.clear()
    together(both, (FRONT, REAR))  # of two sizes: two runs
    assert runs == [(1, *FRONT), (1, *REAR)]
    started = time.monotonic()
    send(both, "rear", picture(REAR))
    wait_for(lambda: settled(both))
    assert time.monotonic() - started > 0.4  # it waited for the other one, and no longer than batch_wait


def test_another_backend_that_takes_fewer_frames_loses_none(both: MgcdaNode, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = watch(both, monkeypatch)
    together(both, (FRONT, FRONT))
    assert both.network.predictor is not None
    backend: Any = both.network.predictor.backend
    monkeypatch.setattr(backend, "max_batch", 1)
    runs.clear()
    together(both, (FRONT, FRONT))  # still sent together: how many come is known after a run
    assert runs == [(1, *FRONT), (1, *FRONT)]
    assert [stream.statistics.snapshot().errors for stream in both.streams.values()] == [0, 0]


def test_a_camera_that_fails_after_the_network_does_not_take_the_others_mask(
    both: MgcdaNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    together(both, (FRONT, FRONT))

    def broken(*_: object) -> None:
        raise OSError("no room for it")

    monkeypatch.setattr(both.streams["front"], "answer", broken)
    together(both, (FRONT, FRONT))
    front, rear = (stream.statistics.snapshot() for stream in both.streams.values())
    assert (front.masks_out, front.errors, rear.masks_out, rear.errors) == (1, 1, 2, 0)


def test_a_fast_camera_does_not_starve_a_slow_one(both: MgcdaNode, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = watch(both, monkeypatch, seconds=0.02)
    both.current = type(both.current)(max_batch=1)  # one after the other
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            send(both, "front", picture(FRONT))
            time.sleep(0.002)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        rear = both.streams["rear"].statistics
        for number in range(1, 11):
            before = len(runs)
            send(both, "rear", picture(REAR))
            wait_for(lambda n=number: rear.snapshot().masks_out == n)
            assert (1, *REAR) in runs[before : before + 3]  # behind at most one that waited longer, and one just begun
    finally:
        stop.set()
        thread.join()
    wait_for(lambda: settled(both))
    front = both.streams["front"].statistics.snapshot()
    assert (rear.snapshot().dropped, rear.snapshot().errors) == (0, 0)
    assert front.masks_out >= 10
    assert front.dropped > front.masks_out
