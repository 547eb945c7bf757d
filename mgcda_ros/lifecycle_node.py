"""The lifecycle node: wiring only. Images in, anomaly masks, hazards and diagnostics out.

Callbacks run in a SingleThreadedExecutor and return at once; the network runs in one worker thread behind one slot a
camera (a MultiThreadedExecutor is slower in rclpy, and a queue only adds delay). While a GPU infers the next frames, a
second thread turns the last ones into hazards and pictures.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterable
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType  # pyright: ignore[reportPrivateImportUsage] - its place on Humble
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter

from mgcda_ros import parameters
from mgcda_ros.camera_stream import CameraStream, Described, Frame
from mgcda_ros.core_log import forward_core_log
from mgcda_ros.device_health import memory_mb, temperature
from mgcda_ros.diagnostics import Condition, judge, precision, to_diagnostics, to_status
from mgcda_ros.inference import infer
from mgcda_ros.latest_frame import FrameWorker
from mgcda_ros.mounting import Mounting
from mgcda_ros.network import Choice, Network, View
from mgcda_ros.node_parameters import NodeParameters
from mgcda_ros.services import Services
from mgcda_ros.trusted_files import TrustedFiles

POLL_PERIOD_S = 0.2
"""How often the publishers' reliability, a network that is being loaded and a run that hangs are looked up."""
STOP_TIMEOUT_S = 30.0
"""How long deactivation waits for the frame in work; the reference profile takes seconds a frame on a CPU."""
EXIT_TIMEOUT_S = 4.0
MOST_HANGS = 2


