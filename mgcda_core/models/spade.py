"""Spatially-adaptive normalisation: instance or batch statistics, modulated by a semantic map.

Source: Park et al., Semantic Image Synthesis with Spatially-Adaptive Normalization, CVPR 2019; spec 1.5 and 1.7.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def instance_normalise(x: Tensor, eps: float = 1e-5) -> Tensor:
    """Every channel of every sample to mean 0, variance 1 over its pixels: [B, C, h, w] -> the same shape and type.

    Statistics are float32 whatever autocast says: a sum over 131,072 pixels means nothing in half precision. Plain
    reductions in place of F.instance_norm, which would copy channels_last input to another layout.
    """
    with torch.autocast(x.device.type, enabled=False):
        wide = x.float()
        centred = wide - wide.mean((2, 3), keepdim=True)
        variance = centred.square().mean((2, 3), keepdim=True)
        return (centred * torch.rsqrt(variance + eps)).to(x.dtype)


class InstanceNorm(nn.Module):
    """Instance normalisation without affine parameters, the same in training and evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> normalised, the same shape and type."""
        return instance_normalise(x)


class Spade(nn.Module):
    """Instance norm whose scale and shift are convolved from the semantic map (spec 1.7)."""

    def __init__(self, channels: int, num_classes: int, hidden: int) -> None:
        super().__init__()
        self.shared = _shared(num_classes, hidden)
        self.gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, semantic: Tensor) -> Tensor:
        """x [B, channels, h, w], semantic one-hot [B, num_classes, h, w] -> [B, channels, h, w]."""
        shared = self.shared(semantic)
        return instance_normalise(x) * (1 + self.gamma(shared)) + self.beta(shared)


class SpadeBlock(nn.Module):
    """SPADE, SELU, conv 3x3, SPADE, SELU (spec 1.7)."""

    def __init__(self, channels: int, num_classes: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = Spade(channels, num_classes, hidden)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = Spade(channels, num_classes, hidden)
        nn.init.kaiming_normal_(self.conv.weight, nonlinearity="linear")  # LeCun, what SELU asks for

    def forward(self, x: Tensor, semantic: Tensor) -> Tensor:
        """x [B, channels, h, w]; semantic [B, num_classes, H, W] is taken down by the nearest (top-left) pixel."""
        if semantic.shape[-2] != x.shape[-2]:
            semantic = F.interpolate(semantic, x.shape[-2:], mode="nearest")
        x = F.selu(self.norm1(x, semantic))
        return F.selu(self.norm2(self.conv(x), semantic))


class BatchSpade(nn.Module):
    """Batch norm whose scale and shift are convolved from a condition map: the generator's shortcut (spec 1.5)."""

    def __init__(self, channels: int, condition_channels: int, hidden: int) -> None:
        super().__init__()
        self.param_free_norm = nn.BatchNorm2d(channels, affine=False)
        self.mlp_shared = _shared(condition_channels, hidden)
        self.mlp_gamma = nn.Conv2d(hidden, channels, 3, padding=1)
        self.mlp_beta = nn.Conv2d(hidden, channels, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [B, channels, h, w], condition [B, condition_channels, h, w] -> [B, channels, h, w]."""
        shared = self.mlp_shared(condition)
        return self.param_free_norm(x) * (1 + self.mlp_gamma(shared)) + self.mlp_beta(shared)


def _shared(in_channels: int, hidden: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, hidden, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="relu")
    return nn.Sequential(conv, nn.ReLU(inplace=True))
