"""Objects of COCO to paste (Lin et al., ECCV 2014).

Published layout: annotations/instances_{train,val}2017.json beside the pictures in {train,val}2017/.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from mgcda_core.data.cutouts import ROAD_CLASSES, Cutout, found_objects, with_alpha
from mgcda_core.data.sample import DataError, read_pixels

META_OOD_CLASSES = frozenset(
    ["person", "bicycle", "car", "motorcycle", "bus", "truck", "traffic_light", "stop_sign"]
)  # fmt: skip
"""Classes whose pictures Meta-OoD and PEBAL leave out whole (spec 3.3)."""


def load_coco_objects(
    root: Path,
    split: Literal["train", "val"],
    *,
    drop_pictures_with: frozenset[str] = META_OOD_CLASSES,
    drop_objects: frozenset[str] = ROAD_CLASSES,
    min_side: int = 480,
    min_pixels: int = 1000,
) -> list[Cutout]:
    """The objects of one split, crowds included, in the order of their ids; pixels are read when asked for.

    Pictures that hold a class of `drop_pictures_with` or have a side below `min_side` pixels are left out whole,
    further objects of `drop_objects` or below `min_pixels` pixels one by one. `drop_objects=frozenset()` and
    `min_pixels=1` is what PEBAL pastes. Class names have _ for blanks. Raises DataError naming the annotation file
    where it is missing or incomplete, or nothing is left.
    """
    path = root / "annotations" / f"instances_{split}2017.json"
    pictures, annotations, names = _read_annotations(path)
    dropped = {a["image_id"] for a in annotations if names[a["category_id"]] in drop_pictures_with}
    cutouts = []
    for annotation in sorted(annotations, key=lambda a: (a["image_id"], a["id"])):
        picture, category = pictures[annotation["image_id"]], names[annotation["category_id"]]
        small = min(picture["height"], picture["width"]) < min_side
        if small or annotation["image_id"] in dropped or category in drop_objects:
            continue
        cutout = _cutout(root / f"{split}2017", picture, annotation, category, min_pixels)
        if cutout is not None:
            cutouts.append(cutout)
    return found_objects(path, cutouts, [])


def _read_annotations(path: Path) -> tuple[dict[int, Any], list[Any], dict[int, str]]:
    """Pictures by id, annotations, class names by id; every annotation's picture and class exist."""
    if not path.is_file():
        raise DataError(f"{path} is missing: root must hold annotations/ beside train2017/ or val2017/")
    try:
        file = json.loads(path.read_text())
        pictures = {picture["id"]: picture for picture in file["images"]}
        names = {category["id"]: category["name"].replace(" ", "_") for category in file["categories"]}
        annotations = file["annotations"]
        for annotation in annotations:  # a KeyError tells what is missing
            _ = pictures[annotation["image_id"]], names[annotation["category_id"]], annotation["segmentation"]
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error}): download it again") from error
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is no COCO instance file: {error} is missing") from error
    return pictures, annotations, names


def _cutout(
    folder: Path, picture: Mapping[str, Any], annotation: Mapping[str, Any], category: str, min_pixels: int
) -> Cutout | None:
    from pycocotools import mask as coco_mask

    size, shape = (picture["height"], picture["width"]), annotation["segmentation"]
    if isinstance(shape, list):  # polygons
        parts = [polygon for polygon in shape if len(polygon) >= 6]
        if not parts:
            return None
        code = coco_mask.merge(coco_mask.frPyObjects(parts, *size))
    else:
        code = coco_mask.frPyObjects(shape, *size) if isinstance(shape["counts"], list) else shape
    if coco_mask.area(code) < max(1, min_pixels):
        return None
    left, top, width, height = (int(v) for v in coco_mask.toBbox(code))
    file = folder / picture["file_name"]
    name = f"{folder.name}/{file.stem}"
    read = partial(_read_object, file, code, (top, left, height, width))
    return Cutout(read, f"{name}#{annotation['id']}", name, top, left, category)


def _read_object(path: Path, code: Any, window: tuple[int, int, int, int]) -> np.ndarray:
    from pycocotools import mask as coco_mask

    # annotations are in stored pixels: a turn noted in the file's header must not be applied
    image = read_pixels(path, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)[..., ::-1]
    mask = coco_mask.decode(code).astype(bool)
    if image.shape[:2] != mask.shape:
        raise DataError(f"{path} is {image.shape[:2]}, its annotations {mask.shape}: download it again")
    top, left, height, width = window
    cut = np.s_[top : top + height, left : left + width]
    return with_alpha(image[cut], mask[cut])
