"""Hazards -> MarkerArray: one cube and one text a hazard."""

from __future__ import annotations

from collections.abc import Sequence

from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from mgcda_core.hazards.regions import Hazard

LIFETIME = Duration(sec=0, nanosec=500_000_000)
SMALLEST_M = 0.05
"""A cube thinner than this cannot be seen in rviz."""
TEXT_HEIGHT_M = 0.35


def to_markers(hazards: Sequence[Hazard], stamp: Time, frame: str) -> MarkerArray:
    """Markers in `frame` (x forward, y left, z up, metres) with the image's stamp.

    The first deletes all earlier ones, so that a hazard that is gone leaves at once; the lifetime of 0.5 s removes
    the last ones when the node dies.
    """
    header = Header(stamp=stamp, frame_id=frame)
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    for index, hazard in enumerate(hazards):
        markers += [_cube(hazard, header, index), _text(hazard, header, index)]
    return MarkerArray(markers=markers)


def _marker(kind: int, namespace: str, header: Header, index: int) -> Marker:
    marker = Marker(header=header, ns=namespace, id=index, type=kind, action=Marker.ADD, lifetime=LIFETIME)
    marker.pose.orientation = Quaternion(x=0.0, y=0.0, z=0.0, w=1.0)
    return marker


def _cube(hazard: Hazard, header: Header, index: int) -> Marker:
    """A box standing on the road; how deep it is one image cannot tell, so it is drawn as deep as wide."""
    x, y, z = hazard.position
    width, height = max(hazard.width_m, SMALLEST_M), max(hazard.height_m, SMALLEST_M)
    marker = _marker(Marker.CUBE, "hazards", header, index)
    marker.pose.position = Point(x=float(x), y=float(y), z=float(z) + height / 2)
    marker.scale = Vector3(x=width, y=width, z=height)
    marker.color = ColorRGBA(r=1.0, g=max(0.0, 1.0 - hazard.score), b=0.0, a=0.6)
    return marker


def _text(hazard: Hazard, header: Header, index: int) -> Marker:
    x, y, z = hazard.position
    marker = _marker(Marker.TEXT_VIEW_FACING, "hazard_labels", header, index)
    marker.pose.position = Point(x=float(x), y=float(y), z=float(z) + hazard.height_m + TEXT_HEIGHT_M)
    marker.scale.z = TEXT_HEIGHT_M
    marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    marker.text = f"{hazard.distance_m:.1f} m  {hazard.score:.2f}"
    return marker
