"""What goes into the real node and comes out: encodings, transports, QoS, zones, sizes, filter, hazards as JSON."""

from __future__ import annotations

import array
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from node_client import Client
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header, String
from visualization_msgs.msg import Marker

from mgcda_core.hazards.zones import Zones
from mgcda_core.inference.encodings import ENCODINGS, from_rgb, to_rgb
from mgcda_core.prediction import Prediction
from mgcda_ros.node_parameters import CameraParameters, NodeParameters
from mgcda_ros.parameters import fields

pytestmark = pytest.mark.ros
SIZE = (48, 70)
ALL = 1e-9
"""A threshold that masks whatever is looked at."""
KNOWN = {**fields(NodeParameters), **fields(CameraParameters)}
LOSSLESS = ("rgb8", "bgr8", "rgba8", "bgra8")


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, 3), np.uint8)


def pixels(message: Image, dtype: str = "u1") -> np.ndarray:
    return np.frombuffer(bytes(message.data), dtype).reshape(message.height, message.width)


@contextmanager
def changed(client: Client, **values: Any) -> Iterator[None]:
    """Parameters for a while, and their defaults afterwards."""
    for name, value in values.items():
        result = client.set(name, value)
        assert result.successful, result.reason
    try:
        yield
    finally:
        for name in values:
            default = KNOWN[name].default
            assert client.set(name, list(default) if isinstance(default, tuple) else default).successful


@pytest.fixture(scope="module")
def client(running: tuple[subprocess.Popen[str], Client, Path]) -> Client:
    """It subscribes every output."""
    listener = running[1]
    for output in ("score", "overlay", "segmentation"):
        listener.listen(output, Image)
    listener.listen("hazards_info", String)
    listener.ready()
    assert listener.until(lambda: listener.answer(listener.message(picture()), "segmentation", timeout=0.5) is not None)
    return listener


def test_every_encoding_gives_the_score_of_its_own_colours(client: Client) -> None:
    for number, name in enumerate(ENCODINGS):
        image = picture(number)
        data, step = from_rgb(image, name, 300)
        decoded = to_rgb(data, *SIZE, name, step)
        if name in LOSSLESS:
            np.testing.assert_array_equal(decoded, image)
        first = client.answer(client.message(image, name, 300), "score")
        second = client.answer(client.message(decoded), "score")
        assert (first.height, first.width, first.encoding) == (*SIZE, "32FC1")
        np.testing.assert_array_equal(pixels(first, "<f4"), pixels(second, "<f4"), err_msg=name)


@contextmanager
def transported(client: Client) -> Iterator[Any]:
    """A publisher of compressed images, which the node subscribes meanwhile."""
    publisher = client.publisher(ReliabilityPolicy.BEST_EFFORT, CompressedImage, "image/compressed")
    try:
        assert client.change("deactivate")
        assert client.set("transport", "compressed").successful
        assert client.change("activate")
        client.ready(publisher)
        client.diagnostics(lambda now: (now["topic"], now["reliability"]) == ("/image/compressed", "best_effort"))
        client.until(lambda: False, 0.3)
        yield publisher
    finally:
        client.destroy_publisher(publisher)
        client.change("deactivate")
        assert client.set("transport", "raw").successful
        assert client.change("activate")
        client.ready()


def compressed(client: Client, content: bytes, kind: str) -> CompressedImage:
    header = client.message(picture()).header
    return CompressedImage(header=header, format=kind, data=array.array("B", content))


