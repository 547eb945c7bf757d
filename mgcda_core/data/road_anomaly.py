"""RoadAnomaly (Lis et al., ICCV 2019): 60 web photographs, no ignored pixels.

Published layout: frames/NAME.jpg beside frames/NAME.labels/labels_semantic.png, where 2 is the anomaly.
"""

from __future__ import annotations

from pathlib import Path

from mgcda_core.data.folder import LabelledPairs, existing_pairs
from mgcda_core.data.sample import IMAGE_SUFFIXES


def load_road_anomaly(root: Path) -> LabelledPairs:
    """All frames under `root`; raises DataError where the layout is another or a label is missing."""
    frames = root / "frames"
    images = [p for p in frames.glob("*.*") if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES]
    pairs = [(image, frames / f"{image.stem}.labels" / "labels_semantic.png") for image in images]
    return LabelledPairs("road-anomaly", existing_pairs(pairs, frames), (2,), (), (0, 1))
