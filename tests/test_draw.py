"""Pictures: fixed scale, nothing on a clean road, the mask's border, sizes, files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_core.inference import draw
from mgcda_core.prediction import Prediction


def prediction(score: np.ndarray, threshold: float = 0.5) -> Prediction:
    clipped = np.clip(score.astype(np.float64), 1e-6, 1 - 1e-6)
    return Prediction(np.log(clipped / (1 - clipped)).astype(np.float32), threshold)


def road(height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(60, 120, (height, width, 3), np.uint8)


def test_a_clean_road_stays_untouched() -> None:
    image = road()
    drawn = draw.overlay(image, prediction(np.full((60, 80), 0.12)))
    np.testing.assert_array_equal(drawn, image)
    assert drawn is not image


def test_the_scale_is_fixed() -> None:
    """A pixel's paint depends on its own score only, not on the rest of the image."""
    image, low = road(), np.full((60, 80), 0.1)
    low[20:40, 20:40] = 0.45
    high = low.copy()
    high[:, 70:] = 0.99
    one, other = (draw.overlay(image, prediction(score, threshold=0.6)) for score in (low, high))
    np.testing.assert_array_equal(one[:, :60], other[:, :60])
    assert (one[20:40, 20:40] != image[20:40, 20:40]).any()
    np.testing.assert_array_equal(draw.score_map(prediction(low))[:, :60], draw.score_map(prediction(high))[:, :60])


@pytest.mark.parametrize("threshold", [0.2, 0.9163, 0.995])
def test_paint_starts_below_the_threshold_wherever_that_is(threshold: float) -> None:
    image, odds = road(), threshold / (1 - threshold)
    far, near = (np.full((60, 80), share * odds / (1 + share * odds)) for share in (0.1, 0.5))
    np.testing.assert_array_equal(draw.overlay(image, prediction(far, threshold)), image)
    assert (draw.overlay(image, prediction(near, threshold)) != image).any()


def test_heat_is_red_where_the_score_is_high_and_the_mask_is_outlined() -> None:
    image, score = road(), np.zeros((60, 80))
    score[15:45, 20:60] = 0.97
    drawn = draw.overlay(image, prediction(score)).astype(int)
    inside = drawn[22:38, 28:52]
    assert (inside[..., 0] > inside[..., 1] + 60).all()
    assert drawn[15, 30:50].min() > 200 or drawn[14, 30:50].min() > 200  # a white line along the border
    np.testing.assert_array_equal(drawn[:8], image[:8])
    weak = draw.overlay(image, prediction(score), alpha=0.3).astype(int)
    assert np.abs(weak[30, 40] - image[30, 40]).sum() < np.abs(drawn[30, 40] - image[30, 40]).sum()
    np.testing.assert_array_equal(draw.overlay(image, prediction(score), alpha=0.0), image)


def test_the_input_is_not_written_to() -> None:
    image = road()
    before = image.copy()
    draw.overlay(image, prediction(np.full((60, 80), 0.9)))
    np.testing.assert_array_equal(image, before)


def test_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="must be equal"):
        draw.overlay(road(60, 80), prediction(np.zeros((30, 40))))


@pytest.mark.parametrize("size", [(2, 2), (40, 64), (719, 1279)])
def test_panel_holds_the_three_pictures(size: tuple[int, int]) -> None:
    image = road(*size)
    panel = draw.panel(image, prediction(np.zeros(size)))
    assert panel.shape[0] == size[0]
    np.testing.assert_array_equal(panel[:, : size[1]], image)
    np.testing.assert_array_equal(panel[:, -size[1] :], image)


def test_colour_bar_runs_from_dark_to_the_top_colour_and_marks_the_threshold() -> None:
    bar = draw.colour_bar(300)
    column = bar[:, 12].astype(int)
    assert np.abs(column[20] - draw.colours_of(np.array(1.0))).sum() < 20
    assert column[280].sum() < 120
    marked = draw.colour_bar(300, threshold=0.25)
    rows = np.flatnonzero((marked[:, 12] != bar[:, 12]).any(1))
    assert 180 < rows.mean() < 240


def test_contact_sheet_scales_to_one_width_and_keeps_the_order() -> None:
    pictures = [np.full((h, w, 3), v, np.uint8) for h, w, v in ((50, 100, 200), (100, 100, 150), (30, 60, 100))]
    sheet = draw.contact_sheet(pictures, columns=2, width=80)
    gap = 2
    assert sheet.shape == (gap + 80 + gap + 40 + gap, gap + 2 * (80 + gap), 3)
    assert [sheet[10, 40, 0], sheet[60, 120, 0], sheet[100, 40, 0]] == [200, 150, 100]
    with pytest.raises(ValueError, match="needs images"):
        draw.contact_sheet([])


def test_video_has_even_sides_and_all_frames(tmp_path: Path) -> None:
    with draw.Mp4Writer(tmp_path / "a.mp4", 12.5) as video:
        for size in ((61, 81), (61, 81), (30, 40)):
            video.add(road(*size))
    capture = cv2.VideoCapture(str(tmp_path / "a.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3
    assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(12.5)
    read, frame = capture.read()
    assert read
    assert frame.shape == (60, 80, 3)


def test_files_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"a\.mp4"), draw.Mp4Writer(tmp_path / "no" / "a.mp4") as video:
        video.add(road())
    with pytest.raises(OSError, match=r"a\.png"):
        draw.write_png(tmp_path / "no" / "a.png", road())
