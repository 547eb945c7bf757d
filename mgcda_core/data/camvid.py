"""CamVid in the 11-class SegNet form: {train,val,test}/{images,labels}, label 11 void (Brostow et al., 2009)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mgcda_core.data.sample import Scenes, pair_by_stem
from mgcda_core.labels import CAMVID_TRAIN_IDS

VOID = 11


def load_camvid(root: Path, split: Literal["train", "val", "test"]) -> Scenes:
    """The scenes of one split under `root`; raises DataError where the layout is not the one above."""
    folder = root / split
    return Scenes("camvid", pair_by_stem(folder / "images", folder / "labels"), CAMVID_TRAIN_IDS, (VOID,))
