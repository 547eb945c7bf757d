"""Score files as the public road-anomaly-benchmark of SegmentMeIfYouCan reads them.

Its layout, below the folder it calls DIR_OUTPUTS: anomaly_p/METHOD/DATASET/FRAME.hdf5, each with one array `value`,
float16 [H, W] at the size of the image, gzip 9; higher is more anomalous, in any range.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from mgcda_core.config import EvaluationSet

FOLDERS = {"smiyc_anomaly": "AnomalyTrack-all", "smiyc_obstacle": "ObstacleTrack-all"}
"""Data set -> its name in the benchmark's file names, which are those of the whole track for every part of it."""
_LOST_AND_FOUND = ("lost_and_found", "fishyscapes_lost_and_found")
_LARGEST = float(np.finfo(np.float16).max)


def score_file(root: Path, method: str, chosen: EvaluationSet, image: Path, stem: str) -> Path:
    """Path of one image's score file below `root`, `stem` its unique name in the set.

    Sets that the benchmark does not know go by their own name.
    """
    folder = FOLDERS.get(chosen.dataset) or file_name(chosen.name)
    if chosen.dataset in _LOST_AND_FOUND:  # Fishyscapes' frames too are stored by the split they come from
        folder = f"LostAndFound-{image.parent.parent.name}"
    return root / "anomaly_p" / method / folder / f"{stem.removesuffix('_leftImg8bit')}.hdf5"


def method_name(weights: str, score: str) -> str:
    """A name the benchmark takes for a folder and in its comma lists: `lite-model`."""
    return file_name(f"{weights.removesuffix('.safetensors')}-{score}")


def file_name(text: str) -> str:
    """The text as a name of one file or folder, never a path."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.")


def write_scores(score: np.ndarray, path: Path) -> None:
    """Write one score map float [H, W]; folders are made. Scores beyond float16 are clipped to its range."""
    import h5py

    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("value", data=np.clip(score, -_LARGEST, _LARGEST).astype(np.float16), compression=9)
