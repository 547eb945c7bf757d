"""What the frozen networks are unsure about: softmax entropy, softmax distance, perceptual difference (spec 1.4, 1.6).

Two scalings. `fixed` divides by what the map can reach at most, so a clean road stays low. `reference` is SynBoost's:
extrema of the image itself and 8-bit steps, which its published weights were trained on.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.models.resize import truncate_8bit

Scaling = Literal["fixed", "reference"]

_LEVEL_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)  # fine to coarse: the deepest level counts most (spec 1.6)


def softmax_entropy(logits: Tensor, scaling: Scaling = "fixed") -> Tensor:
    """Entropy of the softmax: logits [B, C, h, w] -> float32 [B, 1, h, w] in [0, 1], high = unsure.

    `fixed`: entropy / ln C. `reference`: `reference_entropy` truncated to 8-bit steps. Finite for every finite logit.
    """
    return uncertainty_maps(logits, scaling)[0]


def softmax_distance(logits: Tensor, scaling: Scaling = "fixed") -> Tensor:
    """Closeness of the two likeliest classes: logits [B, C, h, w] -> float32 [B, 1, h, w] in [0, 1], high = unsure.

    `fixed`: 1 - (p1 - p2). `reference`: `reference_distance` truncated to 8-bit steps.
    """
    return uncertainty_maps(logits, scaling)[1]


def uncertainty_maps(logits: Tensor, scaling: Scaling = "fixed") -> tuple[Tensor, Tensor]:
    """`softmax_entropy` and `softmax_distance` of the same logits, with one softmax for both."""
    entropy, margin = entropy_and_margin(logits)
    if scaling == "fixed":
        return (entropy / math.log(logits.shape[1])).clamp(max=1), 1 - margin
    return truncate_8bit(reference_entropy(entropy)), truncate_8bit(reference_distance(margin))


def entropy_and_margin(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy in nats and p1 - p2, float32 [B, 1, h, w].

    With z the logits below their maximum and s the sum of exp z, the entropy is log s - sum(z exp z) / s: where p
    underflows to 0 the original has 0 * -inf = NaN and loses the map (spec 1.4). Written out, since a log-softmax over
    channels makes ONNX Runtime transpose the logits twice. The runner-up by masking the maximum, since a top-2 over
    channels is many times slower on every backend.
    """
    z = logits.float()
    z = z - z.amax(1, keepdim=True)
    e = z.exp()
    s = e.sum(1, keepdim=True)
    entropy = s.log() - (z * e).sum(1, keepdim=True) / s
    is_best = z == 0
    second = torch.where(is_best, 0.0, e).amax(1, keepdim=True)
    tied = is_best.float().sum(1, keepdim=True) > 1.5
    margin = torch.where(tied, 0.0, 1 - second) / s
    return entropy.clamp(min=0), margin


def reference_entropy(entropy: Tensor) -> Tensor:
    """SynBoost's scaling of an entropy map [B, 1, h, w] in nats: (e - min e) / max e per sample, 0 where max e is 0.

    Not a min-max: the range is [0, 1 - min / max] (spec 1.4).
    """
    low, high = entropy.amin((2, 3), keepdim=True), entropy.amax((2, 3), keepdim=True)
    return _guarded(entropy - low, high)


def reference_distance(margin: Tensor) -> Tensor:
    """SynBoost's scaling of p1 - p2, [B, 1, h, w]: 1 - (r - min r) / max r per sample, 1 where max r is 0."""
    low, high = margin.amin((2, 3), keepdim=True), margin.amax((2, 3), keepdim=True)
    return 1 - _guarded(margin - low, high)


def minmax(raw: Tensor) -> Tensor:
    """(x - min) / (max - min) of each sample of [B, 1, h, w], in [0, 1]; zeros where a map is constant."""
    low, high = raw.amin((2, 3), keepdim=True), raw.amax((2, 3), keepdim=True)
    return _guarded(raw - low, high - low)


def minmax_8bit(raw: Tensor) -> Tensor:
    """`minmax` truncated to 8-bit steps, as SynBoost stores the perceptual difference (spec 1.6)."""
    return truncate_8bit(minmax(raw.float()))


class PerceptualDifference(nn.Module):
    """Mean absolute difference of VGG19 features, summed over five levels (spec 1.6)."""

    def __init__(self, vgg19: nn.Module) -> None:
        super().__init__()
        self.vgg19 = vgg19

    def forward(self, image: Tensor, synthesis: Tensor) -> Tensor:
        """Two ImageNet-normalised [B, 3, h, w] -> float32 [B, 1, h, w] >= 0 up to bicubic overshoot, unscaled."""
        features = self.vgg19(torch.cat([image, synthesis]))
        total = None
        for feature, weight in zip(features, _LEVEL_WEIGHTS, strict=True):
            a, b = feature.float().unflatten(0, (2, -1)).unbind()
            level = (a - b).abs().mean(1, keepdim=True)
            if level.shape[-2:] != image.shape[-2:]:
                level = F.interpolate(level, image.shape[-2:], mode="bicubic", align_corners=False)
            total = level * weight if total is None else total + level * weight
        assert total is not None
        return total


def cosine_difference(features_a: list[Tensor], features_b: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Perceptual difference that needs no extrema of the image: float32 [B, 1, *size] in [0, 1].

    Mean over the levels of 1 - cosine similarity over channels, each level brought to `size` bilinearly. Features
    that point away from each other count as 1; two zero vectors as 0. Source: the channel normalisation of LPIPS
    (Zhang et al., CVPR 2018), without its learned weights.
    """
    levels = []
    for a, b in zip(features_a, features_b, strict=True):
        level = _one_minus_cosine(a.float(), b.float())
        levels.append(F.interpolate(level, size, mode="bilinear", align_corners=False))
    return torch.stack(levels).mean(0)


def _one_minus_cosine(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    squared = (a.square().sum(1, keepdim=True) + eps) * (b.square().sum(1, keepdim=True) + eps)
    similarity = ((a * b).sum(1, keepdim=True) + eps) * torch.rsqrt(squared)
    return (1 - similarity).clamp(0, 1)


def _guarded(numerator: Tensor, denominator: Tensor) -> Tensor:
    safe = torch.where(denominator > 0, denominator, torch.ones_like(denominator))
    return torch.where(denominator > 0, numerator / safe, torch.zeros_like(numerator))
