"""The other processes of the soak: a camera that dies after a while, and somebody who takes masks slowly.

`python -m mgcda_ros.soak_actors camera | consumer`; stamps that the camera sent go to stdout, a line each.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from mgcda_ros.messages import to_image
from mgcda_ros.node_process import NODE_NAME

RATE_HZ = 15.0
SIZES = ((720, 1280), (720, 1280), (540, 960))
"""Resolutions, (height, width), each for SIZE_S seconds in turn; the first one alone if they are not to change."""
SIZE_S = 5.0
LONE_FRAMES, LONE_S = 2, 2.0
"""A camera begins with so many frames, so many seconds apart: they find the network idle."""
MATCH_TIMEOUT_S, SETTLE_S = 30.0, 1.0
CONSUMER_S = 0.5
"""What the slow consumer takes for a mask."""
PICTURES = 4


def pictures(size: tuple[int, int]) -> list[Image]:
    """Messages bgr8 of `size`: sky, road and a box that moves."""
    height, width = size
    messages = []
    for number in range(PICTURES):
        image = np.full((height, width, 3), (90, 90, 95), np.uint8)
        image[: height // 2] = (220, 180, 150)
        left = width // 4 + number * width // 16
        cv2.rectangle(image, (left, height * 6 // 10), (left + width // 8, height * 8 // 10), (30, 80, 200), -1)
        image += np.random.default_rng(number).integers(0, 16, image.shape, np.uint8)
        messages.append(to_image(Header(frame_id="camera"), size, "bgr8", image.reshape(-1), 3 * width))
    return messages


def frames(seconds: float, steady: bool) -> Iterator[tuple[Image, float]]:
    """Messages and how long each waits for the next: LONE_FRAMES, then RATE_HZ for `seconds`; `steady` is only that."""
    sizes = SIZES[:1] if steady else SIZES
    stock = {size: pictures(size) for size in sizes}
    for number in range(0 if steady else LONE_FRAMES):
        yield stock[sizes[0]][number % PICTURES], LONE_S
    for number in range(round(seconds * RATE_HZ)):
        size = sizes[int(number / RATE_HZ / SIZE_S) % len(sizes)]
        yield stock[size][number % PICTURES], 1.0 / RATE_HZ


def camera(seconds: float, steady: bool, reliability: str) -> int:
    """Publish `image` once somebody subscribes it; 1 if nobody does."""
    messages = frames(seconds, steady)
    node = Node("soak_camera")
    policy = ReliabilityPolicy.RELIABLE if reliability == "reliable" else ReliabilityPolicy.BEST_EFFORT
    publisher = node.create_publisher(Image, "image", QoSProfile(depth=1, reliability=policy))
    deadline = time.monotonic() + MATCH_TIMEOUT_S
    while not publisher.get_subscription_count():
        if time.monotonic() > deadline:
            print("error: nobody subscribes image", file=sys.stderr)
            return 1
        time.sleep(0.02)
    time.sleep(SETTLE_S)  # the subscription may follow our reliability still
    due = time.monotonic()
    for message, pause in messages:
        stamp = time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 1_000_000_000)
        publisher.publish(message)
        print(stamp, flush=True)
        due += pause
        time.sleep(max(0.0, due - time.monotonic()))
    return 0


def consumer() -> int:
    """Take masks, half a second for each, until SIGTERM."""
    node = Node("soak_consumer")
    node.create_subscription(Image, f"{NODE_NAME}/mask", lambda _: time.sleep(CONSUMER_S), 5)
    rclpy.spin(node)
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 at the end of the camera."""
    parser = argparse.ArgumentParser(prog="python -m mgcda_ros.soak_actors", description=__doc__)
    parser.add_argument("role", choices=("camera", "consumer"))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--steady", action="store_true", help="one rate and one size")
    parser.add_argument("--reliability", choices=("reliable", "best_effort"), default="reliable")
    given = parser.parse_args(arguments)
    rclpy.init()
    try:
        return consumer() if given.role == "consumer" else camera(given.seconds, given.steady, given.reliability)
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
