"""Hazards as the MarkerArray the node publishes, built without ROS; mgcda_ros.markers is the model, a test compares.

They are not tracked here: a hazard's id is its place in the frame, and each is drawn as one that is sure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from mgcda_core.hazards.regions import Hazard

MARKERS_TYPE = "visualization_msgs/msg/MarkerArray"
BASE_FRAME = "base_link"
SMALLEST_M = 0.05
TEXT_HEIGHT_M = 0.35
LINE_WIDTH_M = 0.05
LIFETIME_NS = 500_000_000


class Markers:
    """Makes the messages, with the types of a rosbags typestore."""

    def __init__(self, store: Any) -> None:
        self._types = types = store.types
        self._blank = types["visualization_msgs/msg/Marker"](
            header=header(store, 0, BASE_FRAME),
            ns="",
            id=0,
            type=0,
            action=0,
            pose=types["geometry_msgs/msg/Pose"](
                position=types["geometry_msgs/msg/Point"](0.0, 0.0, 0.0),
                orientation=types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
            ),
            scale=types["geometry_msgs/msg/Vector3"](0.0, 0.0, 0.0),
            color=types["std_msgs/msg/ColorRGBA"](0.0, 0.0, 0.0, 0.0),
            lifetime=types["builtin_interfaces/msg/Duration"](0, 0),
            frame_locked=False,
            points=[],
            colors=[],
            texture_resource="",
            texture=types["sensor_msgs/msg/CompressedImage"](header(store, 0, ""), "", np.zeros(0, np.uint8)),
            uv_coordinates=[],
            text="",
            mesh_resource="",
            mesh_file=types["visualization_msgs/msg/MeshFile"]("", np.zeros(0, np.uint8)),
            mesh_use_embedded_materials=False,
        )
        self._store = store

    def to_markers(self, hazards: Sequence[Hazard], stamp_ns: int) -> Any:
        """MarkerArray in base_link (x forward, y left, z up, metres): DELETEALL, then cube, text and line of each."""
        blank = replace(self._blank, header=header(self._store, stamp_ns, BASE_FRAME))
        markers = [replace(blank, action=blank.DELETEALL)]
        for index, hazard in enumerate(hazards):
            markers += [make(blank, index, hazard) for make in (self._cube, self._text, self._spread)]
        return self._types[MARKERS_TYPE](markers=markers)

    def _cube(self, blank: Any, index: int, hazard: Hazard) -> Any:
        x, y, z = hazard.position
        width, height = max(hazard.width_m, SMALLEST_M), max(hazard.height_m, SMALLEST_M)
        colour = (1.0, max(0.0, 1.0 - hazard.score), 0.0, 0.8)
        shown = self._shown(blank, index, (x, y, z + height / 2), (width, width, height), colour)
        return replace(shown, type=blank.CUBE, ns="hazards")

    def _text(self, blank: Any, index: int, hazard: Hazard) -> Any:
        x, y, z = hazard.position
        place, scale = (x, y, z + hazard.height_m + TEXT_HEIGHT_M), (0.0, 0.0, TEXT_HEIGHT_M)
        shown = self._shown(blank, index, place, scale, (1.0, 1.0, 1.0, 1.0))
        text = f"{index}: {hazard.distance_m:.1f} ± {hazard.distance_std_m:.1f} m"
        return replace(shown, type=blank.TEXT_VIEW_FACING, ns="hazard_labels", text=text)

    def _spread(self, blank: Any, index: int, hazard: Hazard) -> Any:
        x, y, _ = hazard.position
        reach = hazard.distance_std_m / max(math.hypot(x, y), 1e-6)
        point = self._types["geometry_msgs/msg/Point"]
        ends = [point(x * (1 + side * reach), y * (1 + side * reach), LINE_WIDTH_M) for side in (-1, 1)]
        shown = self._shown(blank, index, (0.0, 0.0, 0.0), (LINE_WIDTH_M, 0.0, 0.0), (1.0, 1.0, 0.0, 0.8))
        return replace(shown, type=blank.LINE_LIST, ns="hazard_spread", points=ends)

    def _shown(
        self, blank: Any, index: int, place: Sequence[float], scale: Sequence[float], colour: Sequence[float]
    ) -> Any:
        position = self._types["geometry_msgs/msg/Point"](*map(float, place))
        return replace(
            blank,
            id=index,
            pose=replace(blank.pose, position=position),
            scale=self._types["geometry_msgs/msg/Vector3"](*map(float, scale)),
            color=self._types["std_msgs/msg/ColorRGBA"](*map(float, colour)),
            lifetime=self._types["builtin_interfaces/msg/Duration"](*divmod(LIFETIME_NS, 1_000_000_000)),
        )


def header(store: Any, stamp_ns: int, frame_id: str) -> Any:
    """std_msgs/Header of a rosbags typestore."""
    time = store.types["builtin_interfaces/msg/Time"](*divmod(stamp_ns, 1_000_000_000))
    return store.types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def road_points(message: Any) -> tuple[tuple[float, float], ...]:
    """Places (x, y) in metres of the hazards of a MarkerArray, the nearest first."""
    cubes = [m.pose.position for m in message.markers if m.type == m.CUBE and m.action == m.ADD]
    return tuple(sorted(((float(p.x), float(p.y)) for p in cubes), key=lambda place: math.hypot(*place)))
