"""Standardized Max Logits (Jung et al., ICCV 2021): a baseline that knows how large each class's logits usually are.

The largest logit is standardised by its mean and variance over the pixels predicted as the same class on normal
images (no labels are needed), wiped off class boundaries from the outside in, and smoothed with a dilated Gaussian
(spec 7). Boundary width and smoothing are in pixels of the network's working size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_PIXELS = 1000
"""A class predicted on fewer pixels of the normal images than this lends its statistics from all classes."""
_RADII = (3, 2, 1, 0)
_SIGMA, _TAPS, _DILATION = 1.0, 7, 6
_RESOLUTION = 1e-6  # of float32 logits: a spread below it is rounding


@dataclass(frozen=True)
class MaxLogitStatistics:
    """The largest logit over the pixels predicted as each class; float64 [C] on the CPU, mergeable over images."""

    count: Tensor
    mean: Tensor
    """0 for a class that was never predicted."""
    squares: Tensor
    """Sum of the squared deviations from the mean."""

    @classmethod
    def of(cls, logits: Tensor) -> MaxLogitStatistics:
        """Statistics of logits [B, C, h, w]. Raises ValueError if they are not finite."""
        highest, predicted = (x.flatten().cpu() for x in logits.float().max(dim=1))
        highest, classes = highest.double(), logits.shape[1]
        if not torch.isfinite(highest).all():
            raise ValueError("the segmentation network's logits are not finite: the weights are damaged")
        count = predicted.bincount(minlength=classes).double()
        mean = predicted.bincount(highest, minlength=classes) / count.clamp(min=1)
        squares = predicted.bincount((highest - mean[predicted]).square(), minlength=classes)
        return cls(count, mean, squares)

    def merged(self, other: MaxLogitStatistics) -> MaxLogitStatistics:
        """Statistics of both sets of pixels (Chan et al., 1979: no difference of large sums)."""
        count = self.count + other.count
        step, share = other.mean - self.mean, other.count / count.clamp(min=1)
        squares = self.squares + other.squares + self.count * share * step.square()
        return MaxLogitStatistics(count, self.mean + share * step, squares)

    def scale(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation to standardise each class with, float32 [C], the latter above 0.

        A class with fewer than LEAST_PIXELS pixels, or without any spread, takes the figures of all pixels together:
        left as it is, its logits would stand on another scale than those around them.
        """
        pixels = self.count.sum()
        mean = (self.count * self.mean).sum() / pixels
        squares = self.squares.sum() + (self.count * (self.mean - mean).square()).sum()
        own, pooled = (self.squares / self.count.clamp(min=1)).sqrt(), (squares / pixels).sqrt()
        pooled = pooled if pooled > _RESOLUTION * (1 + mean.abs()) else torch.ones_like(pooled)
        known = (self.count >= LEAST_PIXELS) & (own > _RESOLUTION * (1 + self.mean.abs()))
        return torch.where(known, self.mean, mean).float(), torch.where(known, own, pooled).float()


def sml(logits: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Minus the standardised, boundary-suppressed and smoothed largest logit: float32 [B, h, w], unbounded.

    logits [B, C, h, w]; mean and deviation [C] of `MaxLogitStatistics.scale`. Higher is more anomalous.
    """
    highest, predicted = logits.float().max(dim=1)
    mean, deviation = mean.to(logits.device), deviation.to(logits.device)
    standardised = (highest - mean[predicted]) / deviation[predicted]
    return -smoothed(suppressed(standardised, predicted))


def boundaries(predicted: Tensor) -> Tensor:
    """bool [B, h, w]: where the 3x3 cross dilation of the class numbers [B, h, w] differs from the full 3x3 erosion."""
    classes = predicted[:, None].float()
    return (_cross(classes) != -F.max_pool2d(-classes, 3, stride=1, padding=1))[:, 0]


def suppressed(score: Tensor, predicted: Tensor) -> Tensor:
    """The score [B, h, w] with the neighbourhood of class boundaries overwritten from outside, step by step.

    In each of four steps a pixel within 3, 2, 1, 0 steps (L1) of a boundary becomes the mean of those pixels in its 3x3
    window that are further away; it stays as it is where there are none.
    """
    edge, score = boundaries(predicted)[:, None].float(), score[:, None]
    for radius in _RADII:
        near = edge
        for _ in range(radius):
            near = _cross(near)
        far = 1 - near
        total, count = (F.avg_pool2d(x, 3, 1, padding=1, divisor_override=1) for x in (score * far, far))
        score = torch.where((near > 0) & (count > 0), total / count.clamp(min=1), score)
    return score[:, 0]


def smoothed(score: Tensor) -> Tensor:
    """Gaussian of 7x7 taps, sigma 1 tap, 6 pixels apart, over [B, h, w]; the border is repeated outwards."""
    taps = torch.tensor([math.exp(-0.5 * ((k - _TAPS // 2) / _SIGMA) ** 2) for k in range(_TAPS)])
    taps = (taps / taps.sum()).to(score.device)
    reach = _DILATION * (_TAPS // 2)
    padded = F.pad(score[:, None], (reach,) * 4, mode="replicate")
    rows = F.conv2d(padded, taps.view(1, 1, 1, -1), dilation=_DILATION)
    return F.conv2d(rows, taps.view(1, 1, -1, 1), dilation=_DILATION)[:, 0]


def _cross(x: Tensor) -> Tensor:
    """Dilation of [B, 1, h, w] by the 3x3 cross."""
    return torch.maximum(
        F.max_pool2d(x, (1, 3), stride=1, padding=(0, 1)), F.max_pool2d(x, (3, 1), stride=1, padding=(1, 0))
    )
