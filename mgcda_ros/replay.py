"""Plays a bag to the real node over DDS and records what it publishes.

`python -m mgcda_ros.replay --bag IN --out result.mcap` starts the node in its own process, sends every image once and
writes the masks, scores, overlays and hazards to result.mcap, the figures to result.json beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, Image
from visualization_msgs.msg import Marker, MarkerArray

from mgcda_ros.node_process import NODE_NAME, NodeProcessError, isolate, running_node, stop_node, wait_active
from mgcda_ros.playback import Item, PlaybackError, items
from mgcda_ros.recorder import Recorder, stamp_ns

PACE_TIMEOUT_S = 2.0
"""Paced playing sends the next frame when the mask has come, or after this time."""
DRAIN_TIMEOUT_S = 10.0
"""After the last frame: the longest wait for outputs still on their way."""
MATCH_TIMEOUT_S = 20.0
QUIET_S = 0.5
MASK, HAZARDS = f"{NODE_NAME}/mask", f"{NODE_NAME}/hazards"
OUTPUTS: dict[str, tuple[type, str]] = {
    MASK: (Image, "sensor_msgs/msg/Image"),
    f"{NODE_NAME}/score": (Image, "sensor_msgs/msg/Image"),
    f"{NODE_NAME}/overlay": (Image, "sensor_msgs/msg/Image"),
    HAZARDS: (MarkerArray, "visualization_msgs/msg/MarkerArray"),
}


class Player(Node):
    """Publishes images, records the node's outputs and times them."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__("mgcda_replay")
        self.frames_in = self.masks_out = self.hazards = self.late = 0
        self.latencies_ms: list[float] = []
        self.diagnostics: dict[str, str] = {}
        self._waiting: defaultdict[int, deque[float]] = defaultdict(deque)
        self._last_output = time.monotonic()
        self._recorder = recorder
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
        self._images = self.create_publisher(Image, "image", qos)
        self._infos = self.create_publisher(CameraInfo, "camera_info", qos)
        deep = QoSProfile(depth=20, reliability=ReliabilityPolicy.RELIABLE)
        for topic, (kind, _) in OUTPUTS.items():
            self.create_subscription(kind, topic, self._output(topic), deep, raw=True)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.spinner = SingleThreadedExecutor()
        self.spinner.add_node(self)

    def wait_matched(self) -> None:
        """Block until the node hears us and we hear it. Raises NodeProcessError."""
        publishers = (self._images, self._infos)

        def matched() -> bool:
            heard = all(publisher.get_subscription_count() for publisher in publishers)
            return heard and all(self.count_publishers(topic) for topic in OUTPUTS)

        if not self.spin_until(matched, MATCH_TIMEOUT_S):
            raise NodeProcessError("mgcda_node is active, but its topics are not found: is it remapped by --node-args?")
        self.spin_until(lambda: False, QUIET_S)  # its subscription may follow our reliability still

    def send(self, item: Item) -> None:
        """Publish one message and, for an image, start its clock."""
        if item.stamp_ns is None:
            self._infos.publish(item.message)  # type: ignore[arg-type]
            return
        self.frames_in += 1
        self._waiting[item.stamp_ns].append(time.monotonic())
        self._images.publish(item.message)

    def has_mask(self, stamp: int) -> bool:
        """True if every image sent with this stamp has its mask."""
        return not self._waiting[stamp]

    def spin_until(self, done: Callable[[], bool], timeout: float) -> bool:
        """Serve the subscriptions until `done()` or `timeout` seconds; True if done.

        If the time is up, even from the start, what waits is still served, one message a topic: a rate that we cannot
        hold would starve the subscriptions else, and outputs lost here would count as the node's drops.
        """
        deadline = time.monotonic() + timeout
        while not done():
            left = deadline - time.monotonic()
            if left <= 0.0:
                for _ in range(len(OUTPUTS) + 1):  # and the diagnostics
                    self.spinner.spin_once(timeout_sec=0.0)
                return done()
            self.spinner.spin_once(timeout_sec=min(left, 0.05))
        return True

    def drain(self) -> None:
        """Wait for the outputs on their way: all masks there, or none for two seconds; then the rest of the last."""
        self._last_output = time.monotonic()
        self.spin_until(lambda: self.masks_out >= self.frames_in or self._quiet(PACE_TIMEOUT_S), DRAIN_TIMEOUT_S)
        self.spin_until(lambda: self._quiet(QUIET_S), DRAIN_TIMEOUT_S)

    def _quiet(self, seconds: float) -> bool:
        return time.monotonic() - self._last_output > seconds

    def _output(self, topic: str) -> Callable[[bytes], None]:
        def record(data: bytes) -> None:
            self._last_output = time.monotonic()
            if topic == MASK:
                self._on_mask(stamp_ns(data))
            elif topic == HAZARDS:
                markers = deserialize_message(data, MarkerArray).markers
                self.hazards += sum(marker.type == Marker.CUBE and marker.action == Marker.ADD for marker in markers)
            self._recorder.write(topic, time.time_ns(), data)

        return record

    def _on_mask(self, stamp: int) -> None:
        self.masks_out += 1
        if self._waiting[stamp]:
            self.latencies_ms.append((time.monotonic() - self._waiting[stamp].popleft()) * 1000.0)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics = {pair.key: pair.value for status in message.status for pair in status.values}


