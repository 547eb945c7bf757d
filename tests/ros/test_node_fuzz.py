"""What no driver should send: 2000 messages in this process, then damaged bytes over DDS; each is counted."""

from __future__ import annotations

import array
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from node_client import Client, node_in_process
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String
from tiny_artefact import expected, write_artefact

from mgcda_core.inference import encodings
from mgcda_ros.camera_stream import Frame
from mgcda_ros.device_health import resident_mb
from mgcda_ros.lifecycle_node import MgcdaNode
from mgcda_ros.messages import to_image

pytestmark = pytest.mark.ros
MESSAGES = 2000
MOST_MB = 100.0
"""More memory than this at no time: the largest frame that is sent whole has 0.1 MB."""
HUGE = (1 << 31, (1 << 32) - 1)
SIDES = (0, 1, 2, 3, 7, 32, 48, 70, 121, 160, 32768, 32769, *HUGE)
FRAME_IDS = ("", "camera", "../../../etc/passwd", "\U0001f697 \n{}%s", "x" * 100_000)
LIVE: tuple[tuple[str, Any], ...] = (
    ("temporal_filter", "vote"), ("temporal_filter", "ema"), ("temporal_filter", "none"), ("threshold", 0.0),
    ("threshold", 1.0), ("threshold", -1.0), ("crop_top", 0.8), ("crop_top", 0.0), ("road_only", True),
    ("road_only", False), ("rectified", True), ("rectified", False), ("roi", [0.1, 0.1, 0.9, 0.2, 0.5, 1.0]),
    ("roi", [0.0]), ("mask_scale", "network"), ("mask_scale", "input"),
)  # fmt: skip


class Hostile:
    """Draws messages; about a third of the images are whole."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def any(self, values: Any) -> Any:
        return values[int(self.rng.integers(len(values)))]

    def header(self) -> Header:
        nanoseconds = self.any((0, 5, 999_999_999, 1_000_000_000, HUGE[1]))
        return Header(stamp=Time(sec=self.any((0, 0, 7, -1, -HUGE[0], HUGE[0] - 1, int(time.time()))),
                                 nanosec=nanoseconds), frame_id=self.any(FRAME_IDS))  # fmt: skip

    def picture(self) -> np.ndarray:
        height, width = (int(side) for side in self.rng.integers(2, 161, 2))
        return self.rng.integers(0, 256, (height, width, 3), np.uint8)

    def image(self) -> Image:
        """Whole, or with one field or all of them wrong."""
        picture, name = self.picture(), self.any(sorted(encodings.ENCODINGS))
        even = cv2.resize(picture, (picture.shape[1] // 2 * 2 + 2, picture.shape[0] // 2 * 2 + 2))
        data, step = encodings.from_rgb(even, name)
        message = to_image(self.header(), (even.shape[0], even.shape[1]), name, data, step)
        message.is_bigendian = int(self.any((0, 1, 255)))
        wrong: dict[str, Callable[[], Any]] = {
            "height": lambda: self.any(SIDES),
            "width": lambda: self.any(SIDES),
            "step": lambda: int(self.any((0, 1, step - 1, step + 1, 3 * step, *HUGE))),
            "encoding": lambda: self.any(("", "rgb16", "32FC1", "RGB8", "mono16", "nv21", "%s" * 1000, "../x")),
            "data": lambda: array.array("B", self.rng.bytes(self.any((0, 1, data.size - 1, data.size + 1, 100_000)))),
        }
        fields = self.any(([], [], [self.any(list(wrong))], [self.any(list(wrong))], list(wrong)))
        for field in fields:
            setattr(message, field, wrong[field]())
        return message

    def compressed(self) -> CompressedImage:
        """Whole, cut off, with bytes turned over, with a size that is a lie, or noise."""
        kind = self.any(("jpeg", "png", "webp"))
        content = bytearray(cv2.imencode(f".{kind}", self.picture())[1].tobytes())
        how = self.any(("whole", "whole", "cut", "turned", "lie", "noise"))
        if how == "cut":
            del content[int(self.rng.integers(len(content))) :]
        elif how == "turned":
            for place in self.rng.integers(0, len(content), 1 + len(content) // 50):
                content[place] = int(self.rng.integers(256))
        elif how == "lie":
            content = bytearray(cv2.imencode(".png", self.picture())[1].tobytes())
            content[16:24] = np.array(self.rng.integers(1, 1 << 31, 2), ">u4").tobytes()
        elif how == "noise":
            content = bytearray(self.rng.bytes(int(self.rng.integers(0, 3000))))
        stated = self.any((kind, "", "rgb8; jpeg compressed bgr8", "bayer_rggb8; png compressed mono8", "x" * 10_000))
        return CompressedImage(header=self.header(), format=stated, data=array.array("B", content))

    def camera_info(self) -> CameraInfo:
        """Half of the values are numbers that a camera could have."""
        odd = (0.0, -1.0, 1e-300, 1e300, np.inf, -np.inf, np.nan)

        def values(count: int) -> list[float]:
            share = self.any((0.0, 0.1, 0.5))
            return [
                float(self.any(odd) if self.rng.random() < share else 100.0 * self.rng.random()) for _ in range(count)
            ]

        info = CameraInfo(header=self.header(), k=values(9), r=values(9), p=values(12))
        info.height, info.width = self.any(SIDES), self.any(SIDES)
        info.d = values(self.any((0, 4, 5, 8, 12, 14, 15, 10_000)))
        info.distortion_model = self.any(("", "plumb_bob", "rational_polynomial", "equidistant", "none", "x" * 10_000))
        info.roi.x_offset, info.roi.y_offset = self.any(SIDES), self.any(SIDES)
        info.roi.height, info.roi.width = self.any(SIDES), self.any(SIDES)
        return info


@pytest.fixture
def node(ros: None, tmp_path: Path) -> Iterator[MgcdaNode]:
    """Active, in this process, with somebody who subscribes all pictures."""
    listener = Node("listener")
    for output in ("score", "overlay", "segmentation"):
        listener.create_subscription(Image, f"/mgcda_node/{output}", lambda _: None, 1)
    listener.create_subscription(String, "/mgcda_node/hazards_info", lambda _: None, 1)
    weights = str(write_artefact(tmp_path / "tiny.onnx"))
    with node_in_process(weights=weights, device="cpu", confirm_hits=1, min_region_area=1) as started:
        yield started
    listener.destroy_node()


def settled(node: MgcdaNode) -> bool:
    counts = node.streams[""].statistics.snapshot()
    return counts.frames_in == counts.masks_out + counts.dropped + counts.errors


def wait_settled(node: MgcdaNode) -> None:
    deadline = time.monotonic() + 20.0
    while not settled(node):
        assert time.monotonic() < deadline, node.streams[""].statistics.snapshot()
        time.sleep(0.0005)


def peak_mb() -> float:
    """Most memory that this process had since `forget_peak`, in MiB."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def send(node: MgcdaNode, message: Image | CompressedImage) -> None:
    node._on_image(Frame(node.streams[""], message, time.monotonic()))


