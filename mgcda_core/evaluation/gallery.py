"""Which images of a set a report shows, and their pictures."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from mgcda_core.evaluation.protocols import label_at
from mgcda_core.evaluation.results import ImageRow, Picture
from mgcda_core.evaluation.scored import ScoredImage

GALLERY = 60
_WIDTH = 512
"""Largest width of a picture in pixels."""


def worth_showing(rows: Sequence[ImageRow], most: int = GALLERY) -> list[int]:
    """Numbers of at most `most` rows, ascending: a third for false positives, a third for missed objects, a spread."""
    if len(rows) <= most:
        return list(range(len(rows)))
    badness = [[row.false_positive_pixels for row in rows], [row.largest_missed_pixels for row in rows]]
    shown = {int(n) for bad in badness for n in np.argsort(bad, kind="stable")[::-1][: most // 3]}
    others = [n for n in range(len(rows)) if n not in shown]
    even = np.linspace(0, len(others) - 1, most - len(shown)).round().astype(int)
    return sorted(shown | {others[n] for n in even})


def picture(image: np.ndarray, scored: ScoredImage, row: ImageRow) -> Picture:
    """The picture of one image uint8 [H, W, 3] RGB; score and label come to its size."""
    scale = min(1.0, _WIDTH / image.shape[1])
    size = max(1, round(scale * image.shape[0])), max(1, round(scale * image.shape[1]))
    score = np.where(np.isnan(scored.score), np.nanmin(scored.score), scored.score)  # NaN lies on ignored pixels only
    return Picture(row.name, _smaller(image, size), _smaller(score, size), label_at(scored.label, size), row)


def _smaller(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_AREA)