def test_compressed_images_and_broken_ones_among_them(client: Client) -> None:
    raw, scores = pixels(client.answer(client.message(picture()), "score"), "<f4"), {}
    with transported(client) as publisher:
        _, _, before = client.diagnostics()
        for kind in ("png", "webp", "jpeg"):
            content = cv2.imencode(f".{kind}", picture()[..., ::-1])[1].tobytes()
            sent = compressed(client, content, kind)
            answer = client.answer(sent, "score", publisher)
            assert answer.header == sent.header
            scores[kind] = pixels(answer, "<f4")
            publisher.publish(compressed(client, content[: len(content) // 2], kind))
            client.until(lambda: False, 0.05)
        publisher.publish(compressed(client, b"", "jpeg"))
        level, said, _ = client.diagnostics(lambda now: int(now["decode_errors"]) == int(before["decode_errors"]) + 4)
        assert level != b"\0"
        assert "/image/compressed: image of format 'jpeg' with 0 bytes cannot be decoded" in said
    for kind in ("png", "webp"):  # OpenCV writes this webp without loss
        np.testing.assert_array_equal(scores[kind], raw)
    assert 0.0 < np.abs(scores["jpeg"] - raw).mean() < 0.2


def test_a_best_effort_camera_with_a_reliable_subscription_is_named_with_the_remedy(client: Client) -> None:
    best_effort = client.publisher(ReliabilityPolicy.BEST_EFFORT)
    with changed(client, reliability="reliable"):
        level, said, _ = client.diagnostics(lambda now: now["reliability"] == "reliable")
        if "best effort" not in said:  # it had not been discovered yet
            level, said, _ = client.diagnostics()
        assert level == b"\1"
        assert said.startswith("a publisher of /image is best effort, this subscription reliable: no image will come")
        assert said.endswith("set the parameter reliability to auto")
    client.diagnostics(lambda now: now["reliability"] == "best_effort")
    client.destroy_publisher(best_effort)
    client.diagnostics(lambda now: now["reliability"] == "reliable")


def test_no_input_is_a_warning_until_the_camera_comes_back_with_another_reliability(client: Client) -> None:
    with changed(client, input_timeout=0.5):
        client.destroy_publisher(client.images)
        client.until(lambda: False, 0.6)
        level, said, _ = client.diagnostics()
        assert (level, said[:23]) == (b"\1", "no image on /image for ")
        back = client.publisher(ReliabilityPolicy.BEST_EFFORT)
        client.diagnostics(lambda now: now["reliability"] == "best_effort")
        client.ready(back)
        client.until(lambda: False, 0.3)
        assert client.answer(client.message(picture()), publisher=back) is not None
        client.destroy_publisher(back)
        client.images = client.publisher(ReliabilityPolicy.RELIABLE)
        client.diagnostics(lambda now: now["reliability"] == "reliable")
        client.ready()
        client.until(lambda: False, 0.3)
        assert client.answer(client.message(picture())) is not None


def test_nothing_is_masked_outside_of_the_region_of_interest_and_on_the_own_vehicle(
    running: tuple[subprocess.Popen[str], Client, Path],
) -> None:
    _, client, log = running
    half = np.zeros(SIZE, bool)
    half[:, : SIZE[1] // 2] = True
    with changed(client, threshold=ALL, roi=[0.0, 0.0, 0.5, 0.0, 0.5, 1.0, 0.0, 1.0]):
        mask = pixels(client.answer(client.message(picture()))) == 255
        assert (mask != half).mean() < 0.02  # the polygon's edge
        ego = np.zeros((24, 35), np.uint8)
        ego[12:] = 255
        cv2.imwrite(str(log.parent / "ego.png"), ego)
        for path in ("ego.png", ""):  # relative to the node's working directory
            assert client.change("deactivate")
            assert client.set("ego_mask", path).successful
            assert client.change("activate")
            client.ready()
            mask = pixels(client.answer(client.message(picture()))) == 255
            assert mask[24:].any() == (path == "")
            assert mask[:24, :30].all()
        assert client.change("deactivate")
        for path in ("no_such.png", "/etc/passwd"):
            assert f"a file below {log.parent}" in client.set("ego_mask", path).reason
        (log.parent / "text.png").write_text("no picture")
        assert client.set("ego_mask", "text.png").successful
        assert not client.change("activate")
        assert "text.png is not a picture" in client.diagnostics(lambda now: now["state"] == "inactive")[1]
        assert client.set("ego_mask", "").successful
        assert client.change("activate")
        client.ready()


def test_road_only_keeps_what_stands_on_road_or_in_the_lane(client: Client) -> None:
    with changed(client, threshold=0.0, road_only=True, lane=[0.0]):
        sent = client.message(picture())
        cubes = sum(m.type == Marker.CUBE for m in client.answer(sent, "hazards").markers[1:])
        segmentation = pixels(client.answer(sent, "segmentation"))
        everything = Prediction(np.zeros(SIZE, np.float32), 0.0, segmentation)
        assert cubes == len(Zones().on_road(everything.regions(1), everything))
        assert client.set("lane", [0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0]).successful
        hazards = client.answer(client.message(picture()), "hazards")
        assert sum(m.type == Marker.CUBE for m in hazards.markers[1:]) == 1


def test_all_pictures_have_the_size_that_is_asked_for_and_the_inputs_header(client: Client) -> None:
    """tiny works at 64x128; `size` says at what else."""
    for size, scale, expected in (([0, 0], "network", (64, 128)), ([32, 48], "network", (32, 48)),
                                  ([32, 48], "input", SIZE), ([0, 0], "input", SIZE)):  # fmt: skip
        assert client.change("deactivate")
        assert client.change("cleanup")
        assert client.set("size", size).successful
        assert client.set("mask_scale", scale).successful
        assert client.change("configure")
        assert client.change("activate")
        client.ready()
        client.until(lambda: False, 0.3)
        sent = client.message(picture())
        answers = [client.answer(sent, output) for output in ("mask", "score", "overlay", "segmentation")]
        for answer in answers:
            assert (answer.height, answer.width) == expected, (size, scale)
            assert answer.header == sent.header
            assert len(answer.data) == answer.step * answer.height


def test_the_temporal_filter_mixes_the_last_frames_and_is_live(client: Client) -> None:

    def scores(base: int) -> list[np.ndarray]:
        answers = []
        for tenth, seed in enumerate((1, 2)):
            message = client.message(picture(seed))
            message.header.stamp = Time(sec=base, nanosec=tenth * 100_000_000)
            answers.append(pixels(client.answer(message, "score"), "<f4"))
        return answers

    plain = scores(5000)
    with changed(client, temporal_filter="ema", temporal_seconds=1.0):
        first, second = scores(6000)
        client.diagnostics(lambda now: now["temporal_filter"] == "ema")
    np.testing.assert_allclose(first, plain[0], atol=1e-6)
    assert np.abs(second - plain[1]).mean() > 0.001
    np.testing.assert_array_equal(scores(7000)[1], plain[1])


def test_hazards_as_json_have_the_inputs_stamp_and_frame(client: Client) -> None:
    with changed(client, threshold=0.0):
        client.got["hazards_info"].clear()
        sent = client.message(picture())
        markers = client.answer(sent, "hazards").markers
        assert client.until(lambda: client.got["hazards_info"])
        said = json.loads(client.got["hazards_info"][-1].data)
        assert said["stamp"] == {"sec": sent.header.stamp.sec, "nanosec": 7}
        assert (said["image_frame"], said["frame"], said["version"]) == ("camera_optical_frame", "base_link", 1)
        (hazard,) = said["hazards"]
        cube = markers[1]
        assert hazard["position"][:2] == pytest.approx([cube.pose.position.x, cube.pose.position.y])
        assert hazard["box"] == [-0.5, -0.5, SIZE[1], SIZE[0]]


@pytest.mark.parametrize("header", [Header(), Header(stamp=Time(sec=90_000))])
def test_without_stamps_that_increase_tracks_follow_the_time_of_arrival(
    client: Client, running: tuple[subprocess.Popen[str], Client, Path], header: Header
) -> None:
    """With the same stamp nothing would move on: neither age nor hits, and what is gone would stay."""
    log = running[2]
    with changed(client, threshold=0.0):

        def seen() -> list[dict[str, Any]]:
            client.got["hazards_info"].clear()
            message = client.message(picture())
            message.header = header
            client.images.publish(message)
            assert client.until(lambda: client.got["hazards_info"])
            return json.loads(client.got["hazards_info"][0].data)["hazards"]

        first = seen()[-1]
        client.until(lambda: False, 0.3)
        second = seen()[-1]
        assert client.set("threshold", 1.0).successful
        client.until(lambda: False, 0.6)
        assert seen() == []
    assert (second["id"], second["hits"]) == (first["id"], first["hits"] + 1)
    assert 0.3 < second["age"] - first["age"] < 5.0
    if header.stamp.sec:
        warnings = [line for line in log.read_text().splitlines() if line.startswith("[WARN]")]
        assert any("stamps on /image do not increase" in line for line in warnings)
