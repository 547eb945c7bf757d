"""One camera of the node: its topics, its figures, and what is remembered of its frames."""

from __future__ import annotations

import itertools
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from rclpy.lifecycle import LifecycleNode
from std_msgs.msg import Header

from mgcda_core.hazards.ground_plane import Camera, Uncertainty
from mgcda_core.hazards.lens import Lens
from mgcda_core.hazards.regions import to_hazards
from mgcda_core.hazards.tracks import Tracker
from mgcda_core.hazards.zones import Zones, load_ego_mask
from mgcda_core.inference.temporal import TemporalFilter
from mgcda_core.prediction import Prediction
from mgcda_ros import parameters
from mgcda_ros.conversion import to_rgb
from mgcda_ros.diagnostics import FrameStatistics, Passage, age
from mgcda_ros.image_input import ImageInput, ImageMessage
from mgcda_ros.mounting import Mounting
from mgcda_ros.node_parameters import CameraParameters, NodeParameters
from mgcda_ros.outputs import Outputs

LOG_THROTTLE_S = 5.0


@dataclass(frozen=True)
class Frame:
    """An image message and the moment it arrived; what becomes of it is counted once, as whoever is first says."""

    stream: CameraStream
    message: ImageMessage
    arrival: float
    """time.monotonic() in seconds."""
    _open: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def settle(self) -> bool:
        """True for the first who asks, who is to count it. Any thread may call it, also one that hung until now."""
        return self._open.acquire(blocking=False)

    def drop(self) -> None:
        """Count it as one that gets no mask on purpose."""
        if self.settle():
            self.stream.statistics.dropped()

    def fail(self, error: Exception, decoding: bool = False) -> None:
        """Count and report it as one that failed."""
        if self.settle():
            self.stream.report(error, decoding)


@dataclass(frozen=True)
class Described:
    """A frame whose mask is out: what its hazards and pictures are made of."""

    stream: CameraStream
    header: Header
    seconds: float
    image: np.ndarray
    """uint8 [H, W, 3] RGB."""
    prediction: Prediction
    now: NodeParameters
    """Those its mask was made with."""


