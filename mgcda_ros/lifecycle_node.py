"""The lifecycle node: wiring only. Images in, anomaly masks, hazards and diagnostics out.

Callbacks run in a SingleThreadedExecutor and return at once; the network runs in one worker thread behind a one-slot
mailbox (a MultiThreadedExecutor is slower in rclpy, and a queue only adds delay). While a GPU infers the next frame, a
second thread turns the last one into hazards and pictures.
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from mgcda_core.hazards.regions import to_hazards
from mgcda_core.inference.backend import pending_engine
from mgcda_core.inference.predictor import Predictor, load
from mgcda_core.prediction import Prediction
from mgcda_ros import parameters
from mgcda_ros.core_log import forward_core_log
from mgcda_ros.diagnostics import FrameStatistics, judge, to_diagnostics
from mgcda_ros.engine_build import EngineBuild, command
from mgcda_ros.image_input import ImageInput
from mgcda_ros.latest_frame import FrameWorker
from mgcda_ros.messages import Outputs, to_camera, to_rgb

GRAPH_PERIOD_S = 0.2
"""How often the publishers' reliability is looked up; publishers that appear later are followed too."""
STOP_TIMEOUT_S = 30.0
"""How long deactivation waits for the frame in work; the reference profile takes seconds a frame on a CPU."""
EXIT_TIMEOUT_S = 4.0
LOG_THROTTLE_S = 5.0


@dataclasses.dataclass(frozen=True)
class Frame:
    """An image message and the moment it arrived."""

    message: Image
    arrival: float
    """time.monotonic() in seconds."""


@dataclasses.dataclass(frozen=True)
class Inferred:
    """A frame whose mask is out: what its hazards and pictures are made of."""

    header: Header
    image: np.ndarray
    """uint8 [H, W, 3] RGB."""
    prediction: Prediction
    parameters: parameters.NodeParameters
    """Those its mask was made with."""


