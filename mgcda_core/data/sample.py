"""A labelled road scene and a set of them on disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mgcda_core.labels import IGNORE

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class DataError(ValueError):
    """A data set does not hold what its layout promises; the message names the file and the remedy.

    `problems` has one such message for each file at fault, where several were found.
    """

    def __init__(self, message: str, problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems) or (message,)


@dataclass(frozen=True)
class Scene:
    """One image with its closed-set labels."""

    image: np.ndarray
    """uint8 [H, W, 3] RGB."""
    label: np.ndarray
    """uint8 [H, W], the data set's own class numbers; 255 void."""
    name: str
    """Unique within the set."""
    raw: np.ndarray | None = None
    """uint8 [H, W], the label file's values, kinds of void told apart."""
    instances: np.ndarray | None = None
    """int32 [H, W], Cityscapes instance ids: label id, or 1000 x label id + k for the k-th object of the class."""


@dataclass(frozen=True)
class Scenes:
    """Image and label files of one data set, read when indexed.

    `classes[v]` holds the Cityscapes train ids a pixel of value v may be: several where the set's class is coarser,
    none where it is void. `void_values` are the label file's values that stand for unlabelled objects, from which
    VoidClass makes anomalies.
    """

    name: str
    pairs: tuple[tuple[Path, Path], ...]
    classes: tuple[tuple[int, ...], ...]
    void_values: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Scene:
        """Reads one scene; raises DataError naming the file if it is unreadable, mis-sized or wrongly labelled."""
        image_path, label_path = self.pairs[index]
        image, raw = read_rgb(image_path), self.read_label(label_path)
        check_label(raw, label_path, image, len(self.classes), self.name)
        label = np.where(np.isin(raw, [v for v, ids in enumerate(self.classes) if not ids]), IGNORE, raw)
        return Scene(image, label.astype(np.uint8), f"{self.name}/{image_path.stem}", raw)

    def read_label(self, path: Path) -> np.ndarray:
        """Label file -> the set's own class numbers uint8 [H, W]; sets of another format override it."""
        return read_label(path)

    def train_id_table(self) -> np.ndarray:
        """bool [256, 19]: which train ids a label value may be; all False for void."""
        table = np.zeros((256, 19), bool)
        for value, ids in enumerate(self.classes):
            table[value, list(ids)] = True
        return table


def read_rgb(path: Path) -> np.ndarray:
    """Image file -> uint8 [H, W, 3] RGB; DataError names a missing or unreadable file."""
    return cv2.cvtColor(read_pixels(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_label(path: Path) -> np.ndarray:
    """Single-channel 8-bit label file -> uint8 [H, W]; DataError names a missing, unreadable or colour file."""
    label = read_pixels(path, cv2.IMREAD_UNCHANGED)
    if label.ndim != 2 or label.dtype != np.uint8:
        raise DataError(f"{path} has shape {label.shape} and type {label.dtype}: a label is one 8-bit channel")
    return label


def read_pixels(path: Path, flags: int) -> np.ndarray:
    """Image file -> what `cv2.imread(path, flags)` gives; DataError names a missing or unreadable file."""
    try:
        pixels = cv2.imread(str(path), flags) if path.is_file() else None
    except cv2.error:  # a header that claims a size beyond OpenCV's limit
        pixels = None
    if pixels is None:
        raise DataError(f"{path} is {'not a readable image' if path.is_file() else 'missing'}: replace or remove it")
    return pixels


def check_label(label: np.ndarray, path: Path, image: np.ndarray, classes: int, name: str) -> None:
    """Raises DataError unless the label file's pixels have the image's size and values 0..classes - 1 or 255."""
    if image.shape[:2] != label.shape:
        raise DataError(f"{path} is {label.shape}, its image {image.shape[:2]}: they must have the same size")
    unknown = np.setdiff1d(np.unique(label), [*range(classes), IGNORE])
    if unknown.size:
        raise DataError(f"{path} holds the value {unknown[0]}; {name} labels are 0..{classes - 1} and 255")


def pair_by_stem(images: Path, labels: Path, keep: str = "") -> tuple[tuple[Path, Path], ...]:
    """Image and .png label files of the same stem named `keep`*, sorted; DataError if none or unpaired."""
    for folder in (images, labels):
        if not folder.is_dir():
            raise DataError(f"{folder} is not a folder: check the data set's root")
    found = sorted(p for p in images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.name.startswith(keep))
    if not found:
        raise DataError(f"{images} holds no image{f' named {keep}*' if keep else ''}")
    pairs = tuple((p, labels / f"{p.stem}.png") for p in found)
    missing = [f"{image} has no label {label}" for image, label in pairs if not label.is_file()]
    if missing:
        raise DataError(f"{missing[0]} ({len(missing)} of {len(pairs)} images have none)", missing)
    return pairs


def describe(sets: Sequence[Scenes]) -> str:
    """One line for a log: `camvid 367, idd-lite 1403`."""
    return ", ".join(f"{s.name} {len(s)}" for s in sets)
