"""Markers: DELETEALL first, then a cube that stands on the road and a text over it."""

from __future__ import annotations

from typing import Any

import pytest
from builtin_interfaces.msg import Time
from visualization_msgs.msg import Marker

from mgcda_core.hazards.regions import Hazard
from mgcda_core.prediction import Region
from mgcda_ros.markers import SMALLEST_M, to_markers

STAMP = Time(sec=3, nanosec=4)


def hazard(width: float = 0.8, height: float = 0.5) -> Hazard:
    return Hazard((12.0, -1.5, 0.0), width, height, 12.1, 0.75, Region(1, 2, 3, 4, 12, 0.75))


def markers_of(hazards: list[Hazard], frame: str = "base_link") -> list[Any]:
    return list(to_markers(hazards, STAMP, frame).markers)


def test_one_cube_and_one_text_a_hazard_after_deleteall():
    markers = markers_of([hazard(), hazard()])
    assert [m.action for m in markers] == [Marker.DELETEALL, *[Marker.ADD] * 4]
    assert [m.type for m in markers[1:]] == [Marker.CUBE, Marker.TEXT_VIEW_FACING] * 2
    assert len({(m.ns, m.id) for m in markers[1:]}) == 4
    assert all((m.header.frame_id, m.header.stamp) == ("base_link", STAMP) for m in markers)
    assert all((m.lifetime.sec, m.lifetime.nanosec) == (0, 500_000_000) for m in markers[1:])
    assert all(m.pose.orientation.w == 1.0 for m in markers[1:])


def test_the_cube_stands_on_the_road():
    cube, text = markers_of([hazard()])[1:]
    assert (cube.pose.position.x, cube.pose.position.y, cube.pose.position.z) == (12.0, -1.5, 0.25)
    assert (cube.scale.y, cube.scale.z) == (0.8, 0.5)
    assert text.pose.position.z > 0.5
    assert "12.1 m" in text.text
    assert "0.75" in text.text


def test_a_flat_region_can_still_be_seen():
    cube = markers_of([hazard(0.0, 0.0)])[1]
    assert min(cube.scale.x, cube.scale.y, cube.scale.z) == pytest.approx(SMALLEST_M)


def test_no_hazards_clear_the_old_ones():
    assert [m.action for m in markers_of([], "map")] == [Marker.DELETEALL]
