"""A plain U-net: the control the chain is measured against, with nothing in it that is this project's.

Source: Ronneberger, Fischer, Brox, U-Net: Convolutional Networks for Biomedical Image Segmentation, MICCAI 2015,
figure 1; with padded convolutions, batch norm, and bilinear upsampling in place of the transposed convolutions.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PlainUnet(nn.Module):
    """U-net of any widths, one a level from fine to coarse (the default: 1.23 M parameters with 22 inputs)."""

    def __init__(self, inputs: int, outputs: int = 2, widths: tuple[int, ...] = (16, 32, 64, 128, 128)) -> None:
        super().__init__()
        self.down = nn.ModuleList(_double(fin, fout) for fin, fout in pairwise((inputs, *widths)))
        self.up = nn.ModuleList(_double(fine + coarse, fine) for fine, coarse in pairwise(widths))
        self.classify = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, outputs, H, W] of [B, inputs, H, W]; height and width at least 16, whole multiples or not."""
        first, *others = self.down
        levels = [first(x)]
        for block in others:
            levels.append(block(F.max_pool2d(levels[-1], 2)))
        y = levels.pop()
        for block in reversed(self.up):
            skip = levels.pop()
            y = F.interpolate(y, size=tuple(skip.shape[-2:]), mode="bilinear", align_corners=False)
            y = block(torch.cat([skip, y], 1))
        return self.classify(y)


def _double(inputs: int, outputs: int) -> nn.Sequential:
    """Twice 3x3 convolution, batch norm, ReLU."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        convolution = nn.Conv2d(channels, outputs, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
