"""Markers: DELETEALL first, then a cube that stands on the road, a text over it, a line for its uncertainty."""

from __future__ import annotations

from typing import Any

import pytest
from builtin_interfaces.msg import Time
from hazard_case import track
from visualization_msgs.msg import Marker

from mgcda_core.hazards.tracks import Track
from mgcda_ros.markers import SMALLEST_M, to_markers

STAMP = Time(sec=3, nanosec=4)


def markers_of(tracks: list[Track], frame: str = "base_link") -> list[Any]:
    return list(to_markers(tracks, STAMP, frame).markers)


def test_cube_text_and_line_of_each_hazard_after_deleteall():
    markers = markers_of([track(4), track(7)])
    assert [m.action for m in markers] == [Marker.DELETEALL, *[Marker.ADD] * 6]
    assert [m.type for m in markers[1:]] == [Marker.CUBE, Marker.TEXT_VIEW_FACING, Marker.LINE_LIST] * 2
    assert [m.id for m in markers[1:]] == [4, 4, 4, 7, 7, 7]  # the track's: a view may follow one
    assert len({(m.ns, m.id) for m in markers[1:]}) == 6
    assert all((m.header.frame_id, m.header.stamp) == ("base_link", STAMP) for m in markers)
    assert all((m.lifetime.sec, m.lifetime.nanosec) == (0, 500_000_000) for m in markers[1:])
    assert all(m.pose.orientation.w == 1.0 for m in markers[1:])


def test_the_cube_stands_on_the_road():
    cube, text, _ = markers_of([track(5)])[1:]
    assert (cube.pose.position.x, cube.pose.position.y, cube.pose.position.z) == (12.0, -1.5, 0.25)
    assert (cube.scale.y, cube.scale.z) == (0.8, 0.5)
    assert cube.color.a == pytest.approx(0.2 + 0.6 * 0.6)
    assert text.pose.position.z > 0.5
    assert text.text == "5: 12.1 \u00b1 0.6 m"


def test_the_line_is_one_standard_deviation_to_either_side_along_the_line_of_sight():
    near, far = markers_of([track()])[3].points
    assert far.x - near.x == pytest.approx(2 * 0.6, rel=0.05)
    assert far.y / far.x == pytest.approx(near.y / near.x) == pytest.approx(-1.5 / 12.0)


def test_a_flat_region_can_still_be_seen():
    cube = markers_of([track(width=0.0, height=0.0)])[1]
    assert min(cube.scale.x, cube.scale.y, cube.scale.z) == pytest.approx(SMALLEST_M)


def test_no_hazards_clear_the_old_ones():
    assert [m.action for m in markers_of([], "map")] == [Marker.DELETEALL]
