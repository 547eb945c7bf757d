"""The output topics of one camera; what nobody subscribes is not computed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header, String
from visualization_msgs.msg import MarkerArray

from mgcda_core.hazards.tracks import Track
from mgcda_core.labels import IGNORE, TRAIN_NAMES
from mgcda_core.prediction import Prediction
from mgcda_ros import detections
from mgcda_ros.hazards_info import to_info
from mgcda_ros.markers import to_markers
from mgcda_ros.messages import mask_message, overlay_message, score_message, segmentation_message

OUTPUT_QOS = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=5,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.VOLATILE,
)
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
MASK_NAMES = {0: "normal", 255: detections.CLASS_NAME}
SEGMENTATION_NAMES = {**dict(enumerate(TRAIN_NAMES)), IGNORE: "not looked at"}


class Outputs:
    """Publishers ~/mask ... of `camera`, ~/CAMERA/mask ... if it has a name."""

    def __init__(self, node: LifecycleNode, camera: str = "") -> None:
        self._node = node
        before = f"~/{camera}/" if camera else "~/"

        def publisher(kind: Any, name: str, qos: QoSProfile = OUTPUT_QOS) -> Any:
            return node.create_lifecycle_publisher(kind, before + name, qos)

        self._mask = publisher(Image, "mask")
        self._score = publisher(Image, "score")
        self._overlay = publisher(Image, "overlay")
        self._segmentation = publisher(Image, "segmentation")
        self._hazards = publisher(MarkerArray, "hazards")
        self._info = publisher(String, "hazards_info")
        self._all = [self._mask, self._score, self._overlay, self._segmentation, self._hazards, self._info]
        self._detections = self._mask_labels = self._segmentation_labels = None
        self._told: tuple[str, float] | None = None
        if detections.available():
            types = detections.types()
            self._detections = publisher(types.Detection2DArray, "detections")
            self._mask_labels = publisher(types.LabelInfo, "label_info", LATCHED)
            self._segmentation_labels = publisher(types.LabelInfo, "segmentation_label_info", LATCHED)
            self._all += [self._detections, self._mask_labels, self._segmentation_labels]

    def publish_mask(self, header: Header, prediction: Prediction) -> None:
        """Publish ~/mask; first of all, since it is what the vehicle waits for."""
        self._mask.publish(mask_message(header, prediction))

    def publish_hazards(
        self, header: Header, tracks: Sequence[Track], frame: str, scale: tuple[float, float] = (1.0, 1.0)
    ) -> None:
        """Publish ~/hazards and ~/hazards_info in `frame`, and ~/detections; an empty list clears the markers.

        `scale` is (rows, columns) of the input image by those of the mask.
        """
        stamp: Time = header.stamp
        self._hazards.publish(to_markers(tracks, stamp, frame))
        if self._info.get_subscription_count():
            self._info.publish(String(data=json.dumps(to_info(tracks, header, frame, scale), allow_nan=False)))
        if self._detections is not None and self._detections.get_subscription_count():
            self._detections.publish(detections.to_detections(tracks, header, scale))

    def publish_pictures(self, header: Header, image: np.ndarray, prediction: Prediction, alpha: float) -> None:
        """Publish ~/score, ~/overlay and ~/segmentation to those who subscribe; `image` at any size."""
        if self._score.get_subscription_count():
            self._score.publish(score_message(header, prediction))
        if self._overlay.get_subscription_count():
            self._overlay.publish(overlay_message(header, image, prediction, alpha))
        if prediction.segmentation is not None and self._segmentation.get_subscription_count():
            self._segmentation.publish(segmentation_message(header, prediction.segmentation))

    def publish_labels(self, header: Header, threshold: float) -> None:
        """Publish, latched, what the values of mask and segmentation mean, when that changes."""
        if self._mask_labels is None or self._segmentation_labels is None:
            return
        if self._told != (told := (header.frame_id, threshold)):
            self._told = told
            self._mask_labels.publish(detections.to_label_info(header, MASK_NAMES, threshold))
            self._segmentation_labels.publish(detections.to_label_info(header, SEGMENTATION_NAMES, 0.0))

    def destroy(self) -> None:
        """Take the topics away."""
        for publisher in self._all:
            self._node.destroy_lifecycle_publisher(publisher)
