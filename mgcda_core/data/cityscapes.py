"""Cityscapes frames whose labels are train ids already.

Layout: images/ beside masks/ of the same stems (Cordts et al., CVPR 2016).
"""

from __future__ import annotations

from pathlib import Path

from mgcda_core.data.sample import Scenes, pair_by_stem


def load_cityscapes_train_ids(root: Path) -> Scenes:
    """All scenes under `root`; raises DataError where the layout is not the one above."""
    return Scenes("cityscapes", pair_by_stem(root / "images", root / "masks"), tuple((i,) for i in range(19)))
