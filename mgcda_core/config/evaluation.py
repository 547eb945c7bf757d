"""Configuration of evaluation: labelled sets, protocols."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mgcda_core.config.chain import ConfigError

Protocol = Literal["fishyscapes", "smiyc", "synboost", "dicnet"]
Fpr95Convention = Literal["first_ge", "nearest", "smiyc"]
ScoreName = Literal[
    "model", "ensemble", "msp", "maxlogit", "entropy", "energy", "sml", "distance", "perceptual", "dicnet"
]  # fmt: skip


@dataclass(frozen=True)
class EvaluationSet:
    """One labelled set, by its folders (dataset folder) or by the name of its reader and its root."""

    name: str
    """Its name in tables."""
    images: str = ""
    """Of folder: folder of images."""
    masks: str = ""
    """Of folder: folder of masks of the same stems."""
    anomaly_values: tuple[int, ...] = (1,)
    """Of folder: mask values that mean anomaly."""
    ignore_values: tuple[int, ...] = (255,)
    """Of folder: mask values that are not counted."""
    normal_values: tuple[int, ...] = (0,)
    """Of folder: mask values that mean normal."""
    semantics: str = ""
    """Of folder: folder of label maps of the same stems, Cityscapes train ids, 255 on anomalies and void: adds mIoU and
    open IoU of the segmentation."""
    dataset: str = "folder"
    """folder, or a reader's name: fishyscapes_lost_and_found, fishyscapes_static, road_anomaly, smiyc_anomaly,
    smiyc_obstacle, lost_and_found, streethazards, bdd_anomaly."""
    root: str = ""
    """Of a reader: folder of the set in its published layout."""
    split: str = ""
    """Of a reader with splits."""

    def __post_init__(self) -> None:
        if self.dataset == "folder":
            if not (self.images and self.masks):
                raise ConfigError(f"set {self.name}: dataset folder needs images and masks")
            if self.root or self.split:
                raise ConfigError(f"set {self.name}: root and split belong to a dataset with a name, not to folder")
        elif not self.root:
            raise ConfigError(f"set {self.name}: dataset {self.dataset} needs root, the folder of the set")
        elif self.images or self.masks:
            raise ConfigError(f"set {self.name}: images and masks belong to dataset folder, not to {self.dataset}")


def whole_numbers(text: str, flag: str) -> tuple[int, ...]:
    """Numbers of a comma list such as `2` or `2,3`; none for an empty text, as a set without ignored pixels needs it.

    Raises ConfigError naming the flag.
    """
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ConfigError(f"{flag} is {text}: give whole numbers with commas between them") from None
