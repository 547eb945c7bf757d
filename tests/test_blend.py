"""Seams and sizes of pasted objects: Poisson blending against a dense solve, outlines that stay sharp."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from composite_case import SCENE, ball

from mgcda_core.data import blend


def exact_poisson(image: np.ndarray, cutout: np.ndarray, top: int, left: int) -> np.ndarray:
    """One channel of a hard-cut object, by a dense solve of Perez et al., eq. 7, pixel by pixel."""
    source, solid = cutout[..., 0].astype(float), cutout[..., 3] > 127
    height, width = solid.shape
    unknown = {(int(y), int(x)): n for n, (y, x) in enumerate(np.argwhere(solid))}
    matrix, right = np.zeros((len(unknown),) * 2), np.zeros(len(unknown))
    for (y, x), row in unknown.items():
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            if not (0 <= top + v < image.shape[0] and 0 <= left + u < image.shape[1]):
                continue
            beyond = source[min(max(v, 0), height - 1), min(max(u, 0), width - 1)]
            matrix[row, row] += 1
            right[row] += source[y, x] - beyond
            if (v, u) in unknown:
                matrix[row, unknown[v, u]] -= 1
            else:
                right[row] += image[top + v, left + u, 0]
    result = image[..., 0].astype(float)
    window = result[top : top + height, left : left + width]
    window[solid] = np.clip(np.linalg.solve(matrix, right), 0, 255)
    return result


@pytest.mark.parametrize("corner", [(20, 50), (0, 0), (55, 135), (0, 70)])
def test_poisson_solves_its_equation(corner: tuple[int, int]) -> None:
    """Amid the frame and at its borders, where a pixel has fewer neighbours, to 1.5 grey levels."""
    scene = cv2.GaussianBlur(SCENE, (0, 0), 4) // 2 + np.arange(160, dtype=np.uint8)[None, :, None] // 2
    rgba = ball(radius=12).rgba
    image = scene.copy()
    blend.blend(image, rgba[..., :3], rgba[..., 3], corner, "poisson", 0.0)
    assert np.abs(image[..., 0] - exact_poisson(scene, rgba, *corner)).max() < 1.5


def test_poisson_reaches_from_a_thin_outside() -> None:
    """An object that leaves one bright row of the frame: that row's light reaches far in, as in the exact solve."""
    scene = np.full((81, 24, 3), 50, np.uint8)
    scene[-1] = 220
    rgba = np.dstack([np.full((80, 24, 3), 90, np.uint8), np.full((80, 24), 255, np.uint8)])
    image = scene.copy()
    blend.blend(image, rgba[..., :3], rgba[..., 3], (0, 0), "poisson", 0.0)
    assert np.abs(image[..., 0] - exact_poisson(scene, rgba, 0, 0)).max() < 4


def test_an_enlarged_outline_stays_sharp() -> None:
    rgba = np.zeros((12, 12, 4), np.uint8)
    rgba[3:9, 3:9] = 255
    row = blend.resize_rgba(rgba, 96, 96)[48, :, 3].astype(int)
    assert ((row > 2) & (row < 253)).sum() <= 4
    assert (row > 127).sum() == 48


def test_poisson_keeps_the_colours_where_the_background_is_like_the_old_one() -> None:
    """The contrast across the outline is part of the object: on its own background it returns exactly."""
    rgba = np.pad(ball(radius=12).rgba, ((1, 1), (1, 1), (0, 0)))
    rgba[..., :3][rgba[..., 3] == 0] = 200
    image = np.full_like(SCENE, 200)
    blend.blend(image, rgba[..., :3], rgba[..., 3], (20, 30), "poisson", 0.0)
    expected = np.full_like(SCENE, 200)
    expected[20:47, 30:57] = rgba[..., :3]
    assert np.array_equal(image, expected)


def test_enlarging_leaves_no_rim_of_the_old_background() -> None:
    """A green object cut from red: no red in any size."""
    rgba = ball(radius=15).rgba.copy()
    rgba[..., :3] = np.where(rgba[..., 3:] > 0, (0, 200, 0), (255, 0, 0))
    for side in (7, 20, 64):
        resized = blend.resize_rgba(rgba, side, side)
        assert resized[..., 0][resized[..., 3] > 0].max() <= 1
