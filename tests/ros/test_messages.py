"""Messages <-> arrays, the camera behind them, and outputs nobody asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from mgcda_core.inference.encodings import from_rgb
from mgcda_core.prediction import Prediction
from mgcda_ros.image_input import choose_reliability
from mgcda_ros.messages import Outputs, is_calibrated, mask_message, score_message, to_camera, to_image, to_rgb
from mgcda_ros.parameters import NodeParameters

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
PREDICTION = Prediction(np.linspace(-3, 3, 54, dtype=np.float32).reshape(6, 9))


def test_an_image_message_comes_back():
    message = to_image(Header(frame_id="cam"), (6, 9), "bgr8", *from_rgb(IMAGE, "bgr8", 40))
    assert (message.height, message.width, message.step, len(message.data)) == (6, 9, 40, 240)
    np.testing.assert_array_equal(to_rgb(message), IMAGE)


def test_a_bad_message_is_a_value_error():
    with pytest.raises(ValueError, match="0x0"):
        to_rgb(Image(encoding="rgb8"))


def test_mask_and_score():
    header = Header(frame_id="cam")
    mask, score = mask_message(header, PREDICTION), score_message(header, PREDICTION)
    assert (mask.encoding, mask.step, mask.header) == ("mono8", 9, header)
    np.testing.assert_array_equal(np.frombuffer(mask.data, np.uint8).reshape(6, 9), PREDICTION.mask * np.uint8(255))
    assert (score.encoding, score.step, score.is_bigendian) == ("32FC1", 36, 0)
    np.testing.assert_array_equal(np.frombuffer(score.data, "<f4").reshape(6, 9), PREDICTION.score)


def test_camera_from_info_scaled_and_from_the_field_of_view():
    info = CameraInfo(height=12, width=18, k=[20.0, 0.0, 8.5, 0.0, 22.0, 5.5, 0.0, 0.0, 1.0])
    camera = to_camera(info, (6, 9), NodeParameters(camera_height=2.0, camera_pitch=0.1))
    assert (camera.fx, camera.fy, camera.height_m, camera.pitch_rad) == (10.0, 11.0, 2.0, 0.1)
    assert (camera.cx, camera.cy) == (4.0, 2.5)
    assert to_camera(None, (6, 9), NodeParameters(horizontal_fov=np.pi / 2)).fx == pytest.approx(4.5)


def test_an_uncalibrated_info_is_known():
    assert not is_calibrated(CameraInfo())
    assert not is_calibrated(CameraInfo(k=[np.nan, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]))
    assert is_calibrated(CameraInfo(k=[1.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]))


class FakePublisher:
    def __init__(self, subscribers: int) -> None:
        self.subscribers = subscribers
        self.sent: list[Any] = []

    def get_subscription_count(self) -> int:
        return self.subscribers

    def publish(self, message: Any) -> None:
        self.sent.append(message)


class FakeNode:
    def __init__(self, subscribers: int) -> None:
        self.publishers: dict[str, FakePublisher] = {}
        self.subscribers = subscribers

    def create_lifecycle_publisher(self, kind: type, topic: str, qos: Any) -> FakePublisher:
        return self.publishers.setdefault(topic, FakePublisher(self.subscribers))


@pytest.mark.parametrize("subscribers", [0, 1])
def test_score_and_overlay_are_made_for_subscribers_only(subscribers: int):
    node: Any = FakeNode(subscribers)
    outputs = Outputs(node)
    outputs.publish_mask(Header(), PREDICTION)
    outputs.publish_pictures(Header(), IMAGE, PREDICTION, 1.0)
    sent = {topic: len(publisher.sent) for topic, publisher in node.publishers.items()}
    assert sent == {"~/mask": 1, "~/score": subscribers, "~/overlay": subscribers, "~/hazards": 0}


@pytest.mark.parametrize(
    ("setting", "offered", "current", "expected"),
    [
        ("auto", [], RELIABLE, RELIABLE),
        ("auto", [], BEST_EFFORT, BEST_EFFORT),
        ("auto", [RELIABLE], BEST_EFFORT, RELIABLE),
        ("auto", [RELIABLE, BEST_EFFORT], RELIABLE, BEST_EFFORT),
        ("reliable", [BEST_EFFORT], BEST_EFFORT, RELIABLE),
        ("best_effort", [RELIABLE], RELIABLE, BEST_EFFORT),
    ],
)
def test_reliability(
    setting: str, offered: list[ReliabilityPolicy], current: ReliabilityPolicy, expected: ReliabilityPolicy
):
    assert choose_reliability(setting, offered, current) == expected
