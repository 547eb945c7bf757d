"""Objects to paste: cut out of photographs with their masks, as small RGBA images.

Layout: images/ beside masks/ (same stems). A mask is 0 / 255 = object, or instance ids 1..n when an instances.json
beside the folders gives each instance's class ({stem: {id: {"class": name}}}).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgcda_core.data.sample import DataError, pair_by_stem, read_label, read_rgb

ROAD_CLASSES = frozenset(
    [
        "person",
        "bicycle",
        "car",
        "motorcycle",
        "bus",
        "truck",
        "train",
        "traffic_light",
        "stop_sign",
        "fire_hydrant",
        "parking_meter",
        "bench",
        "tie",
        "potted_plant",
    ]
)
"""COCO classes a driving segmentation network knows, or that belong to any street: never pasted as anomalies."""


@dataclass(frozen=True)
class Cutout:
    """One object."""

    rgba: np.ndarray
    """uint8 [h, w, 4], tight around the object; alpha 0 or 255."""
    name: str
    """Source folder, file and instance, for provenance."""


def load_cutouts(root: Path, *, min_pixels: int = 1000) -> list[Cutout]:
    """Every object under `root` of at least `min_pixels` pixels, road classes left out, in file order.

    Raises DataError naming the file where an image or mask is unreadable, or none is left.
    """
    catalogue = root / "instances.json"
    classes: dict[str, dict[str, dict[str, object]]] = json.loads(catalogue.read_text()) if catalogue.is_file() else {}
    cutouts: list[Cutout] = []
    for image_path, mask_path in pair_by_stem(root / "images", root / "masks"):
        image, mask = read_rgb(image_path), read_label(mask_path)
        if image.shape[:2] != mask.shape:
            raise DataError(f"{mask_path} is {mask.shape}, its image {image.shape[:2]}: they must have the same size")
        for value in np.unique(mask[mask > 0]):
            instance = classes.get(image_path.stem, {}).get(str(value), {})
            if str(instance.get("class", "")).replace(" ", "_") in ROAD_CLASSES:
                continue
            chosen = mask == value
            if chosen.sum() >= min_pixels:
                cutouts.append(Cutout(_tight(image, chosen), f"{root.name}/{image_path.stem}#{value}"))
    if not cutouts:
        raise DataError(f"{root} holds no object of {min_pixels} pixels or more")
    return cutouts


def _tight(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    window = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.dstack([image[window], mask[window].astype(np.uint8) * 255])
