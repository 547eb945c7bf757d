"""IDD-Lite, the India Driving Dataset's small form with seven coarse classes (Varma et al., WACV 2019).

Layout: images/{train,val}_*.jpg beside masks/ of the same stems, values 0..6 and 255.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mgcda_core.data.sample import Scenes, pair_by_stem
from mgcda_core.labels import IDD_LITE_TRAIN_IDS, IGNORE


def load_idd_lite(root: Path, split: Literal["train", "val"]) -> Scenes:
    """The scenes of one split under `root`; raises DataError where the layout is not the one above."""
    pairs = pair_by_stem(root / "images", root / "masks", f"{split}_")
    return Scenes("idd-lite", pairs, IDD_LITE_TRAIN_IDS, (IGNORE,))
