"""A long run of the real node under what a vehicle does to it; `make soak`.

A camera of 720p at 15 Hz that restarts, with the other reliability each time, and changes its resolution; parameters
that change; a slow consumer of the masks. Writes report.json and soak.png (memory and latency), and fails if the memory
grows, a mask is stale, a frame is lost while the node is idle, or the node dies. With `--transport N` it only counts
what of N frames arrives at a subscription like the node's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.task import Future
from sensor_msgs.msg import Image

from mgcda_ros.device_health import resident_mb
from mgcda_ros.image_input import ImageInput, ImageMessage
from mgcda_ros.node_process import NODE_NAME, NodeProcessError, isolate, running_node, stop_node, wait_active
from mgcda_ros.recorder import stamp_ns
from mgcda_ros.soak_actors import MATCH_TIMEOUT_S, RATE_HZ
from mgcda_ros.soak_verdict import Record, draw, faults, figures, report

CAMERA_S = 20.0
"""A camera process sends for so long, then another one starts."""
PARAMETER_S = 4.0
"""After so long the next parameter changes."""
POLL_S = 0.2
DRAIN_S = 15.0
"""After the last frame: the longest wait until the node says what became of it."""
PARAMETERS: tuple[tuple[str, Any, Any], ...] = (
    ("threshold", 0.3, -1.0),
    ("mask_scale", "network", "input"),
    ("temporal_filter", "ema", "none"),
    ("crop_top", 0.3, 0.0),
    ("roi", [0.0, 0.2, 1.0, 0.2, 1.0, 1.0, 0.0, 1.0], [0.0]),
    ("temporal_filter", "vote", "none"),
)
"""Changed to the first value, and back."""


class Observer(Node):
    """Notes masks, diagnostics and memory of the node, and changes its parameters."""

    def __init__(self, record: Record, pid: int) -> None:
        super().__init__("soak")
        self.record = record
        self.spinner = SingleThreadedExecutor()
        self.spinner.add_node(self)
        self._pid = pid
        self._changes = itertools.cycle((name, value) for name, *values in PARAMETERS for value in values)
        self._setter = self.create_client(SetParameters, f"{NODE_NAME}/set_parameters")
        on_mask: Any = self._on_mask  # raw: it gets the bytes
        self.create_subscription(Image, f"{NODE_NAME}/mask", on_mask, 20, raw=True)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def begin(self) -> None:
        """From now on sample the memory each second and change a parameter each PARAMETER_S."""
        self._sample()
        self.create_timer(1.0, self._sample)
        self.create_timer(PARAMETER_S, self._change)

    def drain(self) -> None:
        """Wait until the node says that each frame that came became a mask, a drop or an error."""
        deadline = time.monotonic() + DRAIN_S
        self.record.node = {}  # what it says from now on
        counts = [-1]
        while counts[0] != sum(counts[1:]) and time.monotonic() < deadline:
            self.spinner.spin_once(timeout_sec=POLL_S)
            now = self.record.node
            counts = [int(now.get(name, -1)) for name in ("frames_in", "masks_out", "dropped", "errors")]

    def _on_mask(self, data: bytes) -> None:
        self.record.masks.append((stamp_ns(data) / 1e9, time.time()))

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.record.node = {pair.key: pair.value for status in message.status for pair in status.values}

    def _sample(self) -> None:
        with suppress(OSError):  # the node has ended
            self.record.memory.append((time.time(), resident_mb(self._pid)))

    def _change(self) -> None:
        name, value = next(self._changes)
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        self._setter.call_async(request).add_done_callback(self._on_changed)

    def _on_changed(self, future: Future[SetParameters.Response]) -> None:
        response = future.result()
        if response is not None:
            self.record.refused += [result.reason for result in response.results if not result.successful]


@contextmanager
def actor(*words: str, out: Any = subprocess.DEVNULL) -> Iterator[subprocess.Popen[str]]:
    """A process of soak_actors; ended at the end."""
    command = [sys.executable, "-m", "mgcda_ros.soak_actors", *words]
    with subprocess.Popen(command, stdout=out, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def soak(seconds: float, weights: str, out: Path) -> Record:
    """Run it for `seconds`; the cameras' stamps go to `out`/sent.txt, the node's log to node.log."""
    record = Record()
    arguments = ["--ros-args", "-p", f"weights:={weights}"]
    sent, log = (out / "sent.txt").open("w+"), (out / "node.log").open("w")
    with sent, log, running_node(arguments, stdout=log, stderr=log) as process, actor("consumer"):
        observer = Observer(record, process.pid)
        wait_active(observer, observer.spinner, process)
        observer.begin()
        end = time.monotonic() + seconds
        for reliability in itertools.cycle(("reliable", "best_effort")):
            left = end - time.monotonic()
            if left <= 0.0 or process.poll() is not None:
                break
            words = ["camera", "--seconds", str(min(CAMERA_S, left, seconds / 3)), "--reliability", reliability]
            record.starts.append(time.time())
            with actor(*words, out=sent) as camera:
                while camera.poll() is None and process.poll() is None:
                    observer.spinner.spin_once(timeout_sec=POLL_S)
        observer.drain()
        record.died = process.poll() is not None
        record.exit_code = stop_node(process)
        sent.seek(0)
        record.sent = [int(line) / 1e9 for line in sent]
    return record


def transport(count: int) -> dict[str, Any]:
    """Send `count` frames at 15 Hz to an empty callback behind the node's subscription: what arrives, and how late."""
    node = Node("soak_transport")
    delays: list[float] = []

    def receive(message: ImageMessage) -> None:
        stamp = message.header.stamp
        delays.append(1000.0 * (time.time() - stamp.sec - stamp.nanosec / 1e9))

    subscription = ImageInput(node, "", receive)
    subscription.open("raw", "auto")
    node.create_timer(POLL_S, lambda: subscription.follow_publishers("auto"))
    spinner = SingleThreadedExecutor()
    spinner.add_node(node)
    with actor("camera", "--seconds", str(count / RATE_HZ), "--steady") as camera:
        deadline = time.monotonic() + MATCH_TIMEOUT_S + 2 * count / RATE_HZ
        while camera.poll() is None and time.monotonic() < deadline:
            spinner.spin_once(timeout_sec=POLL_S)
        last = time.monotonic() + 1.0
        while time.monotonic() < last:
            spinner.spin_once(timeout_sec=POLL_S)
    p50, p95 = np.percentile(delays, (50, 95)).tolist() if delays else (None, None)
    return {"sent": count, "received": len(delays), "lost": count - len(delays), "p50_ms": p50, "p95_ms": p95}


