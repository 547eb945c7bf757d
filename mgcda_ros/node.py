"""The lifecycle node: wiring only. Images in, anomaly masks, hazards and diagnostics out.

Callbacks run in a SingleThreadedExecutor and return at once; the network runs in one worker thread behind a one-slot
mailbox (a MultiThreadedExecutor is slower in rclpy, and a queue only adds delay).
"""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from rcl_interfaces.msg import SetParametersResult
from sensor_msgs.msg import CameraInfo, Image

from mgcda_core.hazards.regions import to_hazards
from mgcda_core.inference.predictor import Predictor, load
from mgcda_ros import parameters
from mgcda_ros.diagnostics import FrameStatistics, judge, to_diagnostics
from mgcda_ros.latest_frame import FrameWorker
from mgcda_ros.messages import Outputs, is_calibrated, to_camera, to_rgb

GRAPH_PERIOD_S = 0.2
"""How often the publishers' reliability is looked up; publishers that appear later are followed too."""
STOP_TIMEOUT_S = 30.0
"""How long deactivation waits for the frame in work; the reference profile takes seconds a frame on a CPU."""
WARM_UP_SIZE = (64, 128)
LOG_THROTTLE_S = 5.0


@dataclasses.dataclass(frozen=True)
class Frame:
    """An image message and the moment it arrived."""

    message: Image
    arrival: float
    """time.monotonic() in seconds."""


