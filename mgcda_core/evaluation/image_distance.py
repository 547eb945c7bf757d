"""How far pictures are from the photographs they imitate, seen by any frozen feature network.

The numbers depend on that network: two of them compare only if it was the same, so it is named beside every figure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Features = Callable[[Tensor], list[Tensor]]
"""RGB float32 [B, 3, h, w] in [0, 1] -> feature maps [B, C, ., .], fine to coarse."""


@dataclass(frozen=True)
class Distance:
    """Two distances of generated pictures from photographs; lower is better, 0 = the same."""

    images: int
    perceptual: float
    """Mean over the pairs of `perceptual_distance`."""
    frechet: float
    """`frechet_distance` of the coarsest level's spatial means: FID's formula on this network's features. It is biased
    upwards for few images; compare figures of the same images only."""


class ImageDistance:
    """Collects pairs of pictures and photographs batch by batch."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self.pairs: list[Tensor] = []
        self.pooled: tuple[list[Tensor], list[Tensor]] = ([], [])

    @torch.no_grad()
    def add(self, generated: Tensor, real: Tensor) -> None:
        """A batch of pairs, RGB float32 [B, 3, h, w] in [0, 1]."""
        ours, theirs = self.features(generated), self.features(real)
        self.pairs.append(perceptual_distance(ours, theirs).cpu())
        for collected, levels in zip(self.pooled, (ours, theirs), strict=True):
            collected.append(levels[-1].double().mean((2, 3)).cpu())

    def result(self) -> Distance:
        """The distances so far. Raises ValueError with fewer than two pairs, which have no covariance."""
        count = sum(map(len, self.pairs))
        if count < 2:
            raise ValueError(f"{count} pairs of images: the Fréchet distance needs two at least")
        ours, theirs = (torch.cat(collected).numpy() for collected in self.pooled)
        frechet = frechet_distance(ours.mean(0), np.cov(ours.T), theirs.mean(0), np.cov(theirs.T))
        return Distance(count, float(torch.cat(self.pairs).mean()), frechet)


def perceptual_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """LPIPS without its learned weights: feature maps of B pairs [B, C, ., .] a level -> float32 [B] >= 0.

    Every position's features are brought to unit length; the squared differences are summed over channels, averaged
    over positions and summed over levels. Source: Zhang et al., CVPR 2018, eq. 1 with w = 1.
    """
    total = torch.zeros(len(ours[0]), device=ours[0].device)
    for a, b in zip(ours, theirs, strict=True):
        total += (_unit_length(a) - _unit_length(b)).square().sum(1).mean((1, 2))
    return total


def frechet_distance(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """Squared Fréchet distance of two Gaussians: |m_a - m_b|^2 + Tr(A + B - 2 (A B)^(1/2)), at least 0.

    Means [n], covariances [n, n]. Tr (A B)^(1/2) is that of (A^(1/2) B A^(1/2))^(1/2), which is symmetric, so that
    singular covariances (fewer images than features) need no offset. Source: Heusel et al., NeurIPS 2017.
    """
    cov_a, cov_b = np.atleast_2d(cov_a).astype(np.float64), np.atleast_2d(cov_b).astype(np.float64)
    values, vectors = np.linalg.eigh(cov_a)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ cov_b @ root).clip(min=0)).sum()
    distance = np.square(mean_a - mean_b).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * cross
    return float(max(distance, 0.0))


def _unit_length(x: Tensor) -> Tensor:
    return x.float() / (x.float().square().sum(1, keepdim=True) + 1e-10).sqrt()
