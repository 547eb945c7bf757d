"""Parameters: descriptors, choices, states, and config/node.yaml in step with the dataclass."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml
from rclpy.parameter import Parameter

from mgcda_ros.parameters import FIELDS, NodeParameters, check, descriptor, to_yaml

NODE_YAML = Path(__file__).resolve().parents[2] / "config" / "node.yaml"


def test_the_shipped_file_is_in_step():
    assert NODE_YAML.read_text() == to_yaml(), "run: python -m mgcda_ros.parameters > config/node.yaml"
    values = yaml.safe_load(to_yaml())["/**/mgcda_node"]["ros__parameters"]
    assert NodeParameters(**values) == NodeParameters()


@pytest.mark.parametrize("name", FIELDS)
def test_every_parameter_is_described_and_every_number_has_a_range(name: str):
    field, described = FIELDS[name], descriptor(FIELDS[name])
    assert len(described.description) > 20
    assert len(described.floating_point_range) == (type(field.default) is float)
    assert len(described.integer_range) == (type(field.default) is int)
    for limits in [*described.floating_point_range, *described.integer_range]:
        assert limits.from_value <= field.default <= limits.to_value


def test_negative_threshold_is_the_weights_own():
    assert NodeParameters().own_threshold is None
    assert NodeParameters(threshold=0.0).own_threshold == 0.0
    assert NodeParameters(threshold=0.7).own_threshold == 0.7


@pytest.mark.parametrize(
    ("name", "value", "state", "reason"),
    [
        ("weights", "other", "active", "deactivate it first"),
        ("device", "cpu", "activating", "deactivate it first"),
        ("weights", "other", "inactive", None),
        ("weights", "other", "unconfigured", None),
        ("threshold", 0.5, "active", None),
        ("overlay_alpha", 0.5, "active", None),
        ("reliability", "best_effort", "active", None),
        ("reliability", "maybe", "inactive", "allowed are auto, reliable, best_effort"),
        ("camera_pitch", math.nan, "inactive", "finite"),
        ("use_sim_time", True, "active", None),
    ],
)
def test_changes(name: str, value: object, state: str, reason: str | None):
    result = check([Parameter(name, value=value)], state)
    assert result.successful == (reason is None)
    if reason is not None:
        assert name in result.reason
        assert reason in result.reason
