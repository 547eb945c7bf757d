"""SYNTHIA-RAND-CITYSCAPES (Ros et al., CVPR 2016): 9400 frames of a virtual city.

Published layout: RGB/0000000.png ... beside GT/LABELS/ of the same names, 16-bit PNG files of three channels: the class
in the first (red), the instance in the second.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mgcda_core.data.sample import DataError, Scenes, pair_by_stem, read_pixels

# Parking slot, road work and lane marking are none of Cityscapes' classes, as in the published comparisons of SYNTHIA.
CLASSES: tuple[tuple[int, ...], ...] = (
    (), (10,), (2,), (0,), (1,), (4,), (8,), (5,), (13,), (7,), (11,), (18,), (17,), (), (), (6,), (9,), (12,), (14,),
    (15,), (16,), (3,), (),
)  # fmt: skip


@dataclass(frozen=True)
class SynthiaScenes(Scenes):
    """Scenes whose labels are 16-bit pictures."""

    def read_label(self, path: Path) -> np.ndarray:
        """Label file -> class numbers uint8 [H, W]; DataError unless it is 16 bit with channels, the first below 256.

        OpenCV gives the channels in reverse, so the class is in the last.
        """
        pixels = read_pixels(path, cv2.IMREAD_UNCHANGED)
        if pixels.ndim != 3 or pixels.dtype != np.uint16:
            raise DataError(f"{path} has shape {pixels.shape} and type {pixels.dtype}: a SYNTHIA label is 16 bit and "
                            "has the class in its first channel")  # fmt: skip
        classes = pixels[..., 2]
        if classes.max() > 255:
            raise DataError(f"{path} holds the class {classes.max()}; SYNTHIA's are 0..{len(CLASSES) - 1}")
        return classes.astype(np.uint8)


def load_synthia(root: Path) -> SynthiaScenes:
    """All scenes under `root`, the folder RAND_CITYSCAPES; raises DataError where the layout is not the one above."""
    return SynthiaScenes("synthia", pair_by_stem(root / "RGB", root / "GT" / "LABELS"), CLASSES)
