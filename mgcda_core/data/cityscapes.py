"""Cityscapes (Cordts et al., CVPR 2016): as published, or frames whose labels are train ids already."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from mgcda_core.data.sample import (
    DataError,
    Scene,
    Scenes,
    check_label,
    pair_by_stem,
    read_label,
    read_pixels,
    read_rgb,
)
from mgcda_core.labels import IGNORE, NUM_LABEL_IDS, TRAIN_TO_LABEL_ID

TRAIN_CLASSES = tuple((i,) for i in range(len(TRAIN_TO_LABEL_ID)))
STATIC, DYNAMIC = 4, 5
"""Label ids of objects that belong to no class: standing ones, and ones that can move."""

VOID_NAMES = {
    0: "unlabeled", 1: "ego vehicle", 2: "rectification border", 3: "out of roi", STATIC: "static", DYNAMIC: "dynamic",
    6: "ground", 9: "parking", 10: "rail track", 14: "guard rail", 15: "bridge", 16: "tunnel", 18: "polegroup",
    29: "caravan", 30: "trailer",
}  # fmt: skip
"""Names of the label ids without a train id."""


def load_cityscapes_train_ids(root: Path) -> Scenes:
    """All scenes of images/ beside masks/ under `root`, same stems, train-id labels; DataError for another layout.

    Nothing of them is an anomaly to VoidClass: 255 stands for the ego vehicle and the frame's border too.
    """
    return Scenes("cityscapes", pair_by_stem(root / "images", root / "masks"), TRAIN_CLASSES)


def load_cityscapes(root: Path, split: Literal["train", "val"]) -> CityscapesScenes:
    """One split of the published layout: leftImg8bit/{split}/{city}/ beside gtFine/{split}/{city}/ under `root`.

    Raises DataError where the layout is another, or an image lacks its labelIds or instanceIds file.
    """
    folder = root / "leftImg8bit" / split
    images = sorted(folder.glob("*/*_leftImg8bit.png"))
    if not images:
        raise DataError(f"{folder} holds no CITY/*_leftImg8bit.png: root must hold leftImg8bit/ and gtFine/")
    pairs = tuple((image, _ground_truth(image, root, "labelIds")) for image in images)
    files = [file for image, label in pairs for file in (label, _ground_truth(image, root, "instanceIds"))]
    missing = [f"{file} is missing" for file in files if not file.is_file()]
    if missing:
        raise DataError(f"{missing[0]} ({len(missing)} of {len(files)} label files are)", missing)
    return CityscapesScenes("cityscapes", pairs, TRAIN_CLASSES, (STATIC, DYNAMIC))


@dataclass(frozen=True)
class CityscapesScenes(Scenes):
    """Scenes whose files hold label ids: `label` is their train ids, `raw` the label ids, `instances` is filled."""

    def __getitem__(self, index: int) -> Scene:
        """Reads one scene; raises DataError naming the file if it is unreadable, mis-sized or wrongly labelled."""
        image_path, label_path = self.pairs[index]
        image, raw = read_rgb(image_path), read_label(label_path)
        check_label(raw, label_path, image, NUM_LABEL_IDS - 1, "Cityscapes id")
        instances = _read_instances(label_path.with_name(label_path.name.replace("labelIds", "instanceIds")), raw.shape)
        stem = image_path.name.removesuffix("_leftImg8bit.png")
        return Scene(image, label_to_train_ids(raw), f"{self.name}/{stem}", raw, instances)


def label_to_train_ids(label_ids: np.ndarray) -> np.ndarray:
    """uint8 label ids -> uint8 train ids of the same shape, 255 for every class that is not evaluated (spec 1.3)."""
    table = np.full(256, IGNORE, np.uint8)
    table[list(TRAIN_TO_LABEL_ID)] = range(len(TRAIN_TO_LABEL_ID))
    return table[label_ids]


def _ground_truth(image: Path, root: Path, kind: str) -> Path:
    name = image.name.replace("_leftImg8bit", f"_gtFine_{kind}")
    return root / "gtFine" / image.parent.parent.name / image.parent.name / name


def _read_instances(path: Path, size: tuple[int, ...]) -> np.ndarray:
    """int32 [H, W]; DataError unless it is one channel of 16 bit with instances of Cityscapes classes."""
    instances = read_pixels(path, cv2.IMREAD_UNCHANGED)
    if instances.shape != size or instances.dtype != np.uint16:
        raise DataError(
            f"{path} is {instances.dtype} {instances.shape}: it must be 16 bit and {size} like its labelIds"
        )
    instances = instances.astype(np.int32)
    label_ids = np.where(instances < 1000, instances, instances // 1000)
    wrong = instances[(label_ids >= NUM_LABEL_IDS - 1) & (label_ids != IGNORE)]
    if wrong.size:
        raise DataError(f"{path} holds the instance {wrong[0]}; its class would be above {NUM_LABEL_IDS - 2}")
    return instances
