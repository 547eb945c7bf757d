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
"""Largest height and width in pixels that an artefact may be made for, and that is read."""
MAX_PIXELS = 1 << 25
"""Largest height x width that is read from a message: 8K video (7680x4320) fits."""
_SHOWN = 40  # characters of a name from the network that an error repeats

Convert = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Encoding:
    """How one encoding lies in memory and how it becomes RGB and back."""

    channels: int
    """Bytes of a pixel in a row."""
    to_rgb: Convert
    """uint8 [rows, W] or [rows, W, channels], rows maybe padded -> contiguous uint8 [H, W, 3]."""
    from_rgb: Convert
    """uint8 [H, W, 3] -> the bytes of its rows, in any shape."""
    block: tuple[int, int] = (1, 1)
    """Height and width in pixels that share a colour; the image's are multiples of them."""
    smallest: int = MIN_SIDE
    """Least height and width in pixels."""

    def rows(self, height: int) -> int:
        """Rows in memory: colours shared by two rows of the image follow it in rows of their own."""
        return height + height // 2 if self.block[0] == 2 else height


def _converter(code: int) -> Convert:
    # cvtColor reads padded rows in place, and swaps channels ten times faster than a copy of a reversed view.
    return lambda pixels: cv2.cvtColor(pixels, code)


def _bayer(pattern: str, code: int) -> _Encoding:
    """A mosaic named by the colours of its first two rows; OpenCV names it by the second pixel of the second row."""

    def sampled(image: np.ndarray) -> np.ndarray:
        mosaic = np.empty(image.shape[:2], np.uint8)
        for place, colour in enumerate(pattern):
            y, x = divmod(place, 2)
            mosaic[y::2, x::2] = image[y::2, x::2, "rgb".index(colour)]
        return mosaic

    return _Encoding(1, _converter(code), sampled, smallest=3)  # of two rows or columns OpenCV makes a black image


