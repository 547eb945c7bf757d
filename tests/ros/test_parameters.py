"""Parameters: descriptors, choices, states, and config/node.yaml in step with the dataclasses."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from rclpy.parameter import Parameter

from mgcda_ros.node_parameters import CameraParameters, NodeParameters
from mgcda_ros.parameters import changed, check, descriptor, fields, to_yaml

NODE_YAML = Path(__file__).resolve().parents[2] / "config" / "node.yaml"
FIELDS = {**fields(NodeParameters), **fields(CameraParameters)}


def test_the_shipped_file_is_in_step():
    assert NODE_YAML.read_text() == to_yaml(), "run: python -m mgcda_ros.parameters > config/node.yaml"
    values = yaml.safe_load(to_yaml())["/**/mgcda_node"]["ros__parameters"]
    assert {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()} == {
        **dataclasses.asdict(NodeParameters()),
        **dataclasses.asdict(CameraParameters()),
    }


def test_no_parameter_of_a_camera_has_the_name_of_one_of_the_node():
    assert not set(fields(NodeParameters)) & set(fields(CameraParameters))


@pytest.mark.parametrize("name", FIELDS)
def test_every_parameter_is_described_and_every_number_has_a_range(name: str):
    field, described = FIELDS[name], descriptor(FIELDS[name], name)
    assert len(described.description) > 20
    assert described.name == name
    assert described.read_only == (field.metadata["change"] == "never")
    assert len(described.floating_point_range) == (type(field.default) is float)
    assert len(described.integer_range) == (type(field.default) is int)
    for limits in [*described.floating_point_range, *described.integer_range]:
        assert limits.from_value <= field.default <= limits.to_value


def test_defaults_are_allowed():
    for name, field in FIELDS.items():
        value = list(field.default) if isinstance(field.default, tuple) else field.default
        assert check([Parameter(name, value=value)], "unconfigured").successful, name


def test_negative_threshold_is_the_weights_own():
    assert NodeParameters().own_threshold is None
    assert NodeParameters(threshold=0.0).own_threshold == 0.0
    assert NodeParameters(threshold=0.7).own_threshold == 0.7


@pytest.mark.parametrize(
    ("name", "value", "state", "reason"),
    [
        ("weights", "other", "active", "deactivate and clean it up first"),
        ("device", "cpu", "activating", "deactivate and clean it up first"),
        ("precision", "fp16", "inactive", "clean it up first"),
        ("size", [360, 640], "inactive", "clean it up first"),
        ("weights", "other", "unconfigured", None),
        ("size", [360, 640], "unconfigured", None),
        ("size", [360], "unconfigured", "give height and width"),
        ("size", [1, 640], "unconfigured", "give height and width"),
        ("transport", "compressed", "active", "deactivate it first"),
        ("transport", "compressed", "inactive", None),
        ("transport", "theora", "inactive", "allowed are raw, compressed"),
        ("threshold", 0.5, "active", None),
        ("overlay_alpha", 0.5, "active", None),
        ("temporal_filter", "ema", "active", None),
        ("reliability", "best_effort", "active", None),
        ("reliability", "maybe", "inactive", "allowed are auto, reliable, best_effort"),
        ("camera_pitch", math.nan, "inactive", "finite"),
        ("roi", [0.0, 0.5, 1.0, 0.5, 0.5, 1.0], "active", None),
        ("roi", [0.0, 0.5, 1.0, 0.5], "active", "x1, y1, x2, y2, x3, y3"),
        ("roi", [0.0, 0.5, 1.5, 0.5, 0.5, 1.0], "active", "in [0, 1]"),
        ("roi", [0.0, math.nan, 1.0, 0.5, 0.5, 1.0], "active", "in [0, 1]"),
        ("cameras", ["front", "../rear"], "unconfigured", "letters, digits and _"),
        ("cameras", ["front", "front"], "unconfigured", "distinct names"),
        ("cameras", [], "unconfigured", "one empty name"),
        ("use_sim_time", True, "active", None),
    ],
)
def test_changes(name: str, value: Any, state: str, reason: str | None):
    change = Parameter(name, Parameter.Type.STRING_ARRAY if value == [] else None, value)
    result = check([change], state)
    assert result.successful == (reason is None)
    if reason is not None:
        assert name in result.reason
        assert reason in result.reason


def test_a_cameras_own_parameters_are_checked_and_changed_under_its_name():
    change = Parameter("rear.roi", value=[0.0, 0.5, 1.0, 0.5, 0.5, 1.0])
    assert check([change], "active", ["front", "rear"]).successful
    wrong = check([Parameter("rear.roi", value=[0.5])], "active", ["front", "rear"])
    assert "rear.roi is [0.5]" in wrong.reason
    own = CameraParameters()
    assert changed(own, [change], "rear").roi == (0.0, 0.5, 1.0, 0.5, 0.5, 1.0)
    assert changed(own, [change], "front") == own
    assert changed(own, [Parameter("camera_height", value=2.0)], "front") == own
    assert changed(NodeParameters(), [Parameter("threshold", value=0.3), change]).threshold == 0.3
