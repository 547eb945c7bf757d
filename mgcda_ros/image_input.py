"""A camera's two subscriptions: images, with the reliability their publishers offer, and CameraInfo."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from mgcda_ros.messages import is_calibrated

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import SubscriptionEventCallbacks

ImageMessage = Image | CompressedImage


class ImageInput:
    """Subscribes image (KEEP_LAST 1: an older frame is never wanted) and camera_info of a camera while it is open."""

    def __init__(self, node: Node, camera: str, on_image: Callable[[ImageMessage], None]) -> None:
        self._node = node
        self._on_image = on_image
        self._raw = f"{camera}/image" if camera else "image"
        self._info = f"{camera}/camera_info" if camera else "camera_info"
        self._images: Subscription[ImageMessage] | None = None
        self._infos: Subscription[CameraInfo] | None = None
        self._name, self._kind = self._raw, Image
        self._setting = "auto"
        self._latched = False
        self.reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE
        self.camera_info: CameraInfo | None = None
        """The latest calibrated CameraInfo; it outlives `close`, a camera keeps its lens."""

    @property
    def topic(self) -> str:
        """The full name of the topic that images come from."""
        return self._node.resolve_topic_name(self._name)

    @property
    def info_topic(self) -> str:
        """The full name of the topic that CameraInfo comes from."""
        return self._node.resolve_topic_name(self._info)

    @property
    def problem(self) -> str | None:
        """Why no image can come from a publisher that is there, with the remedy; None if it can."""
        if self._images is None or self.reliability != ReliabilityPolicy.RELIABLE:
            return None
        if ReliabilityPolicy.BEST_EFFORT not in self._offered():
            return None
        return (
            f"a publisher of {self.topic} is best effort, this subscription reliable: no image will come from it; "
            "set the parameter reliability to auto"
        )

    def open(self, transport: str, reliability: str) -> None:
        """Subscribe to both topics; `transport` is raw or compressed, `reliability` auto, reliable or best_effort."""
        compressed = transport == "compressed"
        self._name = f"{self._raw}/compressed" if compressed else self._raw
        self._kind = CompressedImage if compressed else Image
        self._setting = reliability
        self.reliability = choose_reliability(reliability, self._offered(), self.reliability)
        self._subscribe_images()
        self._latched = self._info_is_latched()
        self._subscribe_infos()

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in (self._images, self._infos):
            if subscription is not None:
                self._node.destroy_subscription(subscription)
        self._images = self._infos = None

    def follow_publishers(self, reliability: str) -> None:
        """Subscribe anew if the setting, or what the publishers offer, who may come and go, asks for it now."""
        if self._images is None:
            return
        self._setting = reliability
        if self._infos is not None and self._latched != (latched := self._info_is_latched()):
            self._latched = latched
            self._node.destroy_subscription(self._infos)
            self._subscribe_infos()
        wanted = choose_reliability(reliability, self._offered(), self.reliability)
        if wanted == self.reliability:
            return
        self.reliability = wanted
        self._node.destroy_subscription(self._images)
        self._subscribe_images()
        self._node.get_logger().info(f"subscription of {self.topic} is {wanted.name.lower()} now")

    def _subscribe_images(self) -> None:
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=self.reliability)
        events = SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible)
        self._images = self._node.create_subscription(
            self._kind, self._name, self._on_image, qos, event_callbacks=events
        )

    def _subscribe_infos(self) -> None:
        # Small messages: best effort loses none of them and matches every publisher, but gets none of before its time.
        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        if self._latched:
            qos.reliability, qos.durability = ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL
        self._infos = self._node.create_subscription(CameraInfo, self._info, self._on_camera_info, qos)

    def _info_is_latched(self) -> bool:
        """Whether all publishers keep their last CameraInfo for who comes later; without any, as it was."""
        offered = [info.qos_profile for info in self._node.get_publishers_info_by_topic(self.info_topic)]
        latched = (DurabilityPolicy.TRANSIENT_LOCAL, ReliabilityPolicy.RELIABLE)
        return all((qos.durability, qos.reliability) == latched for qos in offered) if offered else self._latched

    def _on_incompatible(self, event: object) -> None:
        # rclpy's own warning would say that no image will come; with auto it does, follow_publishers sees to it.
        if self._setting != "auto":
            self._node.get_logger().warning(self.problem or f"a publisher of {self.topic} has an incompatible QoS")

    def _offered(self) -> list[ReliabilityPolicy]:
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        return [publisher.qos_profile.reliability for publisher in publishers]

    def _on_camera_info(self, message: CameraInfo) -> None:
        if is_calibrated(message):
            self.camera_info = message
        else:
            self._node.get_logger().warning(f"{self.info_topic} is not calibrated (K is zero): ignored", once=True)


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
