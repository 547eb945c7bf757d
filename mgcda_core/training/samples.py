"""Endless training samples: sample n is a function of (seed, n) alone, whatever process makes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from mgcda_core.config import AugmentConfig
from mgcda_core.data import augment
from mgcda_core.data.sample import Scene
from mgcda_core.training.loop import Samples


class SceneSet(Protocol):
    """Scenes by number: a list of them, or a set that reads them when asked."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Scene: ...


Change = Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""Image uint8 [H, W, 3] and label uint8 [H, W] of a crop -> both with something pasted in."""


class SceneSamples(Samples):
    """Augmented road scenes: (image uint8 [3, H, W], label int64 [H, W], the scenes' own values, 255 ignore).

    A set of n scenes is drawn with a chance in proportion to the square root of n, so that small sets count. `change`
    sees the crop at the scene's own resolution, before it is resized.
    """

    def __init__(
        self, sets: Sequence[SceneSet], config: AugmentConfig, seed: int, change: Change | None = None
    ) -> None:
        self.sets, self.config, self.seed, self.change = sets, config, seed, change
        shares = np.sqrt([len(s) for s in sets])
        self.shares = shares / shares.sum()

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((self.seed, number))
        scene = self.draw(rng)
        image, label = augment.crop(scene.image, scene.label, self.config, rng)
        if self.change is not None:
            image, label = self.change(image, label, rng)
        image, label = augment.resize(image, label, self.config.size)
        image = augment.photometric(image, self.config, rng)
        return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.from_numpy(label).long()

    def draw(self, rng: np.random.Generator) -> Scene:
        """One scene at random."""
        scenes = self.sets[rng.choice(len(self.sets), p=self.shares)]
        return scenes[int(rng.integers(len(scenes)))]

    def name(self, number: int) -> str:
        """The scene sample n is cut from."""
        return self.draw(np.random.default_rng((self.seed, number))).name