class MgcdaNode(LifecycleNode):
    """configure loads the network, activate subscribes and starts the worker, deactivate stops it, cleanup frees."""

    def __init__(self) -> None:
        super().__init__("mgcda_node")
        parameters.declare(self)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._predictor: Predictor | None = None
        self._loaded: tuple[str, str] | None = None
        self._outputs: Outputs | None = None
        self._worker: FrameWorker[Frame] | None = None
        self._image: Subscription[Image] | None = None
        self._info: Subscription[CameraInfo] | None = None
        self._offered: ReliabilityPolicy = ReliabilityPolicy.RELIABLE
        self._camera_info: CameraInfo | None = None
        self._told_intrinsics = False
        self._failure: str | None = None
        self._statistics = FrameStatistics()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._publish_diagnostics)
        self.create_timer(GRAPH_PERIOD_S, self._follow_publishers)

    def start(self) -> None:
        """Configure and activate, unless the parameter autostart is false."""
        if not parameters.read(self).autostart:
            self.get_logger().info("autostart is false: waiting for the lifecycle transitions configure and activate")
        elif self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    # lifecycle -----------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the weights and create the output topics; FAILURE (back to unconfigured) says why in the log."""
        try:
            self._load()
            self._outputs = Outputs(self)
        except Exception as error:
            self._fail(error)
            self._release()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the worker; loads anew if weights or device changed while inactive."""
        try:
            self._load()
            self._statistics.restart()
            self._worker = FrameWorker(self._process, self._on_worker_error)
            self._offered = self._wanted_reliability()
            self._subscribe()
        except Exception as error:
            self._fail(error)
            self._halt()
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(f"active: waiting for images on {self.resolve_topic_name('image')}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the worker; the topics stay."""
        self._halt()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the network and take the topics away."""
        result = super().on_cleanup(state)
        self._release()
        return result

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free whatever is there."""
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything; the node can be configured again."""
        self._release()
        return super().on_error(state)

    def close(self) -> None:
        """Stop the worker before the process ends. Works after ROS has been shut down."""
        self._halt()
        self._predictor = None

    def _load(self) -> None:
        wanted = parameters.read(self)
        if self._predictor is not None and self._loaded == (wanted.weights, wanted.device):
            return
        start = time.monotonic()
        predictor = load(wanted.weights, device=wanted.device)
        # The first run is slow, and a network that cannot run should fail here, not on the road.
        predictor(np.zeros((*WARM_UP_SIZE, 3), np.uint8))
        self._predictor, self._loaded, self._failure = predictor, (wanted.weights, wanted.device), None
        self.get_logger().info(
            f"weights {wanted.weights} on {predictor.device}, ready in {time.monotonic() - start:.1f} s"
        )

    def _fail(self, error: Exception) -> None:
        self._failure = f"not configured: {error}"
        if self.context.ok():
            self.get_logger().error(f"{self._failure}; the node stays up: set the parameter and configure it again")
            self.get_logger().debug(traceback.format_exc())

    def _halt(self) -> None:
        for subscription in (self._image, self._info):
            if subscription is not None:
                self.destroy_subscription(subscription)
        self._image = self._info = None
        worker, self._worker = self._worker, None
        if worker is not None and not worker.stop(STOP_TIMEOUT_S) and self.context.ok():
            self.get_logger().warning("the frame in work did not end in time; its result will be thrown away")

    def _release(self) -> None:
        self._halt()
        if self._outputs is not None:
            self._outputs.destroy()
        self._outputs = self._predictor = self._loaded = self._camera_info = None
        self._told_intrinsics = False

    # input ---------------------------------------------------------------------------------------------------------

    def _subscribe(self) -> None:
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=self._offered)
        self._image = self.create_subscription(Image, "image", self._on_image, qos)
        if self._info is None:  # small messages: best effort loses none and matches every publisher
            best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            self._info = self.create_subscription(CameraInfo, "camera_info", self._on_camera_info, best_effort)

    def _wanted_reliability(self) -> ReliabilityPolicy:
        setting = parameters.read(self).reliability
        publishers = self.get_publishers_info_by_topic(self.resolve_topic_name("image"))
        return choose_reliability(setting, [p.qos_profile.reliability for p in publishers], self._offered)

    def _follow_publishers(self) -> None:
        if self._image is None:
            return
        wanted = self._wanted_reliability()
        if wanted == self._offered:
            return
        self._offered = wanted
        self.destroy_subscription(self._image)
        self._subscribe()
        self.get_logger().info(f"image subscription is {wanted.name.lower()} now, as its publishers offer")

    def _on_image(self, message: Image) -> None:
        self._statistics.received()
        if self._worker is not None and self._worker.put(Frame(message, time.monotonic())):
            self._statistics.dropped()

    def _on_camera_info(self, message: CameraInfo) -> None:
        if is_calibrated(message):
            self._camera_info = message
        else:
            self.get_logger().warning("CameraInfo is not calibrated (K is zero): ignored", once=True)

    def _on_parameters(self, changes: Iterable[Parameter[Any]]) -> SetParametersResult:
        return parameters.check(changes, self._state)

    # worker thread -------------------------------------------------------------------------------------------------

    def _process(self, frame: Frame) -> None:
        worker, predictor, outputs = self._worker, self._predictor, self._outputs
        if worker is None or predictor is None or outputs is None:
            return
        current = parameters.read(self)
        header = frame.message.header
        image = to_rgb(frame.message)
        prediction = predictor(image)
        if current.own_threshold is not None:
            prediction = dataclasses.replace(prediction, threshold=current.own_threshold)
        if worker.stopping:
            return
        outputs.publish_mask(header, prediction)
        self._statistics.published(time.monotonic() - frame.arrival)
        camera = to_camera(self._intrinsics(current), (image.shape[0], image.shape[1]), current)
        hazards = to_hazards(prediction.regions(current.min_region_area), camera)
        outputs.publish_hazards(hazards, header.stamp, current.base_frame)
        outputs.publish_pictures(header, image, prediction, current.overlay_alpha)

    def _intrinsics(self, current: parameters.NodeParameters) -> CameraInfo | None:
        info = self._camera_info
        if info is None and not self._told_intrinsics:
            self._told_intrinsics = True
            self.get_logger().info(
                f"no CameraInfo on {self.resolve_topic_name('camera_info')}: hazards are placed with the parameter "
                f"horizontal_fov = {current.horizontal_fov} rad"
            )
        return info

    def _on_worker_error(self, error: Exception) -> None:
        if not self.context.ok():  # publishing fails while ROS shuts down: nothing to tell
            return
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        self._statistics.failed(f"{self.resolve_topic_name('image')}: {reason}")
        self.get_logger().error(
            f"frame on {self.resolve_topic_name('image')} skipped: {reason}", throttle_duration_sec=LOG_THROTTLE_S
        )
        self.get_logger().debug("".join(traceback.format_exception(error)))

    # diagnostics ---------------------------------------------------------------------------------------------------

    @property
    def _state(self) -> str:
        return self._state_machine.current_state[1]

    def _publish_diagnostics(self) -> None:
        snapshot = self._statistics.snapshot()
        predictor, current = self._predictor, parameters.read(self)
        facts = {
            "state": self._state,
            "weights": current.weights,
            "weights_sha256": predictor.sha256 if predictor else "",
            "backend": predictor.backend.name if predictor else "",
            "device": predictor.device if predictor else "",
            "reliability": self._offered.name.lower(),
        }
        verdict = judge(snapshot, self._state, self.resolve_topic_name("image"), self._failure)
        name = self.get_fully_qualified_name()
        self._diagnostics.publish(to_diagnostics(snapshot, verdict, name, facts, self.get_clock().now().to_msg()))


def choose_reliability(
    setting: str, offered: Sequence[ReliabilityPolicy], current: ReliabilityPolicy
) -> ReliabilityPolicy:
    """Reliability of the subscription for the parameter `setting` and what the publishers offer.

    A reliable subscriber does not match a best-effort publisher, a best-effort one matches every publisher; but best
    effort loses most large frames under Fast DDS's defaults. So: best effort only if a publisher asks for it, and
    without any publisher the `current` one stays.
    """
    if setting != "auto":
        return ReliabilityPolicy.RELIABLE if setting == "reliable" else ReliabilityPolicy.BEST_EFFORT
    if not offered:
        return current
    best_effort = any(policy == ReliabilityPolicy.BEST_EFFORT for policy in offered)
    return ReliabilityPolicy.BEST_EFFORT if best_effort else ReliabilityPolicy.RELIABLE


def _ignore_signal(signum: int, frame: object) -> None:
    """rclpy's own handler has shut the context down; Python must not raise KeyboardInterrupt on top of it.

    `ros2 launch` sends SIGINT twice: the second one comes in the middle of the clean-up.
    """


def main(args: list[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM: exit code 0. Wrong parameters at start: one line on stderr, exit code 1."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore_signal)
    node: MgcdaNode | None = None
    try:
        rclpy.init(args=args)
        node = MgcdaNode()
    except Exception as error:
        if not rclpy.ok() and node is None and isinstance(error, ExternalShutdownException):
            return 0
        print(f"error: mgcda_node cannot start: {error}", file=sys.stderr)
        rclpy.try_shutdown()
        return 1
    try:
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        node.start()
        executor.spin()
    except ExternalShutdownException:
        pass
    finally:
        node.close()
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
