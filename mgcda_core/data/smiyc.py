"""SegmentMeIfYouCan's two tracks (Chan et al., NeurIPS 2021): masks 0 normal, 1 anomaly, 255 ignored.

Published layout: dataset_AnomalyTrack/ and dataset_ObstacleTrack/, each images/NAME.{jpg,webp} beside
labels_masks/NAME_labels_semantic.png. Only the frames named validation* have public labels.
"""

from __future__ import annotations

from pathlib import Path

from mgcda_core.data.folder import LabelledPairs, existing_pairs
from mgcda_core.data.sample import IMAGE_SUFFIXES

OBSTACLE_EXCLUDED = tuple(f"validation_{number}" for number in (19, *range(21, 30)))
"""Beginnings of the frames that the benchmark's own code leaves out of its obstacle validation set."""


def load_smiyc_anomaly(root: Path) -> LabelledPairs:
    """The 10 validation frames of the anomaly track; `root` holds dataset_AnomalyTrack/ or is it. Raises DataError."""
    return _validation(root, "dataset_AnomalyTrack", "smiyc-anomaly", ())


def load_smiyc_obstacle(root: Path) -> LabelledPairs:
    """The 30 validation frames of the obstacle track, 0 road; `root` holds dataset_ObstacleTrack/ or is it.

    Raises DataError where the layout is another or a label is missing.
    """
    return _validation(root, "dataset_ObstacleTrack", "smiyc-obstacle", OBSTACLE_EXCLUDED)


def _validation(root: Path, folder: str, name: str, excluded: tuple[str, ...]) -> LabelledPairs:
    root = root / folder if (root / folder).is_dir() else root
    images = [
        path
        for path in (root / "images").glob("validation*")
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(excluded)
    ]
    pairs = [(image, root / "labels_masks" / f"{image.stem}_labels_semantic.png") for image in images]
    return LabelledPairs(name, existing_pairs(pairs, root / "images"))
