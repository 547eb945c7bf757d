"""Hazards as vision_msgs/Detection2DArray and the mask's meaning as vision_msgs/LabelInfo, where vision_msgs is there.

vision_msgs is no dependency: `available()` says whether it can be imported. Written for vision_msgs 4 (Humble and on).
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from std_msgs.msg import Header

from mgcda_core.hazards.tracks import Track

CLASS_NAME = "anomaly"


def available() -> bool:
    """True if vision_msgs can be imported."""
    return importlib.util.find_spec("vision_msgs") is not None


def types() -> ModuleType:
    """The module vision_msgs.msg. Raises ImportError where it is missing."""
    return importlib.import_module("vision_msgs.msg")


def to_detections(tracks: Sequence[Track], header: Header, scale: tuple[float, float] = (1.0, 1.0)) -> Any:
    """Detection2DArray of the hazards that this frame shows, in pixels of the input image, with the image's header.

    `scale` is (rows, columns) of the input image by those of the mask. The id of a detection is that of its hazard.
    """
    msgs = types()
    message = msgs.Detection2DArray(header=header)
    for track in tracks:
        if track.unseen_s > 0.0:
            continue
        region = track.hazard.region
        detection = msgs.Detection2D(header=header, id=str(track.id))
        detection.bbox.center.position.x = (region.x + (region.width - 1) / 2 + 0.5) * scale[1] - 0.5
        detection.bbox.center.position.y = (region.y + (region.height - 1) / 2 + 0.5) * scale[0] - 0.5
        detection.bbox.size_x, detection.bbox.size_y = region.width * scale[1], region.height * scale[0]
        result = msgs.ObjectHypothesisWithPose()
        result.hypothesis.class_id, result.hypothesis.score = CLASS_NAME, float(region.score)
        detection.results = [result]
        message.detections.append(detection)
    return message


def to_label_info(header: Header, names: Mapping[int, str], threshold: float) -> Any:
    """LabelInfo: what each value of an image means; `threshold` is the score from which a pixel is an anomaly."""
    msgs = types()
    classes = [msgs.VisionClass(class_id=value, class_name=name) for value, name in names.items()]
    return msgs.LabelInfo(header=header, class_map=classes, threshold=float(threshold))
