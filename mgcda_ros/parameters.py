"""The node's parameters: one dataclass <-> declared ROS parameters with descriptors and ranges.

`python -m mgcda_ros.parameters` prints config/node.yaml.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from mgcda_core.inference.backend import CHOICES
from mgcda_core.inference.predictor import MOST_CROPPED

EDITABLE_STATES = ("unconfigured", "inactive")
"""Lifecycle states in which a parameter that is read once may change."""


def _parameter(
    default: Any,
    description: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    fixed: bool = False,
) -> Any:
    """Dataclass field of one parameter; `fixed` ones are read when the node is configured."""
    metadata = {"description": description, "low": low, "high": high, "choices": choices, "fixed": fixed}
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class NodeParameters:
    """Every parameter of the node with its default; the text beside it is the descriptor ROS tools show."""

    autostart: bool = _parameter(
        True, "Configure and activate when the process starts; false leaves both to a lifecycle manager."
    )
    weights: str = _parameter(
        "lite",
        "Weights: a shipped name, a .safetensors path, an https url or an exported .onnx or .engine.",
        fixed=True,
    )
    device: str = _parameter("auto", "Device of the network: auto, cpu, cuda or cuda:N.", fixed=True)
    backend: str = _parameter(
        "auto",
        "Runtime of the network; auto takes the fastest that works. An engine is built while another backend serves; "
        "torch-compile and onnxruntime-tensorrt compile when the node is configured, for minutes.",
        choices=CHOICES,
        fixed=True,
    )
    reliability: str = _parameter(
        "auto",
        "Reliability of the image subscription; auto follows what the publisher offers.",
        choices=("auto", "reliable", "best_effort"),
    )
    threshold: float = _parameter(
        -1.0, "Score from which a pixel is masked; negative takes the weights' own.", low=-1.0, high=1.0
    )
    crop_top: float = _parameter(
        0.0, "Share of the image's height, from the top, that is not looked at: the sky.", low=0.0, high=MOST_CROPPED
    )
    min_region_area: int = _parameter(
        100, "Smallest region, in pixels of the input image, that becomes a hazard.", low=1, high=100_000_000
    )
    camera_height: float = _parameter(1.5, "Height of the camera above the road in metres.", low=0.05, high=20.0)
    camera_pitch: float = _parameter(
        0.0, "Pitch of the camera in radians; positive looks down (REP-103).", low=-1.5, high=1.5
    )
    horizontal_fov: float = _parameter(
        1.2, "Horizontal field of view in radians, used while no CameraInfo has come.", low=0.05, high=3.1
    )
    max_distance: float = _parameter(
        120.0, "Hazards farther than this, in metres, are left out: one camera cannot place them.", low=1.0, high=1000.0
    )
    base_frame: str = _parameter("base_link", "Frame of the hazard markers: x forward, y left, z up, on the road.")
    overlay_alpha: float = _parameter(
        1.0, "Strength of the drawing on ~/overlay; 0 is the plain image.", low=0.0, high=1.0
    )

    @property
    def own_threshold(self) -> float | None:
        """The threshold in [0, 1], or None for the weights' own."""
        return self.threshold if self.threshold >= 0.0 else None


FIELDS: dict[str, dataclasses.Field[Any]] = {field.name: field for field in dataclasses.fields(NodeParameters)}


def descriptor(field: dataclasses.Field[Any]) -> ParameterDescriptor:
    """ROS descriptor of a NodeParameters field; rclpy itself refuses values outside the range."""
    meta = field.metadata
    choices = f" One of: {', '.join(meta['choices'])}." if meta["choices"] else ""
    fixed = " Read when the node is configured." if meta["fixed"] else ""
    result = ParameterDescriptor(name=field.name, description=meta["description"] + choices + fixed)
    if meta["low"] is not None and isinstance(field.default, float):
        result.floating_point_range = [FloatingPointRange(from_value=meta["low"], to_value=meta["high"])]
    elif meta["low"] is not None:
        result.integer_range = [IntegerRange(from_value=meta["low"], to_value=meta["high"])]
    return result


def declare(node: Node) -> None:
    """Declare every parameter. Raises rclpy's exceptions if a value given at start has a wrong type or range."""
    for name, field in FIELDS.items():
        default: Any = field.default
        node.declare_parameter(name, default, descriptor(field))


def read(node: Node) -> NodeParameters:
    """The current values. Safe from any thread."""
    return NodeParameters(**{name: node.get_parameter(name).value for name in FIELDS})


def check(changes: Iterable[Parameter[Any]], state: str) -> SetParametersResult:
    """Whether `changes` are allowed in lifecycle state `state`; the reason names the parameter and the remedy.

    rclpy has checked types and ranges before; here: choices, values that are not finite, and fixed parameters.
    """
    for change in changes:
        field = FIELDS.get(change.name)
        if field is None:  # use_sim_time and its like belong to rclpy
            continue
        choices = field.metadata["choices"]
        if choices and change.value not in choices:
            return _refused(f"{change.name} is {change.value!r}; allowed are {', '.join(choices)}")
        if isinstance(change.value, float) and not math.isfinite(change.value):
            return _refused(f"{change.name} must be a finite number")
        if field.metadata["fixed"] and state not in EDITABLE_STATES:
            return _refused(f"{change.name} cannot change while the node is {state}: deactivate it first")
    return SetParametersResult(successful=True)


def _refused(reason: str) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=reason)


def to_yaml() -> str:
    """Text of config/node.yaml: every parameter with its default under its description."""
    lines = ["# Parameters of mgcda_node. Written by: python -m mgcda_ros.parameters > config/node.yaml"]
    lines += ["/**/mgcda_node:", "  ros__parameters:"]
    for name, field in FIELDS.items():
        text = descriptor(field).description
        if field.metadata["low"] is not None:
            text += f" Range: {field.metadata['low']} to {field.metadata['high']}."
        value = str(field.default).lower() if isinstance(field.default, bool) else field.default
        lines += [f"    # {text}", f"    {name}: {value}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(to_yaml(), end="")