def play(player: Player, source: Iterable[Item], rate: float, process: Popen[str]) -> None:
    """Send every item once: paced by the masks (rate 0) or at `rate` images a second. Raises NodeProcessError."""
    start = time.monotonic()
    for item in source:
        if process.poll() is not None:
            raise NodeProcessError(f"mgcda_node ended with exit code {process.returncode} while playing")
        stamp = item.stamp_ns
        if stamp is not None and rate > 0.0:
            player.spin_until(lambda: False, start + player.frames_in / rate - time.monotonic())
        player.send(item)
        if stamp is None:
            player.spin_until(lambda: False, 0.0 if player.frames_in else QUIET_S)
        elif rate <= 0.0 and not player.spin_until(lambda at=stamp: player.has_mask(at), PACE_TIMEOUT_S):
            player.late += 1
    player.drain()


def replay(
    source: Path,
    out: Path,
    rate: float = 0.0,
    image_topic: str | None = None,
    info_topic: str | None = None,
    node_arguments: list[str] | None = None,
) -> dict[str, Any]:
    """Play `source` to a fresh node, write `out` (.mcap) and the figures beside it (.json), and return the figures.

    Raises PlaybackError, NodeProcessError, OSError. An old result is removed first.
    """
    report_path = out.with_suffix(".json")
    for old in (out, report_path):
        old.unlink(missing_ok=True)
    messages = items(source, image_topic, info_topic)
    first = next(messages, None)  # what is wrong with the source should show before the node starts
    if first is None:
        raise PlaybackError(f"{source} holds no image")
    domain = isolate()
    rclpy.init()
    try:
        topics = {topic: kind for topic, (_, kind) in OUTPUTS.items()}
        with running_node(node_arguments or []) as process, Recorder(out, topics) as recorder:
            player = Player(recorder)
            wait_active(player, player.spinner, process)
            player.wait_matched()
            play(player, chain([first], messages), rate, process)
            exit_code = stop_node(process)
    finally:
        rclpy.try_shutdown()
    report = {"source": str(source), "rate": rate, "domain": domain, **figures(player), "node_exit_code": exit_code}
    part = report_path.with_suffix(".json.part")
    part.write_text(json.dumps(report, indent=2) + "\n")
    part.replace(report_path)
    if exit_code != 0:
        raise NodeProcessError(f"mgcda_node ended with exit code {exit_code} after SIGINT, not 0")
    return report


def figures(player: Player) -> dict[str, Any]:
    """Counts and latencies of a run; latency is from our publish call to the mask in our callback."""
    latencies = player.latencies_ms
    p50, p95 = np.percentile(latencies, (50, 95)).tolist() if latencies else (None, None)
    return {
        "frames_in": player.frames_in,
        "masks_out": player.masks_out,
        "hazards": player.hazards,
        "drops": player.frames_in - player.masks_out,
        "late": player.late,
        "latency_p50_ms": p50,
        "latency_p95_ms": p95,
        "latencies_ms": latencies,
        "node": player.diagnostics,
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 on success, 1 with one line on stderr for failure, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m mgcda_ros.replay", description=__doc__)
    parser.add_argument("--bag", type=Path, required=True, help="rosbag2, or a folder of images, an image, a video")
    parser.add_argument("--out", type=Path, required=True, help="the .mcap file to write")
    parser.add_argument("--rate", type=float, default=0.0, help="images a second; 0: paced by the masks")
    parser.add_argument("--image-topic", help="default: the only Image topic of the bag")
    parser.add_argument("--camera-info-topic", help="default: the one beside the image topic")
    parser.add_argument("--node-args", nargs=argparse.REMAINDER, default=[], help="all that follows goes to the node")
    given = parser.parse_args(arguments)
    if given.out.suffix != ".mcap":
        parser.error(f"--out is {given.out}; it must end in .mcap")
    if not given.rate >= 0.0:
        parser.error(f"--rate is {given.rate}; it must be 0 or more images a second")
    try:
        report = replay(given.bag, given.out, given.rate, given.image_topic, given.camera_info_topic, given.node_args)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    shown = {key: value for key, value in report.items() if key not in ("latencies_ms", "node")}
    print("replay:", " ".join(f"{key}={value}" for key, value in shown.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
