"""Synthetic-unknown, training domain U: which part of a scene is to become unknown (spec 7, seed 002).

Reconstruction of Lu et al., arXiv 2111.14343. How it becomes unknown is mgcda_core.methods.synthetic_unknown's.
"""

from __future__ import annotations

import cv2
import numpy as np

from mgcda_core.config import SyntheticUnknownConfig
from mgcda_core.data.void_class import REFERENCE_AREA
from mgcda_core.labels import IGNORE


def draw_region(label: np.ndarray, config: SyntheticUnknownConfig, rng: np.random.Generator) -> np.ndarray:
    """bool [H, W]: all pixels of one class at random, or one 8-connected part of them; none if no class has one.

    label: uint8 [H, W], any numbers of classes, 255 void. The region has `min_area` pixels (of a 1024x2048 image) to
    `max_share` of the image.
    """
    least, most = config.min_area * label.size / REFERENCE_AREA, config.max_share * label.size
    for value in rng.permutation(np.unique(label[label != IGNORE])):
        segment = (label == value).astype(np.uint8)
        _, parts, stats, _ = cv2.connectedComponentsWithStats(segment, connectivity=8)
        areas = stats[1:, cv2.CC_STAT_AREA]  # component 0 is the rest of the image
        fitting = 1 + np.flatnonzero((areas >= least) & (areas <= most))
        if least <= areas.sum() <= most and (not len(fitting) or rng.random() < config.whole):
            return parts > 0
        if len(fitting):
            return parts == rng.choice(fitting)
    return np.zeros(label.shape, bool)