def _yuv(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Y [H, W], U and V [H/2, W/2] of an RGB image, in BT.601 video range."""
    height, width = image.shape[:2]
    planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420)
    u, v = planes[height:].reshape(2, height // 2, width // 2)
    return planes[:height], u, v


def _nv(code: int, v_first: bool) -> _Encoding:
    """A plane of Y, then one of U and V in turns, each shared by 2x2 pixels."""

    def planes(image: np.ndarray) -> np.ndarray:
        y, u, v = _yuv(image)
        chroma = np.stack([v, u] if v_first else [u, v], axis=-1)
        return np.concatenate([y, chroma.reshape(-1, image.shape[1])])

    return _Encoding(1, _converter(code), planes, block=(2, 2))


def _yuv422(code: int, y_first: bool) -> _Encoding:
    """Two pixels in four bytes: two of Y with a U and a V that both share."""

    def packed(image: np.ndarray) -> np.ndarray:
        y, u, v = _yuv(image.repeat(2, axis=0))  # every row twice, so that U and V keep them all
        left, right = y[::2, 0::2], y[::2, 1::2]
        return np.stack([left, u, right, v] if y_first else [u, left, v, right], axis=-1)

    return _Encoding(2, _converter(code), packed, block=(1, 2))


def _grey16_to_rgb(upper: int) -> Convert:
    """From two bytes a pixel, the one at place `upper`; far faster than NumPy's copy of every second byte."""
    return lambda pixels: cv2.cvtColor(cv2.extractChannel(pixels, upper), cv2.COLOR_GRAY2RGB)


def _grey16_from_rgb(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).repeat(2, axis=1)  # 255 becomes 65535, and no byte order matters


_UYVY = _yuv422(cv2.COLOR_YUV2RGB_UYVY, y_first=False)
_YUYV = _yuv422(cv2.COLOR_YUV2RGB_YUY2, y_first=True)
ENCODINGS: dict[str, _Encoding] = {
    "rgb8": _Encoding(3, np.ascontiguousarray, lambda image: image),
    "bgr8": _Encoding(3, _converter(cv2.COLOR_BGR2RGB), _converter(cv2.COLOR_RGB2BGR)),
    "rgba8": _Encoding(4, _converter(cv2.COLOR_RGBA2RGB), _converter(cv2.COLOR_RGB2RGBA)),
    "bgra8": _Encoding(4, _converter(cv2.COLOR_BGRA2RGB), _converter(cv2.COLOR_RGB2BGRA)),
    "mono8": _Encoding(1, _converter(cv2.COLOR_GRAY2RGB), _converter(cv2.COLOR_RGB2GRAY)),
    "mono16": _Encoding(2, _grey16_to_rgb(1), _grey16_from_rgb),
    "bayer_rggb8": _bayer("rggb", cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": _bayer("bggr", cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": _bayer("gbrg", cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": _bayer("grbg", cv2.COLOR_BayerGB2RGB),
    "uyvy": _UYVY,
    "yuv422": _UYVY,
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,
    "nv12": _nv(cv2.COLOR_YUV2RGB_NV12, v_first=False),
    "nv21": _nv(cv2.COLOR_YUV2RGB_NV21, v_first=True),
}


def to_rgb(data: Any, height: int, width: int, encoding: str, step: int, is_bigendian: bool = False) -> np.ndarray:
    """Pixels of one image as contiguous uint8 [height, width, 3] RGB.

    `data` is anything with the buffer protocol (bytes, array.array, uint8 ndarray), `step` the bytes of a row with its
    padding; bytes after the last row are ignored. rgb8 without padding is not copied: the result is a view of `data`,
    read-only if that is. Alpha is dropped, Bayer interpolated bilinearly, YUV taken as BT.601 in video range, all as
    cv_bridge does; nv12 and nv21 are height rows of Y and height / 2 of U and V, all `step` bytes long.
    mono16 keeps its upper byte, which is within one level of cv_bridge's round(v x 255 / 65535) without touching the
    lower one: a driver that leaves 12 bits at the bottom of the 16 gives a dark image with either. `is_bigendian`
    is the order of its bytes and means nothing for the others.
    Raises ValueError for an unknown encoding, a size that it cannot have (nv12 and nv21 need even sides, 4:2:2 an even
    width, Bayer 3x3, all of them 2x2 to MAX_SIDE and MAX_PIXELS), a step shorter than a row, data shorter than the
    rows; before anything is allocated.
    """
    layout = _layout(encoding)
    _check_size(encoding, layout, height, width)
    row = width * layout.channels
    _check_step(encoding, step, row, width)
    rows = layout.rows(height)
    flat = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data.reshape(-1).view(np.uint8)
    if flat.size < step * rows:
        named = "height" if rows == height else "rows of both planes"
        raise ValueError(
            f"data holds {flat.size} bytes, but step x {named} = {step} x {rows} = {step * rows}: "
            "the image is cut off; let its publisher send whole frames"
        )
    pixels = flat[: step * rows].reshape(rows, step)[:, :row]
    if layout.channels > 1:
        pixels = pixels.reshape(rows, width, layout.channels)
    if encoding == "mono16" and is_bigendian:
        return _grey16_to_rgb(0)(pixels)
    return layout.to_rgb(pixels)


def from_rgb(image: np.ndarray, encoding: str, step: int | None = None) -> tuple[np.ndarray, int]:
    """Bytes of a uint8 [H, W, 3] RGB image in `encoding`: (flat uint8 [step x rows], step); the padding is zero.

    Without `step` rows are not padded. The mono encodings keep the luma (ITU-R BT.601) only, mono16 in both bytes;
    alpha is 255; Bayer takes one colour of each pixel; YUV is BT.601 in video range.
    Raises ValueError for an unknown encoding, another shape or dtype, a size it cannot have (see `to_rgb`), a step
    shorter than a row.
    """
    layout = _layout(encoding)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    _check_size(encoding, layout, height, width)
    row = width * layout.channels
    stride = row if step is None else step
    _check_step(encoding, stride, row, width)
    rows = np.zeros((layout.rows(height), stride), np.uint8)
    rows[:, :row] = layout.from_rgb(image).reshape(-1, row)
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
        raise ValueError(f"unknown encoding {encoding[:_SHOWN]!r}; known are {', '.join(sorted(ENCODINGS))}") from None


def check_pixels(height: int, width: int) -> None:
    """Raises ValueError for an image of more than MAX_PIXELS: what is made of it takes forty times their memory."""
    if height * width > MAX_PIXELS:
        raise ValueError(f"image claims {height}x{width} pixels (height x width), more than {MAX_PIXELS} in all")


def _check_size(encoding: str, layout: _Encoding, height: int, width: int) -> None:
    size = f"image is {height}x{width} pixels (height x width)"
    least = layout.smallest
    if height < least or width < least:
        raise ValueError(f"{size}; at least {least}x{least} is needed")
    if height > MAX_SIDE or width > MAX_SIDE:
        raise ValueError(f"{size}; at most {MAX_SIDE}x{MAX_SIDE} is read")
    check_pixels(height, width)
    down, across = layout.block
    if height % down or width % across:
        needed = "an even height and width" if down == 2 else "an even width"
        raise ValueError(f"{size}, but {encoding} needs {needed}: neighbours share a colour; let its driver crop it")


def _check_step(encoding: str, step: int, row: int, width: int) -> None:
    if step < row:
        raise ValueError(
            f"step is {step} bytes, but a {encoding} row of {width} pixels has {row}; set step to {row} or more"
        )
