"""The node's two subscriptions: images, with the reliability their publishers offer, and CameraInfo."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rclpy.lifecycle import LifecycleNode
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image

from mgcda_ros import parameters
from mgcda_ros.messages import is_calibrated

try:
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import SubscriptionEventCallbacks


class ImageInput:
    """Subscribes `image` (KEEP_LAST 1: an older frame is never wanted) and `camera_info` while it is open."""

    def __init__(self, node: LifecycleNode, on_image: Callable[[Image], None]) -> None:
        self._node = node
        self._on_image = on_image
        self._images: Subscription[Image] | None = None
        self._infos: Subscription[CameraInfo] | None = None
        self.topic = node.resolve_topic_name("image")
        self.info_topic = node.resolve_topic_name("camera_info")
        self.reliability: ReliabilityPolicy = ReliabilityPolicy.RELIABLE
        self.camera_info: CameraInfo | None = None
        """The latest calibrated CameraInfo; it outlives `close`, a camera keeps its lens."""

    def open(self) -> None:
        """Subscribe to both topics."""
        self.reliability = self._wanted()
        self._subscribe_images()
        # Small messages: best effort loses none of them and matches every publisher.
        best_effort = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._infos = self._node.create_subscription(CameraInfo, "camera_info", self._on_camera_info, best_effort)

    def close(self) -> None:
        """Unsubscribe."""
        for subscription in (self._images, self._infos):
            if subscription is not None:
                self._node.destroy_subscription(subscription)
        self._images = self._infos = None

    def follow_publishers(self) -> None:
        """Subscribe anew if the publishers, which may come and go, offer another reliability now."""
        if self._images is None:
            return
        wanted = self._wanted()
        if wanted == self.reliability:
            return
        self.reliability = wanted
        self._node.destroy_subscription(self._images)
        self._subscribe_images()
        self._node.get_logger().info(f"subscription of {self.topic} is {wanted.name.lower()} now")

    def _subscribe_images(self) -> None:
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=self.reliability)
        events = SubscriptionEventCallbacks(incompatible_qos=self._on_incompatible)
        self._images = self._node.create_subscription(Image, "image", self._on_image, qos, event_callbacks=events)

    def _on_incompatible(self, event: object) -> None:
        # rclpy's own warning would say that no image will come; with auto it does, follow_publishers sees to it.
        if parameters.read(self._node).reliability != "auto":
            self._node.get_logger().warning(
                f"a publisher of {self.topic} is best effort, this subscription reliable: no image will come from it; "
                "set the parameter reliability to auto"
            )

    def _wanted(self) -> ReliabilityPolicy:
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        offered = [publisher.qos_profile.reliability for publisher in publishers]
        return choose_reliability(parameters.read(self._node).reliability, offered, self.reliability)

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
