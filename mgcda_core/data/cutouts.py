"""Objects to paste: cut out of photographs with their masks, as small RGBA images.

Layout: images/ beside masks/ (same stems). A mask is 0 / 255 = object, or instance ids 1..n when an instances.json
beside the folders gives each instance's class ({stem: {id: {"class": name}}}).
"""

from __future__ import annotations

import json
from collections.abc import Callable
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


class Cutout:
    """One object; its pixels are held, or read from its picture each time they are asked for.

    `name` is unique: folder, file and instance. `picture` is the folder and stem of the source photograph, in which
    the object's window begins at row `top` and column `left`; `category` is the object's class, "" if unknown.
    """

    def __init__(
        self,
        rgba: np.ndarray | Callable[[], np.ndarray],
        name: str,
        picture: str = "",
        top: int = 0,
        left: int = 0,
        category: str = "",
    ) -> None:
        self._rgba = rgba
        self.name, self.picture, self.top, self.left, self.category = name, picture, top, left, category

    @property
    def rgba(self) -> np.ndarray:
        """uint8 [h, w, 4] RGB and alpha (0 or 255), tight around the object; DataError if the picture is unreadable."""
        return self._rgba if isinstance(self._rgba, np.ndarray) else self._rgba()


def load_cutouts(root: Path, *, min_pixels: int = 1000) -> list[Cutout]:
    """Every object under `root` of at least `min_pixels` pixels, road classes left out, in file order.

    Raises DataError naming every image or mask that is unreadable, or the folder if no object is left.
    """
    catalogue = root / "instances.json"
    classes: dict[str, dict[str, dict[str, object]]] = json.loads(catalogue.read_text()) if catalogue.is_file() else {}
    cutouts: list[Cutout] = []
    problems: list[str] = []
    for image, mask in pair_by_stem(root / "images", root / "masks"):
        try:
            cutouts += _objects(image, mask, classes.get(image.stem, {}), min_pixels)
        except DataError as error:
            problems.append(str(error))
    return found_objects(root, cutouts, problems)


def found_objects(root: Path, cutouts: list[Cutout], problems: list[str]) -> list[Cutout]:
    """The cut-outs; DataError with all problems if there are any, or if there is no cut-out."""
    if problems:
        more = f" ({len(problems)} files are at fault)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more, problems)
    if not cutouts:
        raise DataError(f"{root} holds no object that is large enough and of no road class")
    return cutouts


def _objects(image_path: Path, mask_path: Path, classes: dict[str, dict[str, object]], min_pixels: int) -> list[Cutout]:
    image, mask = read_rgb(image_path), read_label(mask_path)
    if image.shape[:2] != mask.shape:
        raise DataError(f"{mask_path} is {mask.shape}, its image {image.shape[:2]}: they must have the same size")
    picture = f"{image_path.parent.parent.name}/{image_path.stem}"
    cutouts = []
    for value in np.unique(mask[mask > 0]):
        category = str(classes.get(str(value), {}).get("class", "")).replace(" ", "_")
        chosen = mask == value
        if category not in ROAD_CLASSES and chosen.sum() >= min_pixels:
            top, left, height, width = tight_window(chosen)
            window = np.s_[top : top + height, left : left + width]
            rgba = with_alpha(image[window], chosen[window])
            cutouts.append(Cutout(rgba, f"{picture}#{value}", picture, top, left, category))
    return cutouts


def tight_window(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of the pixels that are set in a bool [H, W] mask with at least one."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1] - rows[0] + 1), int(columns[-1] - columns[0] + 1)


def with_alpha(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """RGB uint8 [h, w, 3] and bool [h, w] -> RGBA uint8 [h, w, 4], alpha 255 where the mask is set."""
    return np.dstack([image, mask.astype(np.uint8) * 255])