class CameraStream:
    """Subscriptions, outputs, zones, filter and tracker of one camera.

    `decode` and `answer` run in the network's thread, `describe` in that one or another, the rest in the executor's.
    """

    def __init__(self, node: LifecycleNode, name: str, mounting: Mounting, on_frame: Callable[[Frame], None]) -> None:
        self.name = name
        self.parameters = parameters.declare(node, CameraParameters, name)
        """Replaced, never changed, so that any thread may read it."""
        self.statistics = FrameStatistics()
        self.frame_size = (0, 0)
        """Height and width of the last frame, (0, 0) before the first."""
        self.last: Described | None = None
        self.input = ImageInput(node, name, lambda message: on_frame(Frame(self, message, time.monotonic())))
        self._node = node
        self._mounting = mounting
        self._outputs: Outputs | None = None
        self._ego_mask: np.ndarray | None = None
        self._zones: tuple[tuple[object, ...], Zones] = ((), Zones())
        self._filter: tuple[tuple[object, ...], TemporalFilter] = (("none", 0.0), TemporalFilter("none"))
        self._tracker: tuple[tuple[object, ...], Tracker] = ((), Tracker())
        self._ids = itertools.count(1)
        """Of the tracks, whatever tracker gives them."""
        self._before: tuple[tuple[int, int], float, float] | None = None
        """Stamp, `Described.seconds` and arrival of the frame before."""
        self._told: set[str] = set()

    def configure(self) -> None:
        """Create the output topics."""
        self._outputs = Outputs(self._node, self.name)

    def open(self, now: NodeParameters) -> None:
        """Subscribe. Raises ConfigError for an ego mask that cannot be read."""
        self.statistics.restart()
        self._told.clear()
        self._before = None
        own = self.parameters
        self._ego_mask = load_ego_mask(own.ego_mask) if own.ego_mask else None  # here, not while frames come
        self._prepare(now, fresh=True)
        self.input.open(now.transport, now.reliability)

    def close(self) -> None:
        """Unsubscribe; the output topics stay."""
        self.input.close()

    def release(self) -> None:
        """Take the output topics away and forget the last frame."""
        if self._outputs is not None:
            self._outputs.destroy()
        self._outputs = self.last = None

    def decode(self, frame: Frame) -> np.ndarray | None:
        """uint8 [H, W, 3] RGB of a frame; None, counted and reported, if it cannot be read."""
        try:
            image = to_rgb(frame.message)
        except Exception as error:  # whatever a driver sends
            frame.fail(error, decoding=True)
            return None
        self.frame_size = (image.shape[0], image.shape[1])
        return image

    def answer(
        self, frame: Frame, image: np.ndarray, prediction: Prediction, now: NodeParameters, begun: float
    ) -> Described:
        """Filter a prediction over time and space and publish its mask; `begun` is when the network was free for it."""
        self._prepare(now)
        header, seconds = frame.message.header, self._seconds(frame)
        prediction = self._zones[1].cut(self._filter[1](prediction, image, seconds))
        if self._outputs is not None:
            self._outputs.publish_mask(header, prediction)
        done = time.monotonic()
        since_stamp = age(header.stamp, self._node.get_clock().now().nanoseconds)
        network = prediction.timings_ms.get("inference", 0.0) / 1000.0
        if frame.settle():
            self.statistics.published(Passage(done - frame.arrival, done - begun, network, since_stamp))
        self.last = Described(self, header, seconds, image, prediction, now)
        return self.last

    def describe(self, frame: Described) -> None:
        """Publish the hazards of a frame whose mask is out, and the pictures that somebody subscribes."""
        outputs = self._outputs
        if outputs is None:
            return
        try:
            self._publish_hazards(outputs, frame)
        finally:  # a camera that cannot be placed still has its pictures
            outputs.publish_pictures(frame.header, frame.image, frame.prediction, frame.now.overlay_alpha)
            outputs.publish_labels(frame.header, frame.prediction.threshold)

    def _publish_hazards(self, outputs: Outputs, frame: Described) -> None:
        now, size = frame.now, frame.prediction.logits.shape
        scale = (frame.image.shape[0] / size[0], frame.image.shape[1] / size[1])
        regions = frame.prediction.regions(now.min_region_area)
        if now.road_only:
            regions = self._zones[1].on_road(regions, frame.prediction)
        hazards = to_hazards(
            regions,
            self._camera(frame.header.frame_id, (size[0], size[1]), now),
            uncertainty=Uncertainty(now.pitch_std, now.pixel_std / scale[0]),
            max_distance_m=now.max_distance,
            min_size_m=now.min_size,
        )
        tracks = [track for track in self._tracker[1].update(hazards, frame.seconds) if track.confirmed]
        outputs.publish_hazards(frame.header, tracks, now.base_frame, scale)

    def report(self, error: Exception, decoding: bool = False, masked: bool = False) -> None:
        """Log (throttled) and count a frame that failed, or, `masked`, an error that took no mask. For any thread."""
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        text = f"{self.input.topic}: {reason}"
        log = self._node.get_logger()
        if masked:
            self.statistics.erred(text)
            log.error(f"beside the masks of {text}", throttle_duration_sec=LOG_THROTTLE_S)
        else:
            self.statistics.failed(text, decoding)
            log.error(f"frame skipped on {text}", throttle_duration_sec=LOG_THROTTLE_S)
        log.debug("".join(traceback.format_exception(error)))

    def facts(self) -> dict[str, str]:
        """What diagnostics say of this camera beside its figures."""
        height, width = self.frame_size
        return {
            "camera": self.name,
            "topic": self.input.topic,
            "reliability": self.input.reliability.name.lower(),
            "frame": f"{height}x{width}" if height else "",
            "camera_info": "yes" if self.input.camera_info is not None else "no",
            "temporal_filter": self._filter[1].kind,
            "temporal_lost": str(self._filter[1].lost),
        }

    def _prepare(self, now: NodeParameters, fresh: bool = False) -> None:
        """Make zones, filter and tracker anew where their parameters changed, or all of them."""
        own = self.parameters
        zones = (own.roi, own.lane)
        if fresh or zones != self._zones[0]:
            roi, lane = (() if polygon == (0.0,) else polygon for polygon in (own.roi, own.lane))
            self._zones = (zones, Zones(roi, self._ego_mask, lane))
        kind = (now.temporal_filter, now.temporal_seconds)
        if fresh or kind != self._filter[0]:
            self._filter = (kind, TemporalFilter(*kind))
        # Tracks are places in the base frame: in another one they begin anew.
        follow = (min(now.confirm_hits, now.confirm_window), now.confirm_window, now.track_timeout, now.base_frame)
        if fresh or follow != self._tracker[0]:
            hits, window, timeout, _ = follow
            tracker = Tracker(confirm_hits=hits, confirm_window=window, timeout_s=timeout, ids=self._ids)
            self._tracker = (follow, tracker)

    def _seconds(self, frame: Frame) -> float:
        """The header's stamp; one that comes again, as zero does where none is set, moves on as the arrivals do."""
        stamp = frame.message.header.stamp
        own, before = (stamp.sec, stamp.nanosec), self._before
        seconds = own[0] + own[1] * 1e-9
        if own == (0, 0):
            self._tell("stamp", f"images on {self.input.topic} have no stamp: their outputs have none either")
        elif before is not None and own <= before[0]:
            self._tell(
                "order",
                f"stamps on {self.input.topic} do not increase ({before[0][0]}.{before[0][1]:09d}, then "
                f"{own[0]}.{own[1]:09d}): at an older one hazards begin anew, at an equal one the arrival counts; have "
                "the driver stamp each image",
            )
        if before is not None and own == before[0]:
            seconds = before[1] + frame.arrival - before[2]
        self._before = (own, seconds, frame.arrival)
        return seconds

    def _camera(self, optical_frame: str, size: tuple[int, int], now: NodeParameters) -> Camera:
        info = self.input.camera_info
        if info is None:
            self._tell(
                "info",
                f"no CameraInfo on {self.input.info_topic} yet: hazards are placed with the parameter "
                f"horizontal_fov = {self.parameters.horizontal_fov} rad",
            )
            lens = Lens.from_field_of_view(size, self.parameters.horizontal_fov)
        else:
            lens = Lens.from_camera_info(info, size, rectified=self.parameters.rectified)
        return Camera(lens, self._mounting.mount(optical_frame, now.base_frame, self.parameters))

    def _tell(self, what: str, text: str) -> None:
        """Warn once while the camera is open."""
        if what not in self._told:
            self._told.add(what)
            self._node.get_logger().warning(text)
