"""The camera on its mount: exact geometry, REP-103's signs, transforms, and the renderer's own projection."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mgcda_core.config import ConfigError
from mgcda_core.data.rendered import render_scene
from mgcda_core.hazards.ground_plane import Camera
from mgcda_core.hazards.lens import Lens
from mgcda_core.hazards.mount import Mount

LENS = Lens(500, 500, 319.5, 179.5)


def road_point(camera: Camera, u: float, v: float) -> list[float]:
    return camera.road_points(np.array([(u, v)]))[0].tolist()


def test_a_level_camera() -> None:
    camera = Camera(LENS, Mount.from_angles(1.5))
    assert road_point(camera, 319.5, 179.5 + 50) == pytest.approx([15.0, 0.0, 0.0])
    assert road_point(camera, 319.5 - 100, 179.5 + 50) == pytest.approx([15.0, 3.0, 0.0])  # y is left
    assert np.isnan(camera.road_points(np.array([(319.5, 179.5), (319.5, 10.0)]))).all()  # the horizon and the sky
    assert camera.road_points(np.zeros((0, 2))).shape == (0, 3)


def test_the_signs_of_the_angles_are_those_of_rep_103() -> None:
    """Where the middle of the image looks: down by a positive pitch, left by a positive yaw, leaning right by roll."""
    down = Camera(LENS, Mount.from_angles(1.5, pitch_rad=0.1))
    assert road_point(down, 319.5, 179.5) == pytest.approx([1.5 / math.tan(0.1), 0.0, 0.0])
    left = Camera(LENS, Mount.from_angles(1.5, pitch_rad=0.1, yaw_rad=math.pi / 2, forward_m=2.0, left_m=0.5))
    assert road_point(left, 319.5, 179.5) == pytest.approx([2.0, 0.5 + 1.5 / math.tan(0.1), 0.0])
    leaning = Camera(LENS, Mount.from_angles(1.5, roll_rad=0.1))
    assert leaning.rays(np.array([(400.0, 179.5)]))[0, 2] < 0 < leaning.rays(np.array([(200.0, 179.5)]))[0, 2]


def test_a_transform_is_a_mount() -> None:
    """The optical frame of a level camera that looks ahead, as robot_state_publisher gives it; and any other one."""
    ahead = Mount.from_transform((1.2, 0.1, 1.5), (-0.5, 0.5, -0.5, 0.5))
    same = Mount.from_angles(1.5, forward_m=1.2, left_m=0.1)
    assert np.allclose(ahead.rotation, same.rotation) and np.allclose(ahead.position, same.position)
    q = np.random.default_rng(0).normal(size=4)
    turned = Mount.from_transform((0, 0, 1), (q / np.linalg.norm(q)).tolist()).rotation
    assert np.allclose(turned @ turned.T, np.eye(3)) and np.linalg.det(turned) == pytest.approx(1)
    quarter = Mount.from_transform((0, 0, 1), (0.0, 0.0, math.sqrt(0.5), math.sqrt(0.5))).rotation
    assert np.allclose(quarter @ (1, 0, 0), (0, 1, 0))


def test_points_agree_with_the_renderers_own_projection() -> None:
    view = render_scene(1, (120, 200)).camera
    camera = Camera(
        Lens(view.fx, view.fy, view.cx, view.cy), Mount.from_angles(view.height_m, pitch_rad=view.pitch_rad)
    )
    points = np.array([(x, y, 0.0) for x in (3.0, 8.0, 30.0) for y in (-4.0, 0.0, 2.0)])
    pixels, _ = view.project(points)
    assert np.allclose(camera.road_points(pixels), points, atol=1e-6)
    assert np.allclose(camera.project(points), pixels, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Mount.from_angles(0.0), "height above the road is 0 m"),
        (lambda: Mount.from_angles(math.nan), "not finite"),
        (lambda: Mount.from_angles(1.5, pitch_rad=math.inf), "roll, pitch and yaw"),
        (lambda: Mount.from_transform((0, 0, -1), (0, 0, 0, 1)), "must be positive"),
        (lambda: Mount.from_transform((0, 0, 1), (0, 0, 0, 0)), "length 0, not 1"),
        (lambda: Mount.from_transform((0, 0, 1), (math.nan, 0, 0, 1)), "not 1"),
        (lambda: Mount.from_transform((0, math.nan, 1), (0, 0, 0, 1)), "not finite"),
    ],
)
def test_impossible_mounts_are_refused(make, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
