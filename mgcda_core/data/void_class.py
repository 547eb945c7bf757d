"""VoidClass, training domain V: what the labelling calls void, or a swapped instance, is the anomaly (spec 3.1, 3.2).

Label rule: 1 on the selected regions; 255 on the rest of the void; 0 elsewhere (MGCDA, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from mgcda_core.config import VoidClassConfig
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL

REFERENCE_AREA = 1024 * 2048
"""Pixels of a Cityscapes frame, for which `min_area` is given."""

SWAP_IDS = (*[7] * 3, 8, 11, 12, 13, 20, 21, 22, *[24] * 3, 25, *[26] * 7, 27, 28, 32, 33)
"""Cityscapes label ids a swapped instance may take, each as often as it stands here: the multiset in force in
SynBoost's code."""


def label_regions(
    raw: np.ndarray, void_values: Sequence[int], config: VoidClassConfig, rng: np.random.Generator, ignored: np.ndarray
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Make anomalies of the connected void regions of one scene.

    Args:
        raw: uint8 [H, W], the values as stored in the label file.
        void_values: the values whose 8-connected regions may be anomalies (Cityscapes: `config.cityscapes_ids`).
        ignored: bool [H, W], pixels without a train id.
    Returns: label uint8 [H, W] in {0, 1, 255}; the regions labelled 1, each {area: pixels, box: [top, left, height,
        width]}, by their first pixel in reading order.
    """
    candidates = np.isin(raw, void_values)
    _, components, stats, _ = cv2.connectedComponentsWithStats(candidates.astype(np.uint8), connectivity=8)
    least = config.min_area * raw.size / REFERENCE_AREA
    kept = (stats[:, cv2.CC_STAT_AREA] >= least) & (rng.random(len(stats)) < config.keep_prob)
    kept[0] = False  # component 0 is all that is no candidate
    label = np.where(ignored | candidates, IGNORE, NORMAL).astype(np.uint8)
    label[kept[components.astype(np.int32)]] = ANOMALY
    regions = [
        {"area": area, "box": [top, left, height, width]}
        for left, top, width, height, area in stats[kept].tolist()
    ]  # fmt: skip
    return label, regions


def swap_instances(
    label_ids: np.ndarray, instances: np.ndarray, ignored: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Give random instances of one scene another class and call them anomalies (SynBoost, after Lis et al., ICCV 2019).

    floor(u * |U|) of the |U| instances are swapped, u uniform in [0, 1): never all; none is an honest negative.

    Args:
        label_ids: uint8 [H, W] Cityscapes label ids; instances: int32 [H, W], label id * 1000 + number on an instance.
        ignored: bool [H, W], pixels without a train id.
    Returns: swapped label ids uint8 [H, W]; label uint8 [H, W] in {0, 1, 255}; one {area, box, instance, label_id (the
        new one)} per swap, in the order drawn.
    """
    swapped = label_ids.copy()
    label = np.where(ignored, IGNORE, NORMAL).astype(np.uint8)
    found = np.unique(instances[(instances >= 10_000) & (instances < 100_000)])
    regions = []
    for instance in rng.permutation(found)[: int(rng.random() * len(found))].tolist():
        own = new = instance // 1000
        while new == own:
            new = SWAP_IDS[rng.integers(len(SWAP_IDS))]
        mask = instances == instance
        swapped[mask], label[mask] = new, ANOMALY
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        box = [top, left, height, width]
        regions.append({"area": int(mask.sum()), "box": box, "instance": instance, "label_id": new})
    return swapped, label, regions
