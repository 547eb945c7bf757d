"""Lenses: rays against OpenCV's projections, CameraInfo in all its shapes, and that no CameraInfo does harm."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgcda_core.config import ConfigError
from mgcda_core.hazards.ground_plane import Camera
from mgcda_core.hazards.lens import Lens
from mgcda_core.hazards.mount import Mount
from mgcda_core.hazards.regions import to_hazards
from mgcda_core.prediction import Region

LENSES = {
    "none": Lens(900, 880, 639.5, 359.5),
    "plumb_bob": Lens(900, 880, 630.5, 365.5, "plumb_bob", (-0.35, 0.12, 0.001, -0.0005, -0.02)),
    "short plumb_bob": Lens(900, 880, 630.5, 365.5, "plumb_bob", (-0.3, 0.09, 0.001, -0.0005)),
    "rational_polynomial": Lens(
        610, 612, 639.5, 359.5, "rational_polynomial", (0.54, -2.6, 3e-4, -2e-4, 1.5, 0.42, -2.4, 1.43)
    ),
    "equidistant": Lens(400, 401, 630.5, 365.5, "equidistant", (-0.02, 0.003, -0.001, 0.0002)),
}
PIXELS = np.stack(np.meshgrid(np.linspace(0, 1279, 16), np.linspace(0, 719, 9)), -1).reshape(-1, 2)


def info(**changes: Any) -> Any:
    """A CameraInfo as rclpy or rosbags decode it."""
    fields: dict[str, Any] = {
        "height": 720, "width": 1280, "distortion_model": "plumb_bob", "d": [-0.3, 0.1, 0.0, 0.0, 0.0],
        "k": [900.0, 0.0, 639.5, 0.0, 900.0, 359.5, 0.0, 0.0, 1.0], "binning_x": 0, "binning_y": 0,
        "p": [800.0, 0.0, 640.5, 0.0, 0.0, 810.0, 358.5, 0.0, 0.0, 0.0, 1.0, 0.0],
        "roi": SimpleNamespace(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
    }  # fmt: skip
    return SimpleNamespace(**fields | changes)


@pytest.mark.parametrize("lens", LENSES.values(), ids=LENSES)
def test_projection_is_opencvs_and_rays_invert_it(lens: Lens) -> None:
    points = np.random.default_rng(0).uniform((-3, -2, 5), (3, 2, 9), (60, 3))
    k = np.array([(lens.fx, 0, lens.cx), (0, lens.fy, lens.cy), (0, 0, 1)])
    none, d = np.zeros(3), np.array(lens.distortion or (0.0, 0.0, 0.0, 0.0))
    if lens.model == "equidistant":
        theirs = cv2.fisheye.projectPoints(points[:, None], none, none, k, d)[0]
    else:
        theirs = cv2.projectPoints(points, none, none, k, d)[0]
    pixels = lens.project(points)
    assert np.allclose(pixels, theirs.reshape(-1, 2), atol=1e-6)
    assert np.allclose(lens.rays(pixels), points / np.linalg.norm(points, axis=1, keepdims=True), atol=1e-5)
    rays = lens.rays(PIXELS)
    assert np.isfinite(rays).all() and np.allclose(np.linalg.norm(rays, axis=1), 1)
    assert np.abs(lens.project(rays * 7) - PIXELS).max() < 0.01


def test_what_no_lens_sees_is_nan() -> None:
    folded = Lens(500, 500, 639.5, 359.5, "plumb_bob", (-0.35, 0.0, 0.0, 0.0))  # r (1 - 0.35 r^2) ends at r = 0.976
    corner, centre = folded.rays(np.array([(0.0, 0.0), (639.5, 359.5)]))
    assert np.isnan(corner).all() and centre == pytest.approx((0, 0, 1))
    behind, beyond, ahead = folded.project(np.array([(0, 0, -5.0), (5.0, 0, 3.0), (0, 0, 2.0)]))
    assert np.isnan(behind).all() and np.isnan(beyond).all() and ahead == pytest.approx((639.5, 359.5))
    fisheye = LENSES["equidistant"]
    aside = np.array([(2.0, 0.0, -0.3)])  # more than 90 degrees off the axis: a fisheye sees that
    assert fisheye.rays(fisheye.project(aside)) == pytest.approx(aside / np.linalg.norm(aside), abs=1e-5)


def test_camera_info_is_cut_scaled_and_rectified() -> None:
    lens = Lens.from_camera_info(info(), (720, 1280))
    assert (lens.fx, lens.cx, lens.model, len(lens.distortion)) == (900, 639.5, "plumb_bob", 5)
    half = Lens.from_camera_info(info(), (360, 640))  # binned, or resized by the driver
    assert (half.fx, half.cx, half.distortion) == (450, 319.5, lens.distortion)
    roi = SimpleNamespace(x_offset=100, y_offset=200, width=640, height=400, do_rectify=False)
    window = Lens.from_camera_info(info(roi=roi, binning_x=2, binning_y=2), (200, 320))
    assert np.allclose(window.rays(np.array([(10.0, 20.0)])), lens.rays(np.array([(120.5, 240.5)])))
    rectified = Lens.from_camera_info(info(), (720, 1280), rectified=True)
    assert rectified == Lens(800, 810, 640.5, 358.5)
    assert Lens.from_camera_info(info(p=[0.0] * 12), (720, 1280), rectified=True) == Lens(900, 900, 639.5, 359.5)


@pytest.mark.parametrize(("model", "d"), [("", []), ("plumb_bob", []), ("plumb_bob", [0.0] * 5), ("unknown", [0.0])])
def test_no_coefficients_are_no_distortion(model: str, d: list[float]) -> None:
    assert Lens.from_camera_info(info(distortion_model=model, d=d), (720, 1280)).model == "none"


def test_an_equidistant_lens_of_no_coefficients_is_still_a_fisheye() -> None:
    lens = Lens.from_camera_info(info(distortion_model="equidistant", d=[0.0] * 4), (720, 1280))
    assert lens.project(np.array([(1.0, 0.0, 1.0)]))[0] == pytest.approx((639.5 + 900 * math.pi / 4, 359.5))
    straight = Lens.from_camera_info(info(distortion_model="equidistant", d=[0.0] * 4), (720, 1280), rectified=True)
    assert straight.model == "none"


def test_fisheye_is_another_name_of_equidistant() -> None:
    assert Lens.from_camera_info(info(distortion_model="fisheye", d=[0.1] * 4), (720, 1280)).model == "equidistant"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"k": [0.0] * 9}, "CameraInfo.k holds no calibration"),
        ({"k": [math.nan, 0, 1, 0, 900, 1, 0, 0, 1]}, "CameraInfo.k"),
        ({"k": [1.0, 2.0, 3.0]}, "CameraInfo.k holds 3 values"),
        ({"d": [0.1] * 3}, "CameraInfo.d holds 3 values, plumb_bob takes 4 or 5"),
        ({"d": [0.1] * 1000}, "CameraInfo.d holds 1000 values"),
        ({"d": [0.1, math.inf, 0.0, 0.0]}, "CameraInfo.d holds a value that is not finite"),
        ({"distortion_model": "thin_prism"}, "CameraInfo.distortion_model is 'thin_prism'; known are"),
    ],
)
def test_a_wrong_camera_info_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Lens.from_camera_info(info(**changes), (720, 1280))


@pytest.mark.parametrize("angle", [0.0, math.pi, math.nan])
def test_a_field_of_view_lies_between_0_and_pi(angle: float) -> None:
    with pytest.raises(ConfigError, match="field of view"):
        Lens.from_field_of_view((360, 640), angle)


REGIONS = [Region(20, 50, 20, 20, 400, 1.0, 29.5, 69.5), Region(100, 60, 50, 30, 1500, 1.0, 124.5, 89.5)]
NUMBERS = st.floats() | st.floats(-2, 2) | st.floats(1, 2000)


@settings(max_examples=120, deadline=None)
@given(
    k=st.lists(NUMBERS, min_size=0, max_size=10),
    focal=st.floats(1e-300, 1e300),
    d=st.lists(NUMBERS, max_size=9),
    model=st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", "", "x"]),
    size=st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    rectified=st.booleans(),
)
def test_whatever_a_camera_info_holds_there_is_a_camera_or_a_config_error(k, focal, d, model, size, rectified) -> None:
    """A network peer may send anything: rays are unit or NaN, and hazards finite."""
    if len(k) == 9:
        k[0] = k[4] = focal
    try:
        wild = info(k=k, d=d, distortion_model=model, width=size[0], height=size[1], p=[*k, 0.0, 0.0, 0.0][:12])
        lens = Lens.from_camera_info(wild, (90, 160), rectified=rectified)
    except ConfigError:
        return
    lengths = np.linalg.norm(lens.rays(PIXELS / 8), axis=1)
    assert np.allclose(lengths[~np.isnan(lengths)], 1)
    for hazard in to_hazards(REGIONS, Camera(lens, Mount.from_angles(1.5, pitch_rad=0.1))):
        assert np.isfinite((*hazard.position, hazard.width_m, hazard.height_m, hazard.distance_std_m)).all()
