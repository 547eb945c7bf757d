"""Dataclasses of parameters <-> declared ROS parameters with descriptors and ranges.

`python -m mgcda_ros.parameters` prints config/node.yaml.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from mgcda_ros.node_parameters import CameraParameters, NodeParameters
from mgcda_ros.trusted_files import TrustedFiles

Parameters = TypeVar("Parameters", CameraParameters, NodeParameters)
EDITABLE_STATES: dict[str, tuple[str, ...]] = {
    "unconfigured": ("unconfigured",),
    "inactive": ("unconfigured", "inactive"),
}
"""Lifecycle states in which parameters of each kind that are not live may change."""
_REMEDIES = {
    "unconfigured": "deactivate and clean it up first",
    "inactive": "deactivate it first",
}
_WHEN = {
    "live": "",
    "unconfigured": " Read when the node is configured.",
    "inactive": " Read when the node is activated.",
    "never": " Read at start.",
}


def fields(kind: type[CameraParameters] | type[NodeParameters]) -> dict[str, dataclasses.Field[Any]]:
    """The parameters of a dataclass by name."""
    return {field.name: field for field in dataclasses.fields(kind)}


def descriptor(field: dataclasses.Field[Any], name: str) -> ParameterDescriptor:
    """ROS descriptor of a field, as the parameter `name`; rclpy itself refuses values outside the range."""
    meta = field.metadata
    choices = f" One of: {', '.join(meta['choices'])}." if meta["choices"] else ""
    text = meta["description"] + choices + _WHEN[meta["change"]]
    result = ParameterDescriptor(name=name, description=text, read_only=meta["change"] == "never")
    if meta["low"] is not None and isinstance(field.default, float):
        result.floating_point_range = [FloatingPointRange(from_value=meta["low"], to_value=meta["high"])]
    elif meta["low"] is not None:
        result.integer_range = [IntegerRange(from_value=meta["low"], to_value=meta["high"])]
    return result


def prefix(camera: str) -> str:
    """What stands before the parameters of a camera: nothing for the one without a name."""
    return f"{camera}." if camera else ""


def declare(node: Node, kind: type[Parameters], camera: str = "") -> Parameters:
    """Declare every parameter of `kind`, for `camera`, and give the values they have.

    Raises rclpy's exceptions if a value given at start has a wrong type or range.
    """
    values = {}
    for name, field in fields(kind).items():
        full = prefix(camera) + name
        start: Any = list(field.default) if isinstance(field.default, tuple) else field.default
        values[name] = _value(field, node.declare_parameter(full, start, descriptor(field, full)).value)
    return kind(**values)


def changed(parameters: Parameters, changes: Iterable[Parameter[Any]], camera: str = "") -> Parameters:
    """`parameters` with those of `changes` that are theirs."""
    known, before = fields(type(parameters)), prefix(camera)
    own = {c.name.removeprefix(before): c.value for c in changes if c.name.startswith(before)}
    return dataclasses.replace(parameters, **{n: _value(known[n], v) for n, v in own.items() if n in known})


def _value(field: dataclasses.Field[Any], value: Any) -> Any:
    return tuple(value) if isinstance(field.default, tuple) else value


def check(
    changes: Iterable[Parameter[Any]], state: str, cameras: Sequence[str] = ("",), files: TrustedFiles | None = None
) -> SetParametersResult:
    """Whether `changes` are allowed in lifecycle state `state`; the reason names the parameter and the remedy.

    rclpy has checked types, ranges and read_only before; here: choices, lists, values that are not finite, the state,
    and which files may be named; any may without `files`, as at start.
    """
    known = {**fields(NodeParameters)}
    for camera in cameras:
        known.update({prefix(camera) + name: field for name, field in fields(CameraParameters).items()})
    for change in changes:
        field = known.get(change.name)
        if field is None:  # use_sim_time and its like belong to rclpy
            continue
        if (reason := _fault(change.name, field, change.value)) is not None:
            return _refused(reason)
        allowed = EDITABLE_STATES.get(field.metadata["change"])
        if allowed is not None and state not in allowed:
            remedy = _REMEDIES[field.metadata["change"]]
            return _refused(f"{change.name} cannot change while the node is {state}: {remedy}")
        if files is not None and (reason := files.refusal(change.name, change.value)) is not None:
            return _refused(reason)
    return SetParametersResult(successful=True)


def _fault(name: str, field: dataclasses.Field[Any], value: Any) -> str | None:
    choices = field.metadata["choices"]
    if choices and value not in choices:
        return f"{name} is {value!r}; allowed are {', '.join(choices)}"
    if isinstance(field.default, float) and not math.isfinite(value):
        return f"{name} must be a finite number"
    if field.name == "size" and (len(value) != 2 or not _is_size(value)):
        return f"{name} is {list(value)}: give height and width, 2 to 32768 each, or 0, 0 for the network's own"
    if field.name in ("roi", "lane") and not _is_polygon(value):
        return f"{name} is {list(value)}: give x1, y1, x2, y2, x3, y3 ... in [0, 1], or 0.0 alone for none"
    if field.name == "cameras" and not _are_names(value):
        return f"{name} is {list(value)}: give distinct names of letters, digits and _, or one empty name"
    return None


def _is_size(values: Sequence[int]) -> bool:
    return list(values) == [0, 0] or all(2 <= value <= 1 << 15 for value in values)


def _is_polygon(values: Sequence[float]) -> bool:
    corners = len(values) >= 6 and len(values) % 2 == 0 and all(0.0 <= value <= 1.0 for value in values)
    return list(values) == [0.0] or corners


def _are_names(values: Sequence[str]) -> bool:
    named = all(value.isidentifier() and value.isascii() for value in values) and len(set(values)) == len(values)
    return list(values) == [""] or (named and len(values) > 0)


def _refused(reason: str) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=reason)


def to_yaml() -> str:
    """Text of config/node.yaml: every parameter with its default under its description."""
    lines = ["# Parameters of mgcda_node. Written by: python -m mgcda_ros.parameters > config/node.yaml"]
    lines += ["# With cameras: [front, rear] those from camera_height to ego_mask stand under each name, front: ..."]
    lines += ["/**/mgcda_node:", "  ros__parameters:"]
    for name, field in {**fields(NodeParameters), **fields(CameraParameters)}.items():
        text = descriptor(field, name).description
        if field.metadata["low"] is not None:
            text += f" Range: {field.metadata['low']} to {field.metadata['high']}."
        lines += [f"    # {text}", f"    {name}: {_yaml(field.default)}"]
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, str):
        return value or '""'
    return str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print(to_yaml(), end="")