def test_2000_hostile_messages_are_counted_one_by_one_and_the_next_frame_is_answered(node: MgcdaNode) -> None:
    stream, hostile = node.streams[""], Hostile(7)
    images, before = 0, 0.0
    for number in range(MESSAGES):
        if number == MESSAGES // 5:
            forget_peak()
            before = resident_mb()
        if number % 50 == 0:
            name, value = hostile.any(LIVE)
            assert node.set_parameters([Parameter(name, value=value)])[0].successful
        draw = hostile.any((hostile.image, hostile.image, hostile.image, hostile.compressed, hostile.camera_info))
        message = draw()
        if isinstance(message, CameraInfo):
            stream.input._on_camera_info(message)
            continue
        send(node, message)
        images += 1
        if hostile.rng.random() < 0.8:  # else the next one takes its place, maybe
            wait_settled(node)
    wait_settled(node)
    counts = stream.statistics.snapshot()
    assert counts.frames_in == images == counts.masks_out + counts.dropped + counts.errors
    assert min(counts.masks_out, counts.errors, counts.decode_errors) > 300, counts
    assert counts.other_errors > 20, counts  # CameraInfo that no camera can have
    assert peak_mb() - before < MOST_MB
    for name, value in dict(LIVE).items():
        node.set_parameters([Parameter(name, value=value)])
    stream.input.camera_info = None
    image = hostile.rng.integers(0, 256, (48, 70, 3), np.uint8)
    send(node, to_image(Header(), (48, 70), "rgb8", image.reshape(-1), 210))
    wait_settled(node)
    assert stream.last is not None
    np.testing.assert_allclose(stream.last.prediction.logits, expected(image), atol=1e-5)
    after = stream.statistics.snapshot()
    assert (after.masks_out, after.errors, after.other_errors) == (
        counts.masks_out + 1, counts.errors, counts.other_errors
    )  # fmt: skip


def test_damaged_bytes_on_the_wire_leave_the_node_and_its_counts_whole(
    running: tuple[subprocess.Popen[str], Client, Path],
) -> None:
    """CDR with bytes turned over or cut off: what cannot be parsed is no frame, what can is counted as one."""
    process, client, _ = running
    hostile = Hostile(8)
    client.answer(client.message(hostile.picture()))
    before = resident_mb(process.pid)
    for number in range(200):
        publisher, message = (
            (client.infos, hostile.camera_info()) if number % 4 == 0 else (client.images, hostile.image())
        )
        content = bytearray(serialize_message(message))
        for place in hostile.rng.integers(4, min(len(content), 120), number % 5):
            content[place] = int(hostile.rng.integers(256))
        publisher.publish(bytes(content[: len(content) if number % 3 else int(hostile.rng.integers(4, len(content)))]))
        client.until(lambda: False, 0.01)
    assert client.answer(client.message(hostile.picture())) is not None
    _, _, values = client.diagnostics(
        lambda now: int(now["frames_in"]) == int(now["masks_out"]) + int(now["dropped"]) + int(now["errors"])
    )
    assert int(values["errors"]) > 10
    assert resident_mb(process.pid) - before < MOST_MB
