"""Training samples of the cached domains: equal numbers of V and A in every batch, jointly cropped and mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from mgcda_core.config import ConfigError
from mgcda_core.training.cache import MAPS, CachedDomain
from mgcda_core.training.loop import Samples


class DomainSamples(Samples):
    """Sample n is of domain n modulo their number, so that every even stretch of numbers is balanced.

    A domain is gone through scene by scene in an order reshuffled each epoch, showing the epoch's copy of each; the
    smaller domain simply starts its next epoch earlier. Sample n is (image, synthesis uint8 [3, d h, d w], semantic
    uint8 [h, w], prior float16 [3 or 4, h, w], label uint8 [h, w], domain int64, n int64), d the network's `detail`.
    """

    def __init__(self, domains: Sequence[CachedDomain], crop: tuple[int, int] | None, flip: float, seed: int) -> None:
        self.domains, self.crop, self.flip, self.seed = domains, crop, flip, seed
        self._order = lru_cache(maxsize=4 * len(domains))(self._shuffled)
        for domain in domains:
            size = tuple(domain[0]["label"].shape)
            if crop and (crop[0] > size[0] or crop[1] > size[1]):
                raise ConfigError(f"crop is {crop}, larger than the maps {size} of {domain.cache}")

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        domain, index = self.where(number)
        maps = self.domains[domain][index]
        rng = np.random.default_rng((self.seed, 1, number))
        height, width = maps["label"].shape
        rows, columns = self.crop or (height, width)
        top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
        cut = []
        for name in MAPS:
            d = maps[name].shape[-2] // height
            cut.append(maps[name][..., d * top : d * (top + rows), d * left : d * (left + columns)])
        if rng.random() < self.flip:
            cut = [part.flip(-1) for part in cut]
        return *(part.contiguous() for part in cut), torch.tensor(domain), torch.tensor(number)

    def where(self, number: int) -> tuple[int, int]:
        """(domain, index in its cache) of sample `number`."""
        draw, domain = divmod(number, len(self.domains))
        cache = self.domains[domain]
        epoch, position = divmod(draw, len(cache) // cache.copies)
        return domain, int(self._order(domain, epoch)[position]) * cache.copies + epoch % cache.copies

    def name(self, number: int) -> str:
        """Cache and scene of sample `number`."""
        domain, index = self.where(number)
        return self.domains[domain].name(index)

    def _shuffled(self, domain: int, epoch: int) -> np.ndarray:
        cache = self.domains[domain]
        return np.random.default_rng((self.seed, 0, domain, epoch)).permutation(len(cache) // cache.copies)
