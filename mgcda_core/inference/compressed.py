"""Compressed camera images (jpeg, png, webp) -> uint8 RGB, for bytes that nobody vouches for.

OpenCV decodes them by their content. Before it does, this module reads kind, size and end from the bytes themselves:
a small file may claim a huge image, and of a jpeg that is cut off some versions of OpenCV return the upper part with a
grey lower one, which would be a clear road. Only a missing end is noticed: where data was lost before the end marker of
a jpeg, OpenCV fills in what it likes and says nothing.
"""

from __future__ import annotations

import re
import struct
from typing import Any

import cv2
import numpy as np

from mgcda_core.inference import encodings

_MAX_SEGMENTS = 1000  # of a jpeg before its size; cameras write about ten, the longest colour profile 255
_MAX_SCANS = 100  # of a progressive jpeg, usually ten; each of a dozen bytes costs a pass over the whole image
_MAX_CHUNKS = 1 << 16  # of a png, often of 8 KiB each
_SHOWN = 60  # characters of the format that an error repeats

_PNG = b"\x89PNG\r\n\x1a\n"
_ANIMATION = (b"acTL", b"fcTL", b"fdAT")  # no camera sends them, and a damaged one crashes OpenCV (its issue 27744)
_ANIMATED = "it is animated; let its publisher send single images"
_JPEG, _SCAN, _JPEG_END = b"\xff\xd8", b"\xff\xda", b"\xff\xd9"
# Before the frame header (SOF) come tables, application data and comments, nothing else; 0xff may be repeated.
_SEGMENT = re.compile(rb"\xff{1,16}(?:[\xc4\xcc\xdb\xdd\xe0-\xef\xfe]|(?P<frame>[\xc0-\xcf]))")
_SWAPPED = re.compile(r"(rgb|bgr)a?(8|16);(?!.*compressed bgr)")
_MOSAIC = re.compile(r"(bayer_[a-z]{4})(?:8|16);(?!.*compressed mono)")


def decode(data: Any, format: str) -> np.ndarray:
    """Pixels of a sensor_msgs/CompressedImage as contiguous uint8 [H, W, 3] RGB.

    `data` is a jpeg, png or webp file in anything with the buffer protocol. `format` is what image_transport writes,
    `ENCODING; CODEC compressed STORED`, or just a codec; of it only this counts: a colour image whose second half does
    not say "compressed bgr" has red and blue stored the wrong way round (its own subscriber reads it so), and a Bayer
    mosaic not stored as "compressed mono" is still to be interpolated.
    16 bits become their upper byte, alpha is dropped, and the orientation a file asks for is ignored, as by
    image_transport. Raises ValueError for any other content, an animation, an image without its end, one below 2x2, one
    of more than `encodings.MAX_PIXELS`, which is not decoded (the largest png of 16 bits takes 0.5 GB and some
    seconds); nothing else.
    """
    content = bytes(data)
    try:
        height, width = _size(content)
        encodings.check_pixels(height, width)
        pixels = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
        if pixels is None:
            raise ValueError("its content is damaged")
        if pixels.dtype == np.uint16:
            pixels = np.right_shift(pixels, 8, out=pixels).astype(np.uint8)
        channels = pixels.shape[2] if pixels.ndim == 3 else 1
        encoding = _encoding(channels, format)
        return encodings.to_rgb(pixels, pixels.shape[0], pixels.shape[1], encoding, pixels.shape[1] * channels)
    except (ValueError, struct.error, cv2.error) as error:
        reason = error if isinstance(error, ValueError) else "its content is damaged"
        shown = format[:_SHOWN]
        raise ValueError(f"image of format {shown!r} with {len(content)} bytes cannot be decoded: {reason}") from error


def _encoding(channels: int, format: str) -> str:
    """ROS name of decoded pixels; OpenCV gives what it takes for colour as bgr."""
    if channels == 1:
        mosaic = _MOSAIC.match(format)
        return f"{mosaic[1]}8" if mosaic else "mono8"
    swapped = _SWAPPED.match(format)
    return {3: "rgb8" if swapped else "bgr8", 4: "rgba8" if swapped else "bgra8"}[channels]


def _size(content: bytes) -> tuple[int, int]:
    """Height and width that a file claims. Raises ValueError or struct.error if it is none of ours, or cut off."""
    if content.startswith(_PNG):
        size, whole = _png_size(content), _has_png_end(content)
    elif content.startswith(_JPEG):
        size, start = _jpeg_size(content)
        end = content.find(_JPEG_END, start)
        whole = end >= 0
        if content.count(_SCAN, start, end) > _MAX_SCANS:
            raise ValueError(f"it has more than {_MAX_SCANS} scans")
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        size, whole = _webp_size(content), struct.unpack_from("<I", content, 4)[0] + 8 <= len(content)
    else:
        raise ValueError("it is no jpeg, png or webp; set its publisher to one of these")
    if not whole:
        raise ValueError("it is cut off; let its publisher send whole images")
    return size


def _png_size(content: bytes) -> tuple[int, int]:
    kind, width, height = struct.unpack_from(">4sII", content, 12)
    if kind != b"IHDR":
        raise ValueError("it does not begin with its size")
    return height, width


def _has_png_end(content: bytes) -> bool:
    """Whether the chunks follow each other to the last; OpenCV allocates whatever length a chunk claims."""
    place = len(_PNG)
    for _ in range(_MAX_CHUNKS):
        length, kind = struct.unpack_from(">I4s", content, place)
        if kind in _ANIMATION:
            raise ValueError(_ANIMATED)
        place += length + 12
        if kind == b"IEND" or place + 8 > len(content):
            return kind == b"IEND" and place <= len(content)
    return False


def _jpeg_size(content: bytes) -> tuple[tuple[int, int], int]:
    """Size in the frame header, and where that begins."""
    place = len(_JPEG)
    for _ in range(_MAX_SEGMENTS):
        marker = _SEGMENT.match(content, place)
        if marker is None:
            break
        if marker["frame"]:
            height, width = struct.unpack_from(">HH", content, marker.end() + 3)
            return (height, width), marker.start()
        place = marker.end() + struct.unpack_from(">H", content, marker.end())[0]
    raise ValueError("it has no frame header where one must be")


def _webp_size(content: bytes) -> tuple[int, int]:
    kind = content[12:16]
    if kind == b"VP8 ":  # 14 bits a side in the key frame, below a scale that nobody uses
        width, height = struct.unpack_from("<HH", content, 26)
        return height & 0x3FFF, width & 0x3FFF
    if kind == b"VP8L":  # 14 bits a side, less one, behind a byte of signature
        packed = struct.unpack_from("<I", content, 21)[0]
        return (packed >> 14 & 0x3FFF) + 1, (packed & 0x3FFF) + 1
    if kind == b"VP8X":  # flags, then 24 bits a side, less one, of the canvas
        flags, width, height = struct.unpack("<B3x3s3s", content[20:30])
        if flags & 2:
            raise ValueError(_ANIMATED)
        return int.from_bytes(height, "little") + 1, int.from_bytes(width, "little") + 1
    raise ValueError("it is a webp without an image")
