"""Where a camera sits: tf2's transform base_frame <- optical frame where it answers, else the node's parameters."""

from __future__ import annotations

import importlib
from typing import Any

from rclpy.lifecycle import LifecycleNode
from rclpy.time import Time

from mgcda_core.hazards.mount import Mount
from mgcda_ros.node_parameters import CameraParameters

MOST_TOLD = 100
"""Frames of which it is said that tf does not know them; a hostile publisher may name a new one each time."""


class Mounting:
    """Looks mountings up while it is open; tf2_ros is no dependency, what it lacks is said once."""

    def __init__(self, node: LifecycleNode) -> None:
        self._node = node
        self._setting: str | None = None  # while it is closed
        self._buffer: Any = None
        self._listener: Any = None
        self._errors: tuple[type[Exception], ...] = ()
        self._told: set[str] = set()

    def open(self, setting: str) -> None:
        """Listen to tf unless `setting` is parameters. Raises ImportError for tf without tf2_ros."""
        self._setting = setting
        self._told.clear()
        if setting == "parameters":
            return
        try:
            tf2_ros = importlib.import_module("tf2_ros")
        except ImportError as error:
            if setting == "tf":
                raise ImportError(
                    f"mounting is tf, but tf2_ros cannot be imported ({error}): install ros-$ROS_DISTRO-tf2-ros-py, "
                    "or set mounting to parameters"
                ) from error
            self._node.get_logger().info(f"no tf2_ros ({error}): cameras are mounted as their parameters say")
            return
        self._errors = (tf2_ros.TransformException,)
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, self._node)

    def close(self) -> None:
        """Listen no more; `mount` raises from here on."""
        self._setting = None
        if self._listener is not None:
            self._listener.unregister()
        self._buffer = self._listener = None

    def mount(self, optical_frame: str, base_frame: str, own: CameraParameters) -> Mount:
        """Mount of the camera whose images have the frame_id `optical_frame`.

        Raises ValueError naming both frames if the setting is tf and it does not answer, or if it is closed meanwhile,
        ConfigError for a transform that no camera can have.
        """
        buffer, setting = self._buffer, self._setting  # in this order: `close` takes the setting away first
        if setting is None:
            raise ValueError(f"where {optical_frame} is mounted is not looked up any more: the node is deactivated")
        if buffer is not None:
            try:
                found = buffer.lookup_transform(base_frame, optical_frame, Time()).transform
            except self._errors as error:
                if setting == "tf":
                    raise ValueError(
                        f"no transform {base_frame} <- {optical_frame}: {error}; publish it (robot_state_publisher or "
                        "static_transform_publisher), or set mounting to parameters"
                    ) from error
                if optical_frame not in self._told and len(self._told) < MOST_TOLD:
                    self._told.add(optical_frame)
                    self._node.get_logger().info(
                        f"no transform {base_frame} <- {optical_frame}: that camera is mounted as its parameters say"
                    )
            else:
                at, turned = found.translation, found.rotation
                return Mount.from_transform((at.x, at.y, at.z), (turned.x, turned.y, turned.z, turned.w))
        return Mount.from_angles(
            own.camera_height, roll_rad=own.camera_roll, pitch_rad=own.camera_pitch, yaw_rad=own.camera_yaw,
            forward_m=own.camera_forward, left_m=own.camera_left,
        )  # fmt: skip