def main(arguments: list[str] | None = None) -> int:
    """Command line; 0 if all is well, 1 with a sentence for each fault on stderr, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="python -m mgcda_ros.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("out/soak"), help="folder of report.json and soak.png")
    parser.add_argument("--weights", default="lite", help="the node's parameter weights")
    parser.add_argument("--slope", type=float, default=1.0, help="most megabytes a minute that the memory may grow")
    parser.add_argument("--settle", type=float, default=60.0, help="seconds after which the memory counts")
    parser.add_argument("--transport", type=int, default=0, help="only send so many frames and count what arrives")
    given = parser.parse_args(arguments)
    if given.minutes <= 0.0 or given.transport < 0:
        parser.error("--minutes must be positive, and --transport not negative")
    isolate()
    rclpy.init()
    try:
        if given.transport:
            counted = transport(given.transport)
            print("transport:", json.dumps(counted))
            return int(counted["lost"] > 0)
        given.out.mkdir(parents=True, exist_ok=True)
        record = soak(60.0 * given.minutes, given.weights, given.out)
    except (OSError, NodeProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    found = figures(record, given.settle)
    wrong = faults(record, found, given.slope)
    written = json.dumps(report(record, found, wrong), indent=2)
    (given.out / "report.json").write_text(written + "\n")
    draw(given.out / "soak.png", record, found)
    print(f"soak: {found}\nreport: {given.out / 'report.json'}, plot: {given.out / 'soak.png'}")
    for sentence in wrong:
        print(f"error: {sentence}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
