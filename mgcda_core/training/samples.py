"""Endless training samples: sample n is a function of (seed, n) alone, whatever process makes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mgcda_core.config import AnomalyMixConfig, AugmentConfig
from mgcda_core.data import anomaly_mix, augment
from mgcda_core.data.cutouts import Cutout
from mgcda_core.data.sample import Scene


class SceneSamples(Dataset[tuple[Tensor, Tensor]]):
    """Augmented road scenes: (image uint8 [3, H, W], train ids int64 [H, W], 255 ignore).

    A set of n scenes is drawn with a chance in proportion to the square root of n, so that small sets count.
    """

    def __init__(self, sets: Sequence[Sequence[Scene]], config: AugmentConfig, seed: int) -> None:
        self.sets, self.config, self.seed = sets, config, seed
        shares = np.sqrt([len(s) for s in sets])
        self.shares = shares / shares.sum()

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, number))
        scene = self.draw(rng)
        image, label = augment.crop(scene.image, scene.label, self.config, rng)
        image, label = augment.resize(image, label, self.config.size)
        return _tensors(augment.photometric(image, self.config, rng), label)

    def draw(self, rng: np.random.Generator) -> Scene:
        """One scene at random."""
        scenes = self.sets[rng.choice(len(self.sets), p=self.shares)]
        return scenes[int(rng.integers(len(scenes)))]


class CompositeSamples(SceneSamples):
    """AnomalyMix composites: (image uint8 [3, H, W], label int64 [H, W] in {0, 1, 255})."""

    def __init__(
        self,
        sets: Sequence[Sequence[Scene]],
        objects: Sequence[Cutout],
        config: AugmentConfig,
        mix: AnomalyMixConfig,
        seed: int,
    ) -> None:
        super().__init__(sets, config, seed)
        self.objects, self.mix = objects, mix

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, number))
        scene = self.draw(rng)
        # Pasted before resizing, at the scene's own resolution: an object sharper than its scene would be a clue.
        image, train_ids = augment.crop(scene.image, scene.label, self.config, rng)
        count = rng.integers(self.mix.objects[0], self.mix.objects[1] + 1)
        anomalies = [self.objects[i].rgba for i in rng.integers(len(self.objects), size=count)]
        image, label = anomaly_mix.mix(image, train_ids, anomalies, self._known(rng), self.mix, rng)
        image, label = augment.resize(image, label, self.config.size)
        return _tensors(augment.photometric(image, self.config, rng), label)

    def _known(self, rng: np.random.Generator) -> list[np.ndarray]:
        if rng.random() >= self.mix.known:
            return []
        other = self.draw(rng)
        found = anomaly_mix.known_objects(other.image, other.label)
        return [found[i] for i in rng.permutation(len(found))[:2]]


def _tensors(image: np.ndarray, label: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(label).long()
