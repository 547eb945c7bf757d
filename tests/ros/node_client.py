"""A client that talks to the real node over DDS, and the node's process around it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from mgcda_core.inference.encodings import from_rgb
from mgcda_ros.lifecycle_node import MgcdaNode
from mgcda_ros.messages import to_image
from mgcda_ros.node_process import ASK_PERIOD_S, NODE_NAME, running_node, stop_node, wait_active

TRANSITIONS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4}


class Client(Node):
    """Sends images of one camera to the node and keeps what comes back."""

    def __init__(self, camera: str = "", node: str = NODE_NAME) -> None:
        super().__init__("test_client")
        self.node = node
        self.before = f"{camera}/" if camera else ""
        self.spinner = SingleThreadedExecutor()
        self.spinner.add_node(self)
        self.stamp = 0
        self.got: dict[str, list[Any]] = {}
        self.listen("mask", Image)
        self.listen("hazards", MarkerArray)
        self.got["diagnostics"] = []
        self.create_subscription(DiagnosticArray, "/diagnostics", self.got["diagnostics"].append, 10)
        self.images = self.publisher(ReliabilityPolicy.RELIABLE)
        self.infos = self.create_publisher(CameraInfo, self.input("camera_info"), 5)

    def input(self, name: str) -> str:
        return f"{self.node.rpartition('/')[0]}/{self.before}{name}"

    def output(self, name: str) -> str:
        return f"{self.node}/{self.before}{name}"

    def publisher(self, reliability: ReliabilityPolicy, kind: type = Image, name: str = "image") -> Any:
        return self.create_publisher(kind, self.input(name), QoSProfile(depth=5, reliability=reliability))

    def listen(self, output: str, kind: type) -> Any:
        self.got[output] = []
        return self.create_subscription(kind, self.output(output), self.got[output].append, 10)

    def message(self, image: np.ndarray, encoding: str = "rgb8", step: int | None = None) -> Image:
        """Image message with a stamp of its own."""
        self.stamp += 1
        header = Header(stamp=Time(sec=self.stamp, nanosec=7), frame_id="camera_optical_frame")
        return to_image(header, (image.shape[0], image.shape[1]), encoding, *from_rgb(image, encoding, step))

    def until(self, done: Callable[[], Any], timeout: float = 15.0) -> bool:
        deadline = time.monotonic() + timeout
        while not done():
            if time.monotonic() > deadline:
                return False
            self.spinner.spin_once(timeout_sec=0.02)
        return True

    def ready(self, publisher: Any = None, timeout: float = 15.0) -> None:
        """Wait until the node hears the image publisher and is heard."""
        images = publisher or self.images
        assert self.until(lambda: images.get_subscription_count() and self.infos.get_subscription_count(), timeout)
        assert self.until(
            lambda: all(self.count_publishers(self.output(t)) for t in self.got if t != "diagnostics"), timeout
        )

    def answer(self, message: Any, output: str = "mask", publisher: Any = None, timeout: float = 15.0) -> Any:
        """Send `message` and give the output that carries its stamp, or None after `timeout` seconds."""
        (publisher or self.images).publish(message)
        found: list[Any] = []

        def come() -> bool:
            found[:] = [m for m in self.got[output] if stamp_of(m) == message.header.stamp]
            return bool(found)

        self.until(come, timeout)
        return found[0] if found else None

    def call(self, kind: Any, service: str, request: Any) -> Any:
        client: Any = self.create_client(kind, f"{self.node}/{service}")
        assert client.wait_for_service(10.0)
        future = client.call_async(request)
        assert self.until(future.done, 30.0), f"{service} does not answer"
        self.destroy_client(client)
        return future.result()

    def state(self) -> str:
        """Name of the lifecycle state; asked again: a node that died may still be known, and never answers."""
        client: Any = self.create_client(GetState, f"{self.node}/get_state")
        assert client.wait_for_service(10.0)
        asked: list[Any] = []

        def answered() -> bool:
            asked.append(client.call_async(GetState.Request()))
            return self.until(lambda: any(future.done() for future in asked), ASK_PERIOD_S)

        assert self.until(answered, 30.0), "get_state does not answer"
        self.destroy_client(client)
        return next(future.result().current_state.label for future in asked if future.done())

    def change(self, transition: str) -> bool:
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[transition]
        return self.call(ChangeState, "change_state", request).success

    def set(self, name: str, value: Any) -> SetParametersResult:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        response: Any = self.call(SetParameters, "set_parameters", request)
        return response.results[0]

    def diagnostics(
        self, wanted: Callable[[dict[str, str]], bool] = lambda _: True
    ) -> tuple[bytes, str, dict[str, str]]:
        """Level, message and values of the next status that fits `wanted`."""
        self.got["diagnostics"].clear()
        found: list[DiagnosticStatus] = []

        def come() -> bool:
            for array in self.got["diagnostics"]:
                for status in array.status:
                    mine = status.name.startswith(f"{self.node}:") and status.name.endswith(self.before.strip("/"))
                    if mine and wanted({pair.key: pair.value for pair in status.values}):
                        found.append(status)
            return bool(found)

        assert self.until(come, 10.0), "no such diagnostics"
        last: Any = found[-1]
        return last.level, last.message, {pair.key: pair.value for pair in last.values}


def stamp_of(message: Any) -> Time:
    return message.markers[0].header.stamp if hasattr(message, "markers") else message.header.stamp


@contextmanager
def node_and_client(
    arguments: Sequence[str], folder: Path, wait: bool = True, camera: str = "", **running: Any
) -> Iterator[tuple[subprocess.Popen[str], Client, Path]]:
    """The node (working directory and log in `folder`) and a client; at the end SIGINT must give exit code 0.

    Further keywords go to `running_node`.
    """
    log = folder / "node.log"
    client = Client(camera)
    try:
        with (
            log.open("w") as stream,
            running_node(arguments, cwd=folder, stdout=stream, stderr=stream, **running) as process,
        ):
            if wait:
                wait_active(client, client.spinner, process, 60.0)
                client.ready()
            yield process, client, log
            assert stop_node(process) == 0, log.read_text()
            assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        client.spinner.shutdown()
        client.destroy_node()


@contextmanager
def node_in_process(**parameters: Any) -> Iterator[MgcdaNode]:
    """A started node in this process, with no executor and no lifecycle services.

    rclpy keeps those of a node that is gone: in later tests they would be taken for the real one's.
    """
    given = [Parameter(name, value=value) for name, value in parameters.items()]
    started = partialmethod(LifecycleNode.__init__, enable_communication_interface=False, parameter_overrides=given)
    with patch.object(LifecycleNode, "__init__", started):
        node = MgcdaNode()
    try:
        node.start()
        assert node.state == "active", node.state
        yield node
    finally:
        node.close()
        node.destroy_node()