class MgcdaNode(LifecycleNode):
    """configure loads the network, activate subscribes and starts the workers, deactivate stops them, cleanup frees."""

    def __init__(self) -> None:
        super().__init__("mgcda_node")
        forward_core_log(self.get_logger())
        self.current = NodeParameters()
        """The parameters' values; replaced, never changed, so that any thread may read it."""
        self.streams: dict[str, CameraStream] = {}
        self.enabled = True
        """False while ~/enable has switched the network off."""
        self.network = Network(self.get_logger())
        self.loading = False
        """True while weights are read: the one long step of the main thread, which a signal may interrupt."""
        self._stuck = False
        self._failure: str | None = None
        self._hangs = 0
        self._worker: FrameWorker[Frame] | None = None
        self._describer: FrameWorker[list[Described]] | None = None
        self._files: TrustedFiles | None = None  # until all that is given at start was judged
        self.add_on_set_parameters_callback(self._on_parameters)  # before: it judges the values given at start too
        self.current = parameters.declare(self, NodeParameters)
        self._mounting = Mounting(self)
        for name in self.current.cameras:
            self.streams[name] = CameraStream(self, name, self._mounting, self._on_image)
        masks = {parameters.prefix(name) + "ego_mask": s.parameters.ego_mask for name, s in self.streams.items()}
        self._files = TrustedFiles({"weights": self.current.weights, **masks}, self.current.weights_folder)
        self._service_calls = Services(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # simulated time stands still without a /clock
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self.create_timer(POLL_PERIOD_S, self._poll, clock=steady)

    def start(self) -> None:
        """Configure and activate, unless the parameter autostart is false."""
        if not self.current.autostart:
            self.get_logger().info("autostart is false: waiting for the lifecycle transitions configure and activate")
        elif self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    # lifecycle -----------------------------------------------------------------------------------------------------

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the weights and create the output topics; FAILURE (back to unconfigured) says why in the log."""
        try:
            self._load()
            for stream in self.streams.values():
                stream.configure()
        except Exception as error:
            self._fail("not configured", error)
            self._release()
            return TransitionCallbackReturn.FAILURE
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the workers."""
        try:
            self._load()
            self._mounting.open(self.current.mounting)
            self._describer = FrameWorker(self._describe, self.report, "mgcda-hazards")
            self._start_worker()
            for stream in self.streams.values():
                stream.open(self.current)
        except Exception as error:
            self._fail("not activated", error)
            self._halt()
            return TransitionCallbackReturn.FAILURE
        topics = ", ".join(stream.input.topic for stream in self.streams.values())
        self.get_logger().info(f"active: waiting for images on {topics}")
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

    @property
    def stuck(self) -> bool:
        """True once a run of the network or the loading of one outlasted its time: its thread may be inside torch."""
        return self._stuck or self.network.stuck

    @property
    def state(self) -> str:
        """Name of the lifecycle state."""
        return self._state_machine.current_state[1]

    def _load(self) -> None:
        now = self.current
        size = (now.size[0], now.size[1]) if any(now.size) else None
        self.loading = True
        try:
            self.network.open(Choice(now.weights, now.device, now.backend, now.precision, size))
        finally:
            self.loading = False
        self._failure, self._hangs = None, 0

    def _start_worker(self) -> None:
        self._worker = FrameWorker(self._infer, self.report, "mgcda-network", len(self.streams))

    def _fail(self, what: str, error: Exception) -> None:
        self._failure = f"{what}: {error}"
        self.get_logger().error(f"{self._failure}. The node stays up: set its parameters and try the transition again")
        self.get_logger().debug(traceback.format_exc())

    def _halt(self, timeout: float = STOP_TIMEOUT_S) -> None:
        for stream in self.streams.values():
            stream.close()
        network, workers = self._worker, (self._worker, self._describer)  # so: a mask that is out gets its hazards too
        self._worker = self._describer = None
        end = time.monotonic() + timeout
        ended = [worker.stop(max(0.0, end - time.monotonic())) for worker in workers if worker is not None]
        self._mounting.close()  # not before: the last frames are still to be described
        if network is not None:
            _drop([*network.forgotten, *network.in_work])
        if not all(ended):
            self._stuck = True
            self.get_logger().warning("the frame in work did not end in time; its result is thrown away")
            self.network.close()  # that thread still uses it: the next activation loads another

    def _release(self, timeout: float = STOP_TIMEOUT_S) -> None:
        self._halt(timeout)
        self.network.close()
        for stream in self.streams.values():
            stream.release()

    # callbacks -----------------------------------------------------------------------------------------------------

    def _on_image(self, frame: Frame) -> None:
        worker, stream = self._worker, frame.stream
        stream.statistics.received()
        if worker is None or not self.enabled or worker.put(frame, stream.name):
            stream.statistics.dropped()

    def _on_parameters(self, changes: Iterable[Parameter[Any]]) -> SetParametersResult:
        changes = list(changes)
        result = parameters.check(changes, self.state, self.current.cameras, self._files)
        if result.successful:
            self.current = parameters.changed(self.current, changes)
            for stream in self.streams.values():
                stream.parameters = parameters.changed(stream.parameters, changes, stream.name)
        return result

    def _poll(self) -> None:
        for stream in self.streams.values():
            stream.input.follow_publishers(self.current.reliability)
        sent = [stream for stream in self.streams.values() if any(stream.frame_size)]
        self.network.poll([View(s.frame_size, s.parameters.crop_top, self.current.scale) for s in sent])
        self._service_calls.poll()
        worker = self._worker
        if worker is not None and worker.busy_s > self.current.hang_timeout:
            self._abandon(worker)

    def _abandon(self, worker: FrameWorker[Frame]) -> None:
        """A run of the network hangs: leave its thread alone and start another; after the second, give up."""
        self._stuck = True
        worker.stop(0.0)
        _drop(worker.forgotten)
        self._hangs += 1
        took = f"a run of the network took more than {self.current.hang_timeout:g} s (hang_timeout)"
        for frame in list(worker.in_work):
            frame.fail(TimeoutError(took))
        if self._hangs < MOST_HANGS:
            self.get_logger().error(f"{took}: its thread is abandoned, a fresh backend is loaded")
            self.network.abandon()
            self._start_worker()
            return
        self._worker = None
        self._failure = f"{took}, again: deactivate and activate the node to try once more"
        self.get_logger().error(self._failure)
        self.network.close()

    # worker threads ------------------------------------------------------------------------------------------------

    def _infer(self, frames: list[Frame]) -> None:
        worker, describer, predictor = self._worker, self._describer, self.network.predictor
        if worker is None or describer is None or predictor is None:  # it stops, or another one is being loaded
            _drop(frames)
            return
        on_cpu = predictor.backend.device == "cpu"
        described = infer(frames, predictor, self.network, self.current, worker)
        if worker.stopping:
            return
        self._hangs = 0
        # How many frames come together is looked up anew: the backend may have changed.
        worker.most = min(self.current.max_batch or (1 if on_cpu else len(self.streams)), predictor.backend.max_batch)
        worker.wait = self.current.batch_wait
        if on_cpu:  # whose cores the network has: the next mask would only come later
            self._describe([described])
        else:
            describer.hand_over(described)

    def _describe(self, batches: list[list[Described]]) -> None:
        for batch in batches:
            for frame in batch:
                try:
                    frame.stream.describe(frame)
                except Exception as error:  # a camera that fails must not take the others' hazards
                    frame.stream.report(error, masked=True)

    def report(self, error: Exception) -> None:
        """Log and count, for every camera, an error that belongs to none. Any thread may call it."""
        for stream in self.streams.values():
            stream.report(error, masked=True)

    def _publish_diagnostics(self) -> None:
        predictor, name = self.network.predictor, self.get_fully_qualified_name()
        device = predictor.backend.device if predictor else ""
        heat = temperature(device)
        facts = {
            "state": self.state,
            "enabled": str(self.enabled).lower(),
            "weights": self.current.weights,
            "weights_sha256": predictor.backend.sha256 if predictor else "",
            "backend": predictor.backend.name if predictor else "",
            "precision": precision(predictor.backend.name) if predictor else "",
            "device": device,
            "engine": self.network.engine,
            **memory_mb(device),
            "temperature_c": "n/a" if heat is None else f"{heat:.0f}",
        }
        statuses = []
        for stream in self.streams.values():
            snapshot = stream.statistics.snapshot()
            condition = Condition(
                self.state, self.enabled, self._failure or self.network.failure, self.network.engine,
                self.network.problem, stream.input.problem, heat,
            )  # fmt: skip
            verdict = judge(snapshot, condition, stream.input.topic, self.current)
            title = f"{name}: anomaly segmentation{f' {stream.name}' if stream.name else ''}"
            statuses.append(to_status(snapshot, verdict, title, {**facts, **stream.facts()}))
        self._diagnostics.publish(to_diagnostics(statuses, self.get_clock().now().to_msg()))


def _drop(frames: Iterable[Frame]) -> None:
    """Count frames that get no mask, unless that was done."""
    for frame in frames:
        frame.drop()
