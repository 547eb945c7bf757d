"""From the description of a labelled set to its files: one table of all readers of evaluation sets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from mgcda_core.config import ConfigError, EvaluationSet
from mgcda_core.data.bdd_anomaly import load_bdd_anomaly
from mgcda_core.data.fishyscapes import load_fishyscapes_lost_and_found, load_fishyscapes_static
from mgcda_core.data.folder import LabelledFolder, LabelledPairs
from mgcda_core.data.lost_and_found import load_lost_and_found
from mgcda_core.data.road_anomaly import load_road_anomaly
from mgcda_core.data.sample import DataError, check_label, read_label
from mgcda_core.data.smiyc import load_smiyc_anomaly, load_smiyc_obstacle
from mgcda_core.data.streethazards import load_streethazards
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL, TRAIN_NAMES

READERS: dict[str, dict[str, Callable[[Path], LabelledPairs]]] = {
    "fishyscapes_lost_and_found": {"validation": load_fishyscapes_lost_and_found},
    "fishyscapes_static": {
        "validation_v3": load_fishyscapes_static,
        "validation_v2": partial(load_fishyscapes_static, version="v2"),
        "validation_v1": partial(load_fishyscapes_static, version="v1"),
    },
    "road_anomaly": {"all": load_road_anomaly},
    "smiyc_anomaly": {"validation": load_smiyc_anomaly},
    "smiyc_obstacle": {"validation": load_smiyc_obstacle},
    "lost_and_found": {
        "test": partial(load_lost_and_found, split="test"),
        "train": partial(load_lost_and_found, split="train"),
    },
    "streethazards": {"test": load_streethazards},
    "bdd_anomaly": {"all": load_bdd_anomaly},
}
"""Data set -> its splits and their readers; the first split is the one meant by default."""


def open_set(chosen: EvaluationSet) -> LabelledPairs:
    """The pairs of a set: of folder by its folders, else by its reader.

    Raises ConfigError for an unknown dataset or split, DataError for files at fault.
    """
    if chosen.dataset == "folder":
        return LabelledFolder(
            chosen.images, chosen.masks, chosen.anomaly_values, chosen.ignore_values, chosen.normal_values
        )
    split = split_of(chosen)
    if not Path(chosen.root).is_dir():
        raise DataError(f"{chosen.root} is not a folder: root is the folder that holds {chosen.dataset}")
    return READERS[chosen.dataset][split](Path(chosen.root))


def split_of(chosen: EvaluationSet) -> str:
    """The split's name: the given one, or the reader's first; empty for a folder without one.

    Raises ConfigError for an unknown dataset or split.
    """
    if chosen.dataset == "folder":
        return chosen.split
    if chosen.dataset not in READERS:
        raise ConfigError(f"unknown dataset {chosen.dataset}: choose from folder, {', '.join(READERS)}")
    splits = READERS[chosen.dataset]
    if chosen.split and chosen.split not in splits:
        raise ConfigError(f"{chosen.dataset} has no split {chosen.split}: choose from {', '.join(splits)}")
    return chosen.split or next(iter(splits))


def label_values(data: LabelledPairs) -> dict[str, list[int]]:
    """normal, anomaly, ignore -> values of the label files that mean it."""
    names = {"normal": NORMAL, "anomaly": ANOMALY, "ignore": IGNORE}
    return {name: sorted(v for v, meant in data.meaning.items() if meant == label) for name, label in names.items()}


class Semantics:
    """Class labels of a set's images: files of the same stems in one folder, Cityscapes train ids and 255.

    Raises DataError for a missing folder or an image without a class label.
    """

    def __init__(self, folder: str | Path, data: LabelledPairs) -> None:
        self.paths = [Path(folder) / f"{stem}.png" for stem in data.stems]
        if missing := [path for path in self.paths if not path.is_file()]:
            raise DataError(f"{missing[0]} is missing: semantics needs a class label for every image, as STEM.png "
                            f"({len(missing)} of {len(self.paths)} are missing)")  # fmt: skip

    def read(self, index: int, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W] train ids of one image, 255 void; DataError for another size or value."""
        label = read_label(self.paths[index])
        check_label(label, self.paths[index], image, len(TRAIN_NAMES), "train id")
        return label
