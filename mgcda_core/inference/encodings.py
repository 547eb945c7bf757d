"""Camera encodings: bytes with a row stride <-> uint8 RGB; knows the ROS names, not ROS.

`ENCODINGS` is the list of what can be read. Every error is one ValueError that names the encoding, size or stride
at fault, so that a node can log it and live on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

MIN_SIDE = 2
"""Smallest height and width in pixels that is a frame: 0x0 and 1x1 are what a driver sends when it has none."""
MAX_SIDE = 1 << 15
"""Largest height and width in pixels that an artefact may be made for."""


@dataclass(frozen=True)
class _Encoding:
    """How one 8-bit encoding lies in memory and how it becomes RGB and back."""

    channels: int
    to_rgb: Callable[[np.ndarray], np.ndarray]
    from_rgb: Callable[[np.ndarray], np.ndarray]


def _converter(code: int) -> Callable[[np.ndarray], np.ndarray]:
    # cvtColor swaps channels ten times faster than a copy of a reversed view; padded rows it cannot read.
    return lambda pixels: cv2.cvtColor(np.ascontiguousarray(pixels), code)


ENCODINGS: dict[str, _Encoding] = {
    "rgb8": _Encoding(3, lambda pixels: pixels, lambda pixels: pixels),
    "bgr8": _Encoding(3, _converter(cv2.COLOR_BGR2RGB), _converter(cv2.COLOR_RGB2BGR)),
    "mono8": _Encoding(1, _converter(cv2.COLOR_GRAY2RGB), _converter(cv2.COLOR_RGB2GRAY)),
}


def to_rgb(data: Any, height: int, width: int, encoding: str, step: int, is_bigendian: bool = False) -> np.ndarray:
    """Pixels of one image as contiguous uint8 [height, width, 3] RGB.

    `data` is anything with the buffer protocol (bytes, array.array, uint8 ndarray), `step` the bytes of a row with its
    padding; bytes after step x height are ignored. `is_bigendian` means nothing for 8-bit encodings.
    Raises ValueError for an unknown encoding, a frame below 2x2, a step shorter than a row, data shorter than the rows.
    """
    layout = _layout(encoding)
    if height < MIN_SIDE or width < MIN_SIDE:
        raise ValueError(f"image is {height}x{width} pixels (height x width); at least {MIN_SIDE}x{MIN_SIDE} is needed")
    row = width * layout.channels
    if step < row:
        raise ValueError(
            f"step is {step} bytes, but a {encoding} row of {width} pixels has {row}; set step to {row} or more"
        )
    flat = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data.reshape(-1).view(np.uint8)
    if flat.size < step * height:
        raise ValueError(
            f"data holds {flat.size} bytes, but step x height = {step} x {height} = {step * height}: "
            "the image is cut off; let its publisher send whole frames"
        )
    rows = flat[: step * height].reshape(height, step)[:, :row]
    pixels = rows if layout.channels == 1 else rows.reshape(height, width, layout.channels)
    return np.ascontiguousarray(layout.to_rgb(pixels))


def from_rgb(image: np.ndarray, encoding: str, step: int | None = None) -> tuple[np.ndarray, int]:
    """Bytes of a uint8 [H, W, 3] RGB image in `encoding`: (flat uint8 [step x H], step); the padding is zero.

    Without `step` rows are not padded. mono8 keeps the luma (ITU-R BT.601) only.
    Raises ValueError for an unknown encoding, another shape or dtype, a step shorter than a row.
    """
    layout = _layout(encoding)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    row = width * layout.channels
    stride = row if step is None else step
    if stride < row:
        raise ValueError(f"step is {stride} bytes, but a {encoding} row of {width} pixels has {row}")
    rows = np.zeros((height, stride), np.uint8)
    rows[:, :row] = layout.from_rgb(image).reshape(height, row)
    return rows.reshape(-1), stride


def from_mask(mask: np.ndarray) -> tuple[np.ndarray, int]:
    """mono8 bytes of a bool [H, W] mask, 0 and 255: (flat uint8 [H x W], step = W)."""
    return (mask.astype(np.uint8) * np.uint8(255)).reshape(-1), mask.shape[1]


def from_score(score: np.ndarray) -> tuple[np.ndarray, int]:
    """32FC1 little-endian bytes of a float [H, W] map: (flat uint8 [4 x H x W], step = 4 x W)."""
    return np.ascontiguousarray(score, "<f4").reshape(-1).view(np.uint8), score.shape[1] * 4


def _layout(encoding: str) -> _Encoding:
    try:
        return ENCODINGS[encoding]
    except KeyError:
        raise ValueError(f"unknown encoding {encoding!r}; known are {', '.join(sorted(ENCODINGS))}") from None
