"""GTA5, "Playing for Data" (Richter et al., ECCV 2016): frames of a game with Cityscapes' label ids.

Published layout: images/00001.png ... beside labels/ of the same names, all parts of the archive unpacked into one
folder. Labels are 8-bit PNG files with a palette, whose indices are the ids; 34 is the license plate.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mgcda_core.data.sample import DataError, Scenes, pair_by_stem, read_label
from mgcda_core.labels import NUM_LABEL_IDS, TRAIN_TO_LABEL_ID

CLASSES = tuple(
    (TRAIN_TO_LABEL_ID.index(i),) if i in TRAIN_TO_LABEL_ID else () for i in range(NUM_LABEL_IDS)
)  # fmt: skip
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PALETTE = 3  # PNG's colour types
_GREY = 0


@dataclass(frozen=True)
class Gta5Scenes(Scenes):
    """Scenes whose labels are palette indices."""

    def read_label(self, path: Path) -> np.ndarray:
        """Label file -> label ids uint8 [H, W]; a grey file is taken as it is. DataError as `read_palette_indices`."""
        return read_palette_indices(path)


def load_gta5(root: Path) -> Gta5Scenes:
    """All scenes under `root`; raises DataError where the layout is not the one above."""
    return Gta5Scenes("gta5", pair_by_stem(root / "images", root / "labels"), CLASSES)


def read_palette_indices(path: Path) -> np.ndarray:
    """PNG of 8 bits with a palette -> its indices uint8 [H, W]; one without a palette as `read_label`.

    OpenCV gives the palette's colours, of which several ids share one (car and license plate). Pixels of both kinds
    are stored alike, so the file is read as if it were grey. Raises DataError for a file that is none of these.
    """
    data = path.read_bytes() if path.is_file() else b""
    header = data[16:29]  # width, height, bit depth, colour type, compression, filter, interlace
    if data[:8] != _SIGNATURE or len(header) < 13 or header[9] != _PALETTE:
        return read_label(path)
    if header[8] != 8:
        raise DataError(f"{path} has a palette of {header[8]} bits a pixel: a label has 8")
    grey = header[:9] + bytes([_GREY]) + header[10:]
    chunks = [_chunk(b"IHDR", grey), *(_chunk(kind, body) for kind, body in _chunks(data) if kind == b"IDAT")]
    pixels = np.frombuffer(_SIGNATURE + b"".join(chunks) + _chunk(b"IEND", b""), np.uint8)
    indices = cv2.imdecode(pixels, cv2.IMREAD_UNCHANGED)
    if indices is None:
        raise DataError(f"{path} is not a readable image: replace or remove it")
    return np.asarray(indices)


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """(kind, content) of every chunk of a PNG file."""
    found, at = [], len(_SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
