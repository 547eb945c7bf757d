"""The discriminator CC-FPSE is trained against; it is never exported.

Source: Liu et al., Learning to Predict Layout-to-image Conditional Convolutions for Semantic Image Synthesis,
NeurIPS 2019, section 3.3: a feature pyramid that judges three resolutions, each by whether a patch looks real and by
how well its features fit the embedded labels there. Spectral norm after Miyato et al., ICLR 2018.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mgcda_core.models.spade import InstanceNorm

_SLOPE = 0.2


class Discriminator(nn.Module):
    """Feature-pyramid semantics-embedding discriminator: patch scores at strides 4, 8 and 16.

    `map_channels` is the label maps' channels, `width` those of the first layer (64 as published: 5,175,873
    parameters with the 36 channels of Cityscapes).
    """

    def __init__(self, map_channels: int, width: int = 64) -> None:
        super().__init__()
        w = width
        self.enc1 = _unit(3, w, 3, stride=2)
        self.enc2 = _unit(w, 2 * w, 3, stride=2)
        self.enc3 = _unit(2 * w, 4 * w, 3, stride=2)
        self.enc4 = _unit(4 * w, 8 * w, 3, stride=2)
        self.enc5 = _unit(8 * w, 8 * w, 3, stride=2)
        self.lat2 = _unit(2 * w, 4 * w, 1)
        self.lat3 = _unit(4 * w, 4 * w, 1)
        self.lat4 = _unit(8 * w, 4 * w, 1)
        self.lat5 = _unit(8 * w, 4 * w, 1)
        self.final2 = _unit(4 * w, 2 * w, 3)
        self.final3 = _unit(4 * w, 2 * w, 3)
        self.final4 = _unit(4 * w, 2 * w, 3)
        # One set of heads for the three resolutions.
        self.real = nn.Conv2d(2 * w, 1, 1)
        self.alignment = nn.Conv2d(2 * w, 2 * w, 1)
        self.embedding = nn.Conv2d(map_channels, 2 * w, 1)

    def forward(self, image: Tensor, maps: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Scores and features of images under their label maps.

        Args: image [B, 3, h, w] in [-1, 1]; maps [B, map_channels, h, w]; h and w are multiples of 32. Returns three
        scores [B, 1, ., .], unbounded, high = real, strides 4, 8, 16; and four features of strides 4, 8, 16, 32.
        """
        stride4 = self.enc2(self.enc1(image))
        stride8 = self.enc3(stride4)
        stride16 = self.enc4(stride8)
        stride32 = self.enc5(stride16)
        top16 = _upsample(self.lat5(stride32)) + self.lat4(stride16)
        top8 = _upsample(top16) + self.lat3(stride8)
        top4 = _upsample(top8) + self.lat2(stride4)
        scores = [
            self._score(self.final2(top4), F.avg_pool2d(maps, 4)),
            self._score(self.final3(top8), F.avg_pool2d(maps, 8)),
            self._score(self.final4(top16), F.avg_pool2d(maps, 16)),
        ]
        return scores, [stride4, stride8, stride16, stride32]

    def _score(self, feature: Tensor, maps: Tensor) -> Tensor:
        """Real or not, plus the product with the embedded labels (linear, so they are pooled before, which is less
        work than the published order and the same)."""
        return self.real(feature) + (self.embedding(maps) * self.alignment(feature)).sum(1, keepdim=True)


def _unit(fin: int, fout: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = spectral_norm(nn.Conv2d(fin, fout, kernel, stride=stride, padding=kernel // 2, bias=False))
    return nn.Sequential(conv, InstanceNorm(), nn.LeakyReLU(_SLOPE))


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
