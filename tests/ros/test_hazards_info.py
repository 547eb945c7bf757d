"""~/hazards_info and ~/detections; vision_msgs, which has no wheel, is a stand-in with the fields of its version 4."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from builtin_interfaces.msg import Time
from hazard_case import track
from std_msgs.msg import Header

from mgcda_ros import detections
from mgcda_ros.hazards_info import VERSION, to_info
from mgcda_ros.outputs import MASK_NAMES, SEGMENTATION_NAMES

HEADER = Header(stamp=Time(sec=3, nanosec=4), frame_id="front_optical")
VEHICLE = Path(__file__).resolve().parents[2] / "docs" / "vehicle.md"


def test_info_is_json_with_everything_that_is_known_of_a_hazard():
    info = json.loads(json.dumps(to_info([track(5)], HEADER, "base_link"), allow_nan=False))
    assert (info["version"], info["stamp"], info["frame"]) == (VERSION, {"sec": 3, "nanosec": 4}, "base_link")
    (hazard,) = info["hazards"]
    assert (hazard["id"], hazard["position"], hazard["velocity"]) == (5, [12.0, -1.5, 0.0], [-8.0, 0.1])
    assert hazard["distance_std"] == pytest.approx(0.6, rel=0.02)
    assert hazard["box"] == [9.5, 19.5, 30.0, 40.0]
    assert hazard["cut"] is False


def test_boxes_are_in_pixels_of_the_image_whatever_the_size_of_the_mask():
    (hazard,) = to_info([track()], HEADER, "base_link", (2.0, 3.0))["hazards"]
    assert hazard["box"] == [29.5, 39.5, 90.0, 80.0]


def test_every_field_is_in_the_documentation():
    text = VEHICLE.read_text()
    info = to_info([track()], HEADER, "base_link")
    for name in [*info, *info["hazards"][0]]:
        assert f"`{name}`" in text or f'"{name}"' in text, f"docs/vehicle.md does not name {name} of ~/hazards_info"


def message(**fields: Any) -> type:
    """A message type with these defaults, called for each instance."""

    def init(self: Any, **given: Any) -> None:
        for name, make in fields.items():
            setattr(self, name, given.pop(name, make()))
        assert not given, f"no field {given}"

    return type("Message", (), {"__init__": init, "__slots__": list(fields)})


@pytest.fixture()
def vision(monkeypatch: pytest.MonkeyPatch) -> None:
    msgs: Any = ModuleType("vision_msgs.msg")
    box = message(center=lambda: SimpleNamespace(position=SimpleNamespace(x=0.0, y=0.0)), size_x=float, size_y=float)
    msgs.Detection2D = message(header=Header, id=str, results=list, bbox=box)
    msgs.Detection2DArray = message(header=Header, detections=list)
    msgs.ObjectHypothesisWithPose = message(hypothesis=lambda: SimpleNamespace(class_id="", score=0.0))
    msgs.VisionClass = message(class_id=int, class_name=str)
    msgs.LabelInfo = message(header=Header, class_map=list, threshold=float)
    monkeypatch.setitem(sys.modules, "vision_msgs.msg", msgs)


def test_detections_are_what_this_frame_shows(vision: None):
    array = detections.to_detections([track(5), track(6, unseen=0.2)], HEADER, (2.0, 3.0))
    assert array.header == HEADER
    (detection,) = array.detections
    assert (detection.id, detection.bbox.size_x, detection.bbox.size_y) == ("5", 90.0, 80.0)
    assert (detection.bbox.center.position.x, detection.bbox.center.position.y) == (29.5 + 45.0, 39.5 + 40.0)
    assert (detection.results[0].hypothesis.class_id, detection.results[0].hypothesis.score) == ("anomaly", 0.75)


def test_labels_say_what_the_values_mean(vision: None):
    mask = detections.to_label_info(HEADER, MASK_NAMES, 0.9)
    assert [(entry.class_id, entry.class_name) for entry in mask.class_map] == [(0, "normal"), (255, "anomaly")]
    assert mask.threshold == 0.9
    classes = detections.to_label_info(HEADER, SEGMENTATION_NAMES, 0.0).class_map
    assert (classes[0].class_name, len(classes)) == ("road", 20)
