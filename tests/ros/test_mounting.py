"""Where a camera sits, with a stand-in for tf2_ros, which has no wheel."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from mgcda_ros.mounting import Mounting
from mgcda_ros.node_parameters import CameraParameters

OWN = CameraParameters(camera_height=2.0, camera_pitch=0.1, camera_forward=0.5)


class TransformException(Exception):  # noqa: N818 - its name in tf2_ros
    pass


class Buffer:
    answers: ClassVar[dict[tuple[str, str], Any]] = {}

    def lookup_transform(self, target: str, source: str, time: object) -> Any:
        if (target, source) not in self.answers:
            raise TransformException(f'"{source}" passed to lookupTransform argument source_frame does not exist')
        return SimpleNamespace(transform=self.answers[target, source])


class TransformListener:
    open = 0

    def __init__(self, buffer: Buffer, node: object) -> None:
        TransformListener.open += 1

    def unregister(self) -> None:
        TransformListener.open -= 1


class Node:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def get_logger(self) -> Any:
        return SimpleNamespace(info=self.lines.append)


@pytest.fixture()
def tf2(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("tf2_ros")
    module.Buffer, module.TransformListener, module.TransformException = Buffer, TransformListener, TransformException
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
    at = SimpleNamespace(x=1.0, y=-0.2, z=1.6)
    turned = SimpleNamespace(x=-0.5, y=0.5, z=-0.5, w=0.5)  # optical axes of a camera that looks ahead
    found = SimpleNamespace(translation=at, rotation=turned)
    monkeypatch.setattr(Buffer, "answers", {("base_link", "front_optical"): found})


def mounting(setting: str) -> tuple[Mounting, Node]:
    node: Any = Node()
    made = Mounting(node)
    made.open(setting)
    return made, node


def test_parameters_ask_nobody(tf2: None):
    made, node = mounting("parameters")
    place = made.mount("front_optical", "base_link", OWN)
    np.testing.assert_allclose(place.position, (0.5, 0.0, 2.0))
    np.testing.assert_allclose(place.rotation @ (0.0, 0.0, 1.0), (math.cos(0.1), 0.0, -math.sin(0.1)), atol=1e-12)
    assert (TransformListener.open, node.lines) == (0, [])


@pytest.mark.parametrize("setting", ["auto", "tf"])
def test_tf_gives_place_and_direction(tf2: None, setting: str):
    made, _ = mounting(setting)
    place = made.mount("front_optical", "base_link", OWN)
    np.testing.assert_allclose(place.position, (1.0, -0.2, 1.6))
    np.testing.assert_allclose(place.rotation @ (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), atol=1e-12)
    assert TransformListener.open == 1
    made.close()
    assert TransformListener.open == 0


def test_auto_takes_the_parameters_where_tf_does_not_answer_and_says_so_once(tf2: None):
    made, node = mounting("auto")
    for _ in range(3):
        assert made.mount("rear_optical", "base_link", OWN).position[2] == 2.0
    assert node.lines == ["no transform base_link <- rear_optical: that camera is mounted as its parameters say"]
    made.close()


def test_tf_that_does_not_answer_is_an_error_that_names_both_frames(tf2: None):
    made, _ = mounting("tf")
    with pytest.raises(ValueError, match=r"no transform base_link <- rear_optical: .*; publish it .*or set\s*mounting"):
        made.mount("rear_optical", "base_link", OWN)
    made.close()


def test_after_it_is_closed_nothing_is_placed_by_other_means(tf2: None):
    for setting in ("auto", "tf", "parameters"):
        made, _ = mounting(setting)
        made.close()
        with pytest.raises(ValueError, match="front_optical is mounted is not looked up any more"):
            made.mount("front_optical", "base_link", OWN)


def test_without_tf2_ros(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    with pytest.raises(ImportError, match="mounting is tf, but tf2_ros cannot be imported"):
        mounting("tf")
    made, node = mounting("auto")
    assert made.mount("front_optical", "base_link", OWN).position[2] == 2.0
    assert "cameras are mounted as their parameters say" in node.lines[0]
