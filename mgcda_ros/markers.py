"""Tracked hazards -> MarkerArray: one cube, one text and one line, its uncertainty, a hazard."""

from __future__ import annotations

import math
from collections.abc import Sequence

from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point, Quaternion, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from mgcda_core.hazards.tracks import Track

LIFETIME = Duration(sec=0, nanosec=500_000_000)
SMALLEST_M = 0.05
"""A cube thinner than this cannot be seen in rviz."""
TEXT_HEIGHT_M = 0.35
LINE_WIDTH_M = 0.05


def to_markers(tracks: Sequence[Track], stamp: Time, frame: str) -> MarkerArray:
    """Markers in `frame` (x forward, y left, z up, metres) with the image's stamp; their ids are those of the tracks.

    The first deletes all earlier ones, so that a hazard that is gone leaves at once; the lifetime of 0.5 s removes
    the last ones when the node dies.
    """
    header = Header(stamp=stamp, frame_id=frame)
    markers = [Marker(header=header, action=Marker.DELETEALL)]
    for track in tracks:
        markers += [_cube(track, header), _text(track, header), _spread(track, header)]
    return MarkerArray(markers=markers)


def _marker(kind: int, namespace: str, header: Header, track: Track) -> Marker:
    marker = Marker(header=header, ns=namespace, id=track.id & 0x7FFFFFFF, type=kind, action=Marker.ADD)
    marker.lifetime = LIFETIME
    marker.pose.orientation = Quaternion(x=0.0, y=0.0, z=0.0, w=1.0)
    return marker


def _cube(track: Track, header: Header) -> Marker:
    """A box standing on the road; how deep it is one image cannot tell, so it is drawn as deep as wide."""
    x, y, z = track.hazard.position
    width, height = max(track.hazard.width_m, SMALLEST_M), max(track.hazard.height_m, SMALLEST_M)
    marker = _marker(Marker.CUBE, "hazards", header, track)
    marker.pose.position = Point(x=float(x), y=float(y), z=float(z) + height / 2)
    marker.scale = Vector3(x=width, y=width, z=height)
    # Red and solid where it is sure, fading while it is out of sight.
    marker.color = ColorRGBA(r=1.0, g=max(0.0, 1.0 - track.hazard.score), b=0.0, a=0.2 + 0.6 * track.confidence)
    return marker


def _text(track: Track, header: Header) -> Marker:
    x, y, z = track.hazard.position
    marker = _marker(Marker.TEXT_VIEW_FACING, "hazard_labels", header, track)
    marker.pose.position = Point(x=float(x), y=float(y), z=float(z) + track.hazard.height_m + TEXT_HEIGHT_M)
    marker.scale.z = TEXT_HEIGHT_M
    marker.color = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)
    marker.text = f"{track.id}: {track.hazard.distance_m:.1f} \u00b1 {track.hazard.distance_std_m:.1f} m"
    return marker


def _spread(track: Track, header: Header) -> Marker:
    """A line on the road along the line of sight, one standard deviation of the distance to either side."""
    x, y, _ = track.hazard.position
    away = max(math.hypot(x, y), 1e-6)
    reach = track.hazard.distance_std_m / away
    marker = _marker(Marker.LINE_LIST, "hazard_spread", header, track)
    marker.points = [Point(x=x * (1 + side * reach), y=y * (1 + side * reach), z=LINE_WIDTH_M) for side in (-1, 1)]
    marker.scale.x = LINE_WIDTH_M
    marker.color = ColorRGBA(r=1.0, g=1.0, b=0.0, a=0.8)
    return marker
