"""Outlier exposure of a segmentation network: objects of no class pasted into its training scenes.

Source: Hendrycks, Mazeika, Dietterich, Deep Anomaly Detection with Outlier Exposure, ICLR 2019; for segmentation Chan,
Rottmann, Gottschalk, Entropy Maximization and Meta Classification, ICCV 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from mgcda_core.config import AnomalyMixConfig
from mgcda_core.data.anomaly_mix import KNOWN_OBJECTS, compose, known_objects
from mgcda_core.data.cutouts import Cutout
from mgcda_core.labels import ANOMALY
from mgcda_core.training.samples import SceneSet

OUTLIER = 254
"""Label of a pixel that has no class; 255, unlike it, is one that is not known."""


class Outliers:
    """Pastes objects into a crop, and by chance people and vehicles of another scene, so that an edge is no clue."""

    def __init__(
        self, sets: Sequence[SceneSet], objects: Sequence[Cutout], config: AnomalyMixConfig, known_row: int
    ) -> None:
        """sets: scenes with train ids; known_row: the label of a pasted person or vehicle, which may be any of them."""
        self.sets, self.objects, self.config, self.known_row = sets, objects, config, known_row

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3] and label uint8 [H, W] with the pastes: OUTLIER, or `known_row`."""
        made = compose(image, label, self.objects, self._known(rng), self.config, rng)
        pasted = np.where(made.label == ANOMALY, OUTLIER, self.known_row)
        return made.image, np.where(made.pasted, pasted, label).astype(np.uint8)

    def _known(self, rng: np.random.Generator) -> list[Cutout]:
        if rng.random() >= self.config.known:
            return []
        scenes = self.sets[int(rng.integers(len(self.sets)))]
        scene = scenes[int(rng.integers(len(scenes)))]
        found = known_objects(scene.image, scene.label, scene.name)
        return [found[i] for i in rng.permutation(len(found))[:2]]


def known_row(table: np.ndarray) -> np.ndarray:
    """bool [1, 19]: people and vehicles, as one more row of `label_sets`."""
    row = np.zeros_like(table[:1])
    row[0, list(KNOWN_OBJECTS)] = True
    return row


def flatness(logits: Tensor) -> Tensor:
    """KL divergence of the softmax from the uniform distribution, KL(u || p), float32 [n] >= 0, of logits [n, C].

    Up to a constant the cross entropy to equal probabilities (Chan et al., eq. 3).
    """
    logits = logits.float()
    return torch.logsumexp(logits, 1) - logits.mean(1) - math.log(logits.shape[1])
