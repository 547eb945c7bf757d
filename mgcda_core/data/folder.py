"""Labelled sets for evaluation: pairs of image and mask files, any label values, mapped to 0, 1, 255."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mgcda_core.config import ConfigError
from mgcda_core.data.sample import IMAGE_SUFFIXES, DataError, read_pixels, read_rgb
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL


@dataclass(frozen=True)
class LabelledImage:
    """One image with its anomaly label."""

    image: np.ndarray
    """uint8 [H, W, 3] RGB."""
    label: np.ndarray
    """uint8 [H, W]: 0 normal, 1 anomaly, 255 ignore."""
    stem: str


class LabelledPairs:
    """Image and mask files of one set, read when indexed; `pairs` holds their paths, `stems` their unique names.

    `anomaly_values`, `ignore_values` and `normal_values` are the mask values that mean 1, 255 and 0. Any other value
    in a mask is an error: a wrong layout must not pass as a bad score. Raises ConfigError for a value in two lists.
    """

    def __init__(
        self,
        name: str,
        pairs: Sequence[tuple[Path, Path]],
        anomaly_values: Sequence[int] = (1,),
        ignore_values: Sequence[int] = (255,),
        normal_values: Sequence[int] = (0,),
    ) -> None:
        self.name, self.pairs = name, tuple(pairs)
        self.anomaly_values, self.ignore_values = tuple(anomaly_values), tuple(ignore_values)
        self.meaning = _meaning(anomaly_values, ignore_values, normal_values)
        stems = [image.stem for image, _ in pairs]
        if len(set(stems)) < len(stems):  # folders that number their frames alike
            stems = [f"{image.parent.name}_{image.stem}" for image, _ in pairs]
        self.stems = stems

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> LabelledImage:
        """Reads one pair; DataError names the file that is unreadable, of another size, or holds an unknown value."""
        image_path, mask_path = self.pairs[index]
        image, mask = self.read_image(index), read_mask(mask_path)
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{mask_path} is {mask.shape[0]}x{mask.shape[1]} pixels (height x width), its image {image_path} "
                f"{image.shape[0]}x{image.shape[1]}: they must have the same size"
            )
        return LabelledImage(image, self._label(mask, mask_path), self.stems[index])

    def read_image(self, index: int) -> np.ndarray:
        """Image of one pair: uint8 [H, W, 3] RGB."""
        return read_rgb(self.pairs[index][0])

    def _label(self, mask: np.ndarray, path: Path) -> np.ndarray:
        label = np.zeros(mask.shape, np.uint8)
        for value in np.unique(mask):
            if int(value) not in self.meaning:
                raise DataError(f"{path} holds the value {value}, which {self._unknown()}")
            label[mask == value] = self.meaning[int(value)]
        return label

    def _unknown(self) -> str:
        normal, anomaly, ignore = (_listed(self.meaning, label) for label in (NORMAL, ANOMALY, IGNORE))
        return f"{self.name} does not know: normal is {normal}, anomaly {anomaly}, ignored {ignore}"


class LabelledFolder(LabelledPairs):
    """Images and masks of the same stem in two folders, whatever their extensions.

    Masks without an image are left out. Raises ConfigError for a value in two lists, DataError for a missing folder,
    an empty one, two files of one stem in one folder, or an image without a mask.
    """

    def __init__(
        self,
        images: str | Path,
        masks: str | Path,
        anomaly_values: Sequence[int] = (1,),
        ignore_values: Sequence[int] = (255,),
        normal_values: Sequence[int] = (0,),
    ) -> None:
        found, labels = _by_stem(Path(images)), _by_stem(Path(masks))
        missing = [
            f"{path} has no mask: {masks} holds no image file named {stem}.*"
            for stem, path in found.items()
            if stem not in labels
        ]
        if missing:
            more = f" ({len(missing)} images lack one)" if len(missing) > 1 else ""
            raise DataError(missing[0] + more, missing)
        pairs = [(path, labels[stem]) for stem, path in found.items()]
        super().__init__("folder", pairs, anomaly_values, ignore_values, normal_values)

    def _unknown(self) -> str:
        return (
            "has no meaning yet: name it with --anomaly_values, --ignore_values or --normal_values "
            f"(now {_listed(self.meaning, ANOMALY)}, {_listed(self.meaning, IGNORE)} and "
            f"{_listed(self.meaning, NORMAL)})"
        )


def read_mask(path: Path) -> np.ndarray:
    """Mask file -> values uint8 or uint16 [H, W]; DataError unless it is grey, or colour with equal channels."""
    mask = read_pixels(path, cv2.IMREAD_UNCHANGED)
    if mask.ndim == 3:
        if not ((mask[..., 0] == mask[..., 1]) & (mask[..., 0] == mask[..., 2])).all():
            raise DataError(f"{path} is a colour picture: a mask is one channel of label values, not of colours")
        mask = mask[..., 0]
    if mask.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path} holds {mask.dtype} values: a mask holds 8- or 16-bit whole numbers")
    return mask


def existing_pairs(pairs: Sequence[tuple[Path, Path]], images: Path) -> list[tuple[Path, Path]]:
    """The pairs, sorted; DataError if there is none (naming the folder `images`), or a mask is missing."""
    if not pairs:
        raise DataError(f"{images} holds no image of this set: check the root and the layout in the reader's docstring")
    missing = [f"{mask} is missing, the mask of {image}" for image, mask in sorted(pairs) if not mask.is_file()]
    if missing:
        raise DataError(f"{missing[0]} ({len(missing)} of {len(pairs)} masks are missing)", missing)
    return sorted(pairs)


def _meaning(anomaly: Sequence[int], ignore: Sequence[int], normal: Sequence[int]) -> dict[int, int]:
    meaning: dict[int, int] = {}
    for values, label in ((anomaly, ANOMALY), (ignore, IGNORE), (normal, NORMAL)):
        for value in values:
            if meaning.setdefault(int(value), label) != label:
                raise ConfigError(
                    f"the mask value {value} is named twice: "
                    "it can be in one of --anomaly_values, --ignore_values, --normal_values"
                )
    if ANOMALY not in meaning.values():
        raise ConfigError("anomaly_values is empty: name the mask values that mean an anomaly")
    return meaning


def _listed(meaning: dict[int, int], label: int) -> str:
    return ",".join(str(value) for value, meant in sorted(meaning.items()) if meant == label) or "none"


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: give the folder with the files themselves")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in IMAGE_SUFFIXES or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(f"{found[path.stem]} and {path} have the same stem: keep one of them")
        found[path.stem] = path
    if not found:
        raise DataError(f"{folder} holds no image ({' '.join(IMAGE_SUFFIXES)})")
    return found
