"""Lost and Found (Pinggera et al., IROS 2016): small obstacles on the road, labelled on the road only.

Published layout: leftImg8bit/{train,test}/SCENE/*_leftImg8bit.png beside gtCoarse/{train,test}/SCENE/
*_gtCoarse_labelIds.png, where 0 is ignored, 1 free road and 2..200 obstacles. Some frames hold no label but 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from mgcda_core.data.folder import LabelledPairs, existing_pairs
from mgcda_core.data.sample import IMAGE_SUFFIXES


def load_lost_and_found(root: Path, split: Literal["train", "test"]) -> LabelledPairs:
    """All frames of one split under `root`; raises DataError where the layout is another or a label is missing."""
    images, labels = root / "leftImg8bit" / split, root / "gtCoarse" / split
    pairs = [
        (path, labels / path.parent.name / f"{path.stem.removesuffix('_leftImg8bit')}_gtCoarse_labelIds.png")
        for path in images.glob("*/*_leftImg8bit.*")
        if path.suffix.lower() in IMAGE_SUFFIXES
    ]
    return LabelledPairs("lost-and-found", existing_pairs(pairs, images), range(2, 201), (0,), (1,))
