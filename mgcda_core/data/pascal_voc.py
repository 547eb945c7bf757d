"""Objects of Pascal VOC to paste (Everingham et al., IJCV 2010).

Published layout of VOCdevkit/VOC2012: JPEGImages/*.jpg, SegmentationObject/*.png (0 background, 1..n objects, 255
border) and SegmentationClass/*.png (0 background, 1..20 classes, 255 border), both PNG files with VOC's palette.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import cv2
import numpy as np

from mgcda_core.data.cutouts import Cutout, found_objects, tight_window, with_alpha
from mgcda_core.data.sample import DataError, read_pixels, read_rgb

NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
VOC_ROAD_CLASSES = frozenset(["bicycle", "bus", "car", "motorbike", "person", "pottedplant", "train"])
"""VOC's names of the COCO classes that are never pasted (cutouts.ROAD_CLASSES)."""
BORDER = 255


def load_pascal_voc_objects(root: Path, *, min_pixels: int = 1000) -> list[Cutout]:
    """Every object of at least `min_pixels` pixels, road classes left out, in file order; pixels read when asked for.

    Raises DataError naming every file that is missing or unreadable, or the folder where the layout is another.
    """
    folder = root / "SegmentationObject"
    masks = sorted(folder.glob("*.png"))
    if not masks:
        raise DataError(f"{folder} holds no *.png: root must be VOCdevkit/VOC2012 or a folder like it")
    cutouts: list[Cutout] = []
    problems: list[str] = []
    for path in masks:
        try:
            cutouts += _objects(root / "JPEGImages" / f"{path.stem}.jpg", path, min_pixels)
        except DataError as error:
            problems.append(str(error))
    return found_objects(root, cutouts, problems)


def _objects(image: Path, path: Path, min_pixels: int) -> list[Cutout]:
    if not image.is_file():
        raise DataError(f"{image} is missing: {path} is its mask")
    objects, classes = read_voc_mask(path), read_voc_mask(path.parent.parent / "SegmentationClass" / path.name)
    if objects.shape != classes.shape:
        raise DataError(f"{path} is {objects.shape}, its SegmentationClass file {classes.shape}: they must agree")
    picture = f"{path.parent.parent.name}/{path.stem}"
    cutouts = []
    for value in np.setdiff1d(np.unique(objects), [0, BORDER]):
        chosen = objects == value
        category = int(np.bincount(classes[chosen]).argmax())
        if not 1 <= category < len(NAMES):
            raise DataError(f"{path}: object {value} has the class {category}; SegmentationClass holds 1..20 there")
        if NAMES[category] in VOC_ROAD_CLASSES or chosen.sum() < min_pixels:
            continue
        top, left, height, width = window = tight_window(chosen)
        packed = np.packbits(chosen[top : top + height, left : left + width])
        read = partial(_read_object, image, objects.shape, window, packed)
        cutouts.append(Cutout(read, f"{picture}#{value}", picture, top, left, NAMES[category]))
    return cutouts


def read_voc_mask(path: Path) -> np.ndarray:
    """Mask PNG -> indices uint8 [H, W]; DataError for a colour that VOC's palette lacks."""
    pixels = read_pixels(path, cv2.IMREAD_UNCHANGED)
    if pixels.ndim == 2:  # saved without the palette
        return pixels.astype(np.uint8)
    packed = pixels[..., :3].astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], np.uint32)  # BGR
    palette = _palette()
    order = palette.argsort()
    index = order[np.searchsorted(palette, packed, sorter=order).clip(max=255)]
    wrong = packed[palette[index] != packed]
    if wrong.size:
        raise DataError(f"{path} holds the colour #{wrong[0]:06x}, which VOC's palette lacks")
    return index.astype(np.uint8)


def _palette() -> np.ndarray:
    """VOC's 256 colours as 0xRRGGBB: bits 0, 3, 6 of the index are red's high bits, 1, 4, 7 green's, 2 and 5 blue's."""
    index = np.arange(256, dtype=np.uint32)
    red, green, blue = (sum(((index >> (3 * j + c)) & 1) << (7 - j) for j in range(3)) for c in range(3))
    return np.asarray(red << 16 | green << 8 | blue, np.uint32)


def _read_object(
    path: Path, size: tuple[int, int], window: tuple[int, int, int, int], packed: np.ndarray
) -> np.ndarray:
    image = read_rgb(path)
    if image.shape[:2] != size:
        raise DataError(f"{path} is {image.shape[:2]}, its mask {size}: they must have the same size")
    top, left, height, width = window
    mask = np.unpackbits(packed, count=height * width).reshape(height, width).astype(bool)
    return with_alpha(image[top : top + height, left : left + width], mask)
