"""Fishyscapes' public validation sets (Blum et al., IJCV 2021): masks 0 normal, 1 anomaly, 255 ignored.

Only masks and overlays are published, as NNNN_ID_labels.png and NNNN*rgb.npz; the photographs come from Lost and Found
and from Cityscapes. Layout here: each archive unpacked in a folder of its name, leftImg8bit/ of the photographs beside
it (a link will do).
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

import numpy as np

from mgcda_core.data.folder import LabelledPairs, existing_pairs
from mgcda_core.data.sample import IMAGE_SUFFIXES, DataError, read_rgb


def load_fishyscapes_lost_and_found(root: Path) -> LabelledPairs:
    """Lost and Found frames: root/fishyscapes_lostandfound/*_labels.png, root/leftImg8bit/{train,test}/SCENE/*.

    100 frames as published. Raises DataError where the layout is another or a photograph is missing.
    """
    return LabelledPairs(
        "fishyscapes-lost-and-found", _pairs(root / "fishyscapes_lostandfound", root / "leftImg8bit", "*")
    )


def load_fishyscapes_static(root: Path, version: Literal["v1", "v2", "v3"] = "v3") -> FishyscapesStatic:
    """Cityscapes frames with pasted objects: root/fs_val_v3/*, root/leftImg8bit/val/CITY/*.

    Raises DataError where the layout is another, or a photograph or overlay is missing.
    """
    return FishyscapesStatic("fishyscapes-static", _pairs(root / f"fs_val_{version}", root / "leftImg8bit", "val"))


class FishyscapesStatic(LabelledPairs):
    """Photograph plus overlay: the pasted objects are published as a signed difference to the Cityscapes frame."""

    def read_image(self, index: int) -> np.ndarray:
        """Image of one pair, overlay added and clipped: uint8 [H, W, 3] RGB; DataError names a bad overlay."""
        image_path, mask_path = self.pairs[index]
        number = mask_path.name.split("_")[0]
        overlays = sorted(mask_path.parent.glob(f"{number}*rgb.npz"))
        if not overlays:
            raise DataError(f"{mask_path} has no overlay {number}*rgb.npz beside it: unpack the archive again")
        image, overlay = read_rgb(image_path), _read_overlay(overlays[0])
        if overlay.shape != image.shape:
            raise DataError(f"{overlays[0]} is {overlay.shape}, its photograph {image_path} {image.shape}")
        return np.clip(image + overlay.astype(np.int32), 0, 255).astype(np.uint8)


def _read_overlay(path: Path) -> np.ndarray:
    """Whole numbers [H, W, 3]."""
    try:
        with np.load(path, allow_pickle=False) as file:
            overlay = file["rgb"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no overlay with an array 'rgb': unpack the archive again") from error
    if overlay.dtype.kind not in "iu":
        raise DataError(f"{path} holds {overlay.dtype} values: an overlay holds whole numbers")
    return overlay


def _pairs(masks: Path, photographs: Path, split: str) -> list[tuple[Path, Path]]:
    found = {
        path.stem.removesuffix("_leftImg8bit"): path
        for path in photographs.glob(f"{split}/*/*_leftImg8bit.*")
        if path.suffix.lower() in IMAGE_SUFFIXES
    }
    frames = {
        mask: mask.name.removesuffix("_labels.png").split("_", 1)[1] for mask in masks.glob("[0-9]*_*_labels.png")
    }
    missing = [
        f"{mask} has no photograph {frame}_leftImg8bit.* below {photographs / split}"
        for mask, frame in sorted(frames.items())
        if frame not in found
    ]
    if missing:
        raise DataError(f"{missing[0]} ({len(missing)} of {len(frames)} have none)", missing)
    pairs = existing_pairs([(found[frame], mask) for mask, frame in frames.items()], masks)
    return sorted(pairs, key=lambda pair: pair[1].name)  # numbered as published