class MgcdaNode(LifecycleNode):
    """configure loads the network, activate subscribes and starts the workers, deactivate stops them, cleanup frees."""

    def __init__(self) -> None:
        super().__init__("mgcda_node")
        forward_core_log(self.get_logger())
        self.add_on_set_parameters_callback(self._on_parameters)  # before: it judges the values given at start too
        parameters.declare(self)
        self._predictor: Predictor | None = None
        self._loaded: tuple[str, str, str] | None = None
        self._build: EngineBuild | None = None
        self._outputs: Outputs | None = None
        self._worker: FrameWorker[Frame] | None = None
        self._describer: FrameWorker[Inferred] | None = None
        self._input = ImageInput(self, self._on_image)
        self._told_intrinsics = False
        self._frame_size = (0, 0)
        """Height and width of the last frame, (0, 0) before the first."""
        self.loading = False
        """True while weights are read: the one long step of the main thread, which a signal may interrupt."""
        self.stuck = False
        """True once a frame in work or the loading of an engine outlasted a timeout: its thread may be inside torch."""
        self._failure: str | None = None
        self._statistics = FrameStatistics()
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._publish_diagnostics)
        self.create_timer(GRAPH_PERIOD_S, self._input.follow_publishers)
        self.create_timer(GRAPH_PERIOD_S, self._switch_to_engine)

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
            self._fail("not configured", error)
            self._release()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the workers; loads anew if weights, device or backend changed."""
        try:
            self._load()
            self._statistics.restart()
            self._describer = FrameWorker(self._describe, self.report, "mgcda-hazards")
            self._worker = FrameWorker(self._infer, self.report, "mgcda-network")
            self._input.open()
        except Exception as error:
            self._fail("not activated", error)
            self._halt()
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(f"active: waiting for images on {self._input.topic}")
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and stop the workers; the topics stay."""
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
        """Stop the workers and free the network before the process ends; soon, `ros2 launch` kills after 10 s."""
        self._release(EXIT_TIMEOUT_S)

    def _load(self) -> None:
        wanted = parameters.read(self)
        chosen = (wanted.weights, wanted.device, wanted.backend)
        if self._predictor is not None and self._loaded == chosen:
            return
        self._stop_build()
        start = time.monotonic()
        self.loading = True
        try:
            engine = pending_engine(*chosen)
            predictor = load(wanted.weights, device=wanted.device, backend="auto" if engine else wanted.backend)
            predictor.warm_up()
        finally:
            self.loading = False
        self._predictor, self._loaded, self._failure = predictor, chosen, None
        self.get_logger().info(
            f"weights {wanted.weights} on {predictor.backend.device}, ready in {time.monotonic() - start:.1f} s"
        )
        if engine is not None:
            opened = partial(load, str(engine.onnx), device=wanted.device, backend=engine.library)
            log = self.get_logger()
            self._build = EngineBuild(command(engine, wanted.device), opened, log.info, log.error)

    def _switch_to_engine(self) -> None:
        if self._build is None or (predictor := self._build.take()) is None:
            return
        backend, size = predictor.backend, self._frame_size
        if any(side > most for side, most in zip(size, backend.max_size, strict=True)):
            self.get_logger().error(
                f"{backend.name} is not used: it takes frames up to {backend.max_size[0]}x{backend.max_size[1]}, the "
                f"camera's are {size[0]}x{size[1]}. Export a chain of that size: mgcda export --size"
            )
            return
        self._predictor = predictor  # the worker looks it up once a frame: it changes between two
        self.get_logger().info(f"from now on {backend.name} on {backend.device}")

    def _stop_build(self) -> None:
        build, self._build = self._build, None
        if build is not None and not build.stop():
            self.stuck = True

    def _fail(self, what: str, error: Exception) -> None:
        self._failure = f"{what}: {error}"
        self.get_logger().error(f"{self._failure}. The node stays up: set its parameters and try the transition again")
        self.get_logger().debug(traceback.format_exc())

    def _halt(self, timeout: float = STOP_TIMEOUT_S) -> None:
        self._input.close()
        workers = (self._worker, self._describer)  # in this order: a frame whose mask is out gets its hazards too
        self._worker = self._describer = None
        end = time.monotonic() + timeout
        ended = [worker.stop(max(0.0, end - time.monotonic())) for worker in workers if worker is not None]
        if not all(ended):
            self.stuck = True
            self.get_logger().warning("the frame in work did not end in time; its result is thrown away")
            self._predictor = self._loaded = None  # that thread still uses it: the next activation loads another

    def _release(self, timeout: float = STOP_TIMEOUT_S) -> None:
        self._stop_build()
        self._halt(timeout)
        if self._outputs is not None:
            self._outputs.destroy()
        self._outputs = self._predictor = self._loaded = None
        self._told_intrinsics = False

    # input ---------------------------------------------------------------------------------------------------------

    def _on_image(self, message: Image) -> None:
        self._statistics.received()
        if self._worker is not None and self._worker.put(Frame(message, time.monotonic())):
            self._statistics.dropped()

    def _on_parameters(self, changes: Iterable[Parameter[Any]]) -> SetParametersResult:
        return parameters.check(changes, self._state)

    # worker threads ------------------------------------------------------------------------------------------------

    def _infer(self, frame: Frame) -> None:
        worker, describer, predictor, outputs = self._worker, self._describer, self._predictor, self._outputs
        if worker is None or describer is None or predictor is None or outputs is None:
            return
        current = parameters.read(self)
        header = frame.message.header
        image = to_rgb(frame.message)
        self._frame_size = (image.shape[0], image.shape[1])
        own = current.own_threshold
        predictor.threshold = predictor.config.threshold if own is None else own
        predictor.crop_top = current.crop_top
        prediction = predictor(image)
        if worker.stopping:
            return
        outputs.publish_mask(header, prediction)
        self._statistics.published(time.monotonic() - frame.arrival)
        inferred = Inferred(header, image, prediction, current)
        if predictor.backend.device == "cpu":  # whose cores the network has: the next mask would only come later
            self._describe(inferred)
        else:
            describer.hand_over(inferred)

    def _describe(self, frame: Inferred) -> None:
        outputs, current, size = self._outputs, frame.parameters, (frame.image.shape[0], frame.image.shape[1])
        if outputs is None:
            return
        camera = to_camera(self._intrinsics(current), size, current)
        regions = frame.prediction.regions(current.min_region_area)
        hazards = to_hazards(regions, camera, max_distance_m=current.max_distance)
        outputs.publish_hazards(hazards, frame.header.stamp, current.base_frame)
        outputs.publish_pictures(frame.header, frame.image, frame.prediction, current.overlay_alpha)

    def _intrinsics(self, current: parameters.NodeParameters) -> CameraInfo | None:
        info = self._input.camera_info
        if info is None and not self._told_intrinsics:
            self._told_intrinsics = True
            self.get_logger().info(
                f"no CameraInfo on {self._input.info_topic} yet: hazards are placed with the parameter "
                f"horizontal_fov = {current.horizontal_fov} rad"
            )
        return info

    def report(self, error: Exception) -> None:
        """Log (throttled) and count a frame or a callback that failed. Any thread may call it."""
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        self._statistics.failed(f"{self._input.topic}: {reason}")
        self.get_logger().error(f"frame on {self._input.topic} skipped: {reason}", throttle_duration_sec=LOG_THROTTLE_S)
        self.get_logger().debug("".join(traceback.format_exception(error)))

    @property
    def _state(self) -> str:
        return self._state_machine.current_state[1]

    def _publish_diagnostics(self) -> None:
        snapshot = self._statistics.snapshot()
        predictor, current = self._predictor, parameters.read(self)
        engine = self._build.state if self._build is not None else ""
        facts = {
            "state": self._state,
            "weights": current.weights,
            "weights_sha256": predictor.backend.sha256 if predictor else "",
            "backend": predictor.backend.name if predictor else "",
            "device": predictor.backend.device if predictor else "",
            "engine": engine,
            "reliability": self._input.reliability.name.lower(),
        }
        verdict = judge(snapshot, self._state, self._input.topic, self._failure, engine)
        name = self.get_fully_qualified_name()
        self._diagnostics.publish(to_diagnostics(snapshot, verdict, name, facts, self.get_clock().now().to_msg()))
