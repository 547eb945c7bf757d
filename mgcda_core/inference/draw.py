"""Pictures of predictions: overlay, panel with colour bar, contact sheet, mp4.

Score maps have a fixed scale: a colour means the same score in every picture. Overlays are painted by the odds relative
to the threshold: a clean road stays unpainted, however high the threshold is.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from mgcda_core.prediction import Prediction

# Score -> RGB: yellow, orange, red, magenta. No dark end: on a road, dark paint would look like a shadow.
_STOPS = np.array([0.0, 0.35, 0.7, 1.0])
_COLOURS = np.array([(255, 230, 60), (255, 150, 20), (235, 30, 40), (200, 0, 130)], np.float32)
_TABLE = np.stack([np.interp(np.linspace(0, 1, 256), _STOPS, _COLOURS[:, c]) for c in range(3)], -1).astype(np.float32)
_INVISIBLE, _FULL = 0.15, 0.6  # no paint at or below the first score, the strongest from the second on
_STRONGEST = 0.62
_CONTOUR, _CONTOUR_EDGE = (255, 255, 255), (20, 20, 20)
_BACKGROUND, _INK = (24, 26, 30), (235, 235, 235)


def colours_of(score: np.ndarray) -> np.ndarray:
    """float [...] in [0, 1] -> uint8 [..., 3] RGB on the fixed scale."""
    return _TABLE[_to_byte(score)].astype(np.uint8)


def overlay(image: np.ndarray, prediction: Prediction, alpha: float = 1.0) -> np.ndarray:
    """The image with the score painted on where it nears the threshold or passes it, and the mask outlined.

    image uint8 [H, W, 3] RGB; `alpha` in [0, 1] scales the strength of the drawing. Returns uint8 [H, W, 3].
    """
    _check_sizes(image, prediction)
    level = _to_byte(prediction.score)
    relative = _relative(np.linspace(0, 1, 256), prediction.threshold)
    ramp = np.clip((relative - _INVISIBLE) / (_FULL - _INVISIBLE), 0.0, 1.0)
    strength = (alpha * _STRONGEST * ramp * ramp * (3.0 - 2.0 * ramp)).astype(np.float32)[:, None]
    levels = cv2.merge([level] * 3)  # tables of OpenCV a channel: several times as fast as NumPy's indices
    paint = cv2.LUT(levels, (strength * colours_of(relative))[None])
    kept = cv2.LUT(levels, np.repeat(1.0 - strength, 3, 1)[None])
    drawn = cv2.convertScaleAbs(cv2.accumulateProduct(image.astype(np.float32), kept, paint))
    return drawn if alpha <= 0.0 else outline(drawn, prediction.mask)


def outline(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Copy of uint8 [H, W, 3] with the borders of a bool [H, W] mask as a white line on a dark edge."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(image.shape[0] / 400))
    drawn = np.ascontiguousarray(image).copy()
    cv2.drawContours(drawn, contours, -1, _CONTOUR_EDGE, width + 2, cv2.LINE_AA)
    cv2.drawContours(drawn, contours, -1, _CONTOUR, width, cv2.LINE_AA)
    return drawn


def score_map(prediction: Prediction) -> np.ndarray:
    """The score alone on the fixed scale, dark where it is low: uint8 [H, W, 3]."""
    return _faded(prediction.score)


def colour_bar(height: int, threshold: float | None = None) -> np.ndarray:
    """Vertical scale of `score_map` from 0 (bottom) to 1 (top) with its numbers: uint8 [height, W, 3].

    `threshold` is marked by a white line.
    """
    font = max(0.35, height / 700)
    bar, pad, text = max(6, height // 22), min(max(4, height // 40), height // 5), round(62 * font)
    picture = np.full((height, pad * 3 + bar + text, 3), _BACKGROUND, np.uint8)
    rows = np.linspace(1, 0, max(2, height - 4 * pad))
    picture[2 * pad : 2 * pad + len(rows), pad : pad + bar] = _faded(rows)[:, None]
    for value in (0.0, 0.5, 1.0):
        y = round(2 * pad + (1 - value) * (len(rows) - 1))
        place = (2 * pad + bar, y + round(5 * font * 2))
        cv2.putText(picture, f"{value:g}", place, cv2.FONT_HERSHEY_SIMPLEX, font, _INK, 1, cv2.LINE_AA)
    if threshold is not None:
        y = round(2 * pad + (1 - threshold) * (len(rows) - 1))
        cv2.line(picture, (pad - 2, y), (pad + bar + 1, y), _CONTOUR, 2)
    return picture


def panel(image: np.ndarray, prediction: Prediction) -> np.ndarray:
    """Input, score map with colour bar, overlay side by side: uint8 [H, about 3 W, 3]."""
    _check_sizes(image, prediction)
    gap = np.full((image.shape[0], max(2, image.shape[1] // 200), 3), _BACKGROUND, np.uint8)
    bar = colour_bar(image.shape[0], prediction.threshold)
    return np.hstack([image, gap, score_map(prediction), bar, overlay(image, prediction)])


def contact_sheet(images: Sequence[np.ndarray], columns: int = 3, width: int = 480) -> np.ndarray:
    """Images uint8 [h, w, 3] of any sizes in a grid, each scaled to `width` pixels: uint8 [H, W, 3]."""
    if not images or columns < 1:
        raise ValueError(f"a contact sheet needs images and columns, got {len(images)} images and {columns} columns")
    cells = [_scaled(image, width) for image in images]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    gap = max(2, width // 80)
    sheet_width = gap + (gap + width) * min(columns, len(cells))
    sheet = np.full(
        (gap + sum(gap + max(c.shape[0] for c in row) for row in rows), sheet_width, 3), _BACKGROUND, np.uint8
    )
    y = gap
    for row in rows:
        for i, cell in enumerate(row):
            x = gap + i * (gap + width)
            sheet[y : y + cell.shape[0], x : x + width] = cell
        y += gap + max(c.shape[0] for c in row)
    return sheet


def write_png(path: Path, image: np.ndarray) -> None:
    """Write uint8 [H, W, 3] RGB, or [H, W] grey, as PNG. Raises OSError naming the file if that fails."""
    pixels = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    done, data = cv2.imencode(".png", pixels)
    if not done:
        raise OSError(f"{path}: OpenCV could not encode an image of shape {list(image.shape)}")
    path.write_bytes(data.tobytes())


class Mp4Writer:
    """mp4 video (MPEG-4 part 2), a context manager; frames uint8 [H, W, 3] RGB.

    Sides are cut to even numbers, which the codec needs; later frames are scaled to the first one's size. Raises
    OSError naming the file if OpenCV cannot write it.
    """

    def __init__(self, path: str | Path, frames_per_second: float = 10.0) -> None:
        self.path = Path(path)
        self.rate = frames_per_second
        self._writer: cv2.VideoWriter | None = None
        self._size_wh = (0, 0)

    def add(self, image: np.ndarray) -> None:
        """Append one frame."""
        if self._writer is None:
            self._size_wh = (max(2, image.shape[1] // 2 * 2), max(2, image.shape[0] // 2 * 2))
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), code, self.rate, self._size_wh)
            if not self._writer.isOpened():
                raise OSError(f"{self.path} cannot be written: is the folder there, and does OpenCV have FFmpeg?")
        width, height = self._size_wh
        fits = image.shape[0] - height in (0, 1) and image.shape[1] - width in (0, 1)
        frame = image[:height, :width] if fits else cv2.resize(image, self._size_wh, interpolation=cv2.INTER_AREA)
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.release()

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _relative(score: np.ndarray, threshold: float) -> np.ndarray:
    """Scores in [0, 1] with their odds as a multiple of the threshold's: it becomes 0.5, which leaves all as it is."""
    limit = float(np.clip(threshold, 1e-3, 1 - 1e-3))
    above = score * (1 - limit)
    return above / (above + limit * (1 - score))


def _faded(score: np.ndarray) -> np.ndarray:
    """The fixed scale, sinking into the background below `_FULL`."""
    share = np.clip(score / _FULL, 0.0, 1.0)[..., None]
    base = np.array(_BACKGROUND, np.float32)
    return np.rint(base + share * (colours_of(score).astype(np.float32) - base)).astype(np.uint8)


def _to_byte(score: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(score, 0.0, 1.0) * 255).astype(np.uint8)


def _scaled(image: np.ndarray, width: int) -> np.ndarray:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def _check_sizes(image: np.ndarray, prediction: Prediction) -> None:
    if image.shape[:2] != prediction.logits.shape:
        raise ValueError(f"image is {image.shape[:2]} but its prediction {prediction.logits.shape}: they must be equal")
