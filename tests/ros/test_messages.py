"""Arrays <-> messages, and outputs nobody asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from mgcda_core.inference.encodings import from_rgb
from mgcda_core.prediction import Prediction
from mgcda_ros.conversion import to_rgb
from mgcda_ros.image_input import choose_reliability
from mgcda_ros.messages import (
    is_calibrated,
    mask_message,
    overlay_message,
    score_message,
    segmentation_message,
    to_image,
)
from mgcda_ros.outputs import Outputs

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
IMAGE = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
PREDICTION = Prediction(np.linspace(-3, 3, 54, dtype=np.float32).reshape(6, 9), segmentation=np.zeros((6, 9), np.uint8))


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


def test_segmentation_and_an_overlay_of_a_mask_at_the_networks_size():
    train_ids = np.arange(54, dtype=np.uint8).reshape(6, 9)
    message = segmentation_message(Header(), train_ids)
    assert (message.encoding, message.step) == ("mono8", 9)
    np.testing.assert_array_equal(np.frombuffer(message.data, np.uint8).reshape(6, 9), train_ids)
    drawn = overlay_message(Header(), np.full((12, 18, 3), 77, np.uint8), PREDICTION, 0.0)
    assert (drawn.height, drawn.width, drawn.encoding) == (6, 9, "bgr8")
    assert set(drawn.data) == {77}


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


@pytest.mark.parametrize(("camera", "before"), [("", "~/"), ("front", "~/front/")])
@pytest.mark.parametrize("subscribers", [0, 1])
def test_what_nobody_subscribes_is_not_made(subscribers: int, camera: str, before: str):
    node: Any = FakeNode(subscribers)
    outputs = Outputs(node, camera)
    outputs.publish_mask(Header(), PREDICTION)
    outputs.publish_hazards(Header(), [], "base_link")
    outputs.publish_pictures(Header(), IMAGE, PREDICTION, 1.0)
    sent = {topic: len(publisher.sent) for topic, publisher in node.publishers.items()}
    lazy = dict.fromkeys(("score", "overlay", "segmentation", "hazards_info"), subscribers)
    assert sent == {before + name: count for name, count in {"mask": 1, "hazards": 1, **lazy}.items()}


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
