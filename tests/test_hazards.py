"""Ground plane and hazards: exact geometry, and distances on rendered scenes whose masks are exact."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mgcda_core.config import ConfigError
from mgcda_core.data.rendered import render_scene
from mgcda_core.hazards.ground_plane import Camera
from mgcda_core.hazards.regions import to_hazards
from mgcda_core.prediction import Prediction, Region


def test_level_camera_geometry() -> None:
    camera = Camera(500, 500, 319.5, 179.5, height_m=1.5)
    point = camera.road_point(319.5, 179.5 + 50)
    assert point == pytest.approx((15.0, 0.0, 0.0))
    left = camera.road_point(319.5 - 100, 179.5 + 50)
    assert left is not None and left[1] == pytest.approx(3.0)  # y is left
    assert camera.road_point(319.5, 179.5) is None
    assert camera.road_point(319.5, 10) is None


def test_positive_pitch_looks_down() -> None:
    camera = Camera(500, 500, 319.5, 179.5, height_m=1.5, pitch_rad=0.1)
    centre = camera.road_point(319.5, 179.5)
    assert centre is not None and centre[0] == pytest.approx(1.5 / math.tan(0.1))
    assert Camera(500, 500, 319.5, 179.5, 1.5, -0.1).road_point(319.5, 179.5) is None


def test_points_agree_with_the_renderers_own_projection() -> None:
    view = render_scene(1, (120, 200)).camera
    camera = Camera(view.fx, view.fy, view.cx, view.cy, view.height_m, view.pitch_rad)
    points = np.array([(x, y, 0.0) for x in (3.0, 8.0, 30.0) for y in (-4.0, 0.0, 2.0)])
    for (u, v), wanted, depth in zip(view.project(points)[0], points, view.project(points)[1], strict=True):
        found = camera.road_point(u, v)
        assert found == pytest.approx(tuple(wanted), abs=1e-6)
        assert camera.depth(wanted[0]) == pytest.approx(depth)


def test_intrinsics_from_field_of_view_and_from_camera_info() -> None:
    camera = Camera.from_field_of_view(640, 360, math.radians(90), height_m=1.4)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == pytest.approx((320, 320, 319.5, 179.5))
    same = Camera.from_matrix([320, 0, 319.5, 0, 320, 179.5, 0, 0, 1], height_m=1.4)
    assert (same.fx, same.fy, same.cx, same.cy) == pytest.approx((camera.fx, camera.fy, camera.cx, camera.cy))
    half = camera.scaled(0.5, 0.5)
    assert half.road_point(159.5, 100.0) == pytest.approx(camera.road_point(319.5, 200.5))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Camera(0, 500, 0, 0, 1.5),
        lambda: Camera(500, 500, 0, 0, -1),
        lambda: Camera(500, 500, float("nan"), 0, 1.5),
        lambda: Camera(500, 500, 0, 0, 1.5, math.pi / 2),
        lambda: Camera.from_field_of_view(640, 360, 0.0, height_m=1.5),
        lambda: Camera.from_matrix([0] * 9, height_m=1.5),
        lambda: Camera.from_matrix([1, 2, 3], height_m=1.5),
    ],
)
def test_impossible_cameras_are_refused(make) -> None:
    with pytest.raises(ConfigError):
        make()


def test_hazards_are_sorted_and_filtered() -> None:
    camera = Camera(500, 500, 319.5, 179.5, height_m=1.5)
    near = Region(300, 250, 40, 50, 1500, 0.9)
    far = Region(310, 190, 10, 8, 60, 0.8)
    sky = Region(100, 10, 50, 50, 2500, 0.7)
    hazards = to_hazards([sky, far, near], camera)
    assert [h.region for h in hazards] == [near, far]
    assert hazards[0].distance_m == pytest.approx(math.hypot(*hazards[0].position[:2]))
    assert [h.region for h in to_hazards([far, near], camera, max_distance_m=20)] == [near]
    assert [h.region for h in to_hazards([far, near], camera, min_area=100)] == [near]
    with pytest.raises(ValueError, match="max_distance_m"):
        to_hazards([], camera, max_distance_m=0)


def test_distance_error_on_rendered_scenes(record_property) -> None:
    """Within 30 m the exact mask gives the place to a few percent; the rest is the size of a pixel."""
    errors, sizes = [], []
    for seed in range(24):
        scene = render_scene(2000 + seed, (360, 640), anomalies=1)
        view = scene.camera
        camera = Camera(view.fx, view.fy, view.cx, view.cy, view.height_m, view.pitch_rad)
        things = [o for o in scene.objects if o.anomaly and o.visible > 0.98]
        regions = Prediction(np.where(scene.anomaly, 9.0, -9.0).astype(np.float32)).regions(min_area=20)
        hazards = to_hazards(regions[:1], camera)
        if not things or not hazards or things[0].x > 30:
            continue
        thing, hazard = things[0], hazards[0]
        left, top, width, height = thing.box
        if left <= 0 or left + width >= 639 or top + height >= 359:
            continue
        wanted = math.hypot(thing.x, thing.y)
        errors.append(abs(hazard.distance_m - wanted) / wanted)
        sizes.append(abs(hazard.height_m - thing.height_m) / thing.height_m)
        assert abs(hazard.position[1] - thing.y) < 0.25
    record_property("relative_distance_error", float(np.median(errors)))
    assert len(errors) >= 10
    assert np.median(errors) < 0.02 and np.max(errors) < 0.08
    assert np.median(sizes) < 0.08
