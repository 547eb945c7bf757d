"""The gallery: which images are shown, and how small."""

from __future__ import annotations

import numpy as np

from mgcda_core.evaluation.gallery import picture, worth_showing
from mgcda_core.evaluation.results import ImageRow
from mgcda_core.evaluation.scored import ScoredImage


def row(number: int, false_positives: int = 0, missed: int = 0) -> ImageRow:
    return ImageRow(str(number), 9, 9, 0.5, 0.5, 0.5, false_positives, 1, 1, missed)


def test_the_worst_and_a_spread_are_shown() -> None:
    rows = [row(i, int(i in (7, 90)), int(i in (40, 41))) for i in range(100)]
    shown = worth_showing(rows, 6)
    assert {7, 90, 40, 41} < set(shown)
    assert shown == sorted(set(shown))
    assert len(shown) == 6
    assert worth_showing(rows[:4], 6) == [0, 1, 2, 3]
    assert len(worth_showing(rows, 1)) == 1


def test_a_picture_is_at_most_512_pixels_wide() -> None:
    image = np.zeros((100, 1024, 3), np.uint8)
    image[:, 512:] = (160, 0, 0)
    score = np.where(image[..., 0] > 0, 10.0, -10.0).astype(np.float32)
    score[:, ::2] += 1.0  # averaged out
    label = np.where(image[..., 0] > 0, 1, 255).astype(np.uint8)
    shown = picture(image, ScoredImage(3, "wide", score, label), row(3))
    assert shown.label is not None
    assert (shown.image.shape, shown.score.shape, shown.label.shape) == ((50, 512, 3), (50, 512), (50, 512))
    assert (shown.image[0, -1].tolist(), shown.score[0, -1], shown.label[0, -1]) == ([160, 0, 0], 10.5, 1)
    assert (shown.image.dtype, shown.score.dtype, shown.label.dtype) == (np.uint8, np.float32, np.uint8)
    assert (shown.label[:, :256] == 255).all()


def test_a_small_picture_keeps_its_size() -> None:
    image, label = np.zeros((64, 96, 3), np.uint8), np.zeros((256, 512), np.uint8)
    shown = picture(image, ScoredImage(0, "small", np.ones((256, 512), np.float32), label), row(0))
    assert (shown.image.shape[:2], shown.score.shape) == ((64, 96), (64, 96))


def test_a_score_without_value_on_ignored_pixels_is_drawn_as_the_lowest() -> None:
    score = np.array([[np.nan, 2.0], [3.0, 1.0]], np.float32)  # the metrics allow it where the label is 255
    label = np.array([[255, 0], [1, 0]], np.uint8)
    shown = picture(np.zeros((2, 2, 3), np.uint8), ScoredImage(0, "hole", score, label), row(0))
    assert shown.score.tolist() == [[1.0, 2.0], [3.0, 1.0]]
