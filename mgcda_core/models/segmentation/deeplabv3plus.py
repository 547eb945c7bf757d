"""DeepLabV3+ on a dilated WideResNet-38, the segmentation network of SynBoost's published chain.

Source: Chen et al., "Encoder-Decoder with Atrous Separable Convolution" (arXiv 1802.02611) and Wu, Shen, van den
Hengel, "Wider or Deeper" (arXiv 1611.10080); layers, names and sizes of spec 1.2. Convolutions have no bias and
every bilinear resize aligns the corners.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _norm_relu(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def _conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)


def _conv_norm_relu(inputs: int, outputs: int, kernel: int = 1, dilation: int = 1) -> list[nn.Module]:
    return [_conv(inputs, outputs, kernel, dilation=dilation), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def resize_aligned(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear resize to (height, width) with align_corners True."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


class PreActivationBlock(nn.Module):
    """BN and ReLU, then a branch of two 3x3 or of 1x1, 3x3, 1x1 convolutions, plus a shortcut.

    `channels` are the outputs of the branch's convolutions, two or three of them. A projecting shortcut reads the
    activation, an identity the raw input.
    """

    def __init__(
        self, inputs: int, channels: tuple[int, ...], stride: int = 1, dilation: int = 1, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.bn1 = _norm_relu(inputs)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        kernels = (3, 3) if len(channels) == 2 else (1, 3, 1)
        previous = inputs
        for i, (outputs, kernel) in enumerate(zip(channels, kernels, strict=True), start=1):
            if i > 1:
                layers[f"bn{i}"] = _norm_relu(previous)
            if i == 3 and dropout:
                layers["dropout"] = nn.Dropout2d(dropout)
            layers[f"conv{i}"] = _conv(previous, outputs, kernel, stride if i == 1 else 1, dilation)
            previous = outputs
        self.convs = nn.Sequential(layers)
        project = stride != 1 or inputs != previous
        self.proj_conv = _conv(inputs, previous, 1, stride) if project else None

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,channels[-1],ceil(H/stride),ceil(W/stride)], raw (no activation)."""
        # The ReLU after bn1 works in place on bn1's output, never on x: the identity shortcut needs x raw.
        activation = self.bn1(x)
        shortcut = x if self.proj_conv is None else self.proj_conv(activation)
        return self.convs(activation) + shortcut


def _stage(
    inputs: int, channels: tuple[int, ...], blocks: int, stride: int = 1, dilation: int = 1, dropout: float = 0.0
) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i in range(blocks):
        first = i == 0
        layers[f"block{i + 1}"] = PreActivationBlock(
            inputs if first else channels[-1], channels, stride if first else 1, dilation, dropout
        )
    return nn.Sequential(layers)


class AtrousPyramid(nn.Module):
    """Image mean, 1x1 and three dilated 3x3 convolutions, concatenated in that order (5 x `outputs` channels)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        # Dilations 6, 12, 18 of output stride 16 doubled, because the trunk stops at stride 8.
        self.features = nn.ModuleList(
            nn.Sequential(*_conv_norm_relu(inputs, outputs, kernel, dilation))
            for kernel, dilation in ((1, 1), (3, 12), (3, 24), (3, 36))
        )
        self.img_conv = nn.Sequential(*_conv_norm_relu(inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,h,w] -> [B,5*outputs,h,w]."""
        mean = self.img_conv(x.mean((2, 3), keepdim=True)).expand(-1, -1, *x.shape[-2:])
        return torch.cat([mean, *(branch(x) for branch in self.features)], 1)


_HIDDEN = 4
"""Layers of the classifier up to its last 3x3 convolution."""


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ with WideResNet-38 of any stem width (64: 137,103,936 parameters); key names of the public weights."""

    classifier = "final"

    def __init__(self, width: int = 64, num_classes: int = 19) -> None:
        super().__init__()
        w = width
        side, fine = 4 * w, max(1, 3 * w // 4)
        self.mod1 = nn.Sequential(OrderedDict([("conv1", _conv(3, w))]))
        self.pool2 = nn.MaxPool2d(3, 2, 1)
        self.mod2 = _stage(w, (2 * w, 2 * w), 3)
        self.pool3 = nn.MaxPool2d(3, 2, 1)
        self.mod3 = _stage(2 * w, (4 * w, 4 * w), 3)
        self.mod4 = _stage(4 * w, (8 * w, 8 * w), 6, stride=2)
        self.mod5 = _stage(8 * w, (8 * w, 16 * w), 3, dilation=2)
        self.mod6 = _stage(16 * w, (8 * w, 16 * w, 32 * w), 1, dilation=4, dropout=0.3)
        self.mod7 = _stage(32 * w, (16 * w, 32 * w, 64 * w), 1, dilation=4, dropout=0.5)
        self.aspp = AtrousPyramid(64 * w, side)
        self.bot_fine = _conv(2 * w, fine, 1)
        self.bot_aspp = _conv(5 * side, side, 1)
        self.final = nn.Sequential(
            *_conv_norm_relu(fine + side, side, 3), *_conv_norm_relu(side, side, 3), _conv(side, num_classes, 1)
        )

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits f32 [B,classes,*size] of an ImageNet-normalised image f32 [B,3,H,W]; `size` None means (H, W)."""
        return self.logits_and_features(x, size)[0]

    def logits_and_features(self, x: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """`forward` and `features` of the same x in one pass."""
        features = self.features(x)
        return self.classify(self._embedding(features), size or (x.shape[-2], x.shape[-1])), features

    def outputs(self, x: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """`forward`, `features` and what `distilled_norm` normalises [B,4 stem widths,h,w], of the same x in one pass.

        The last is of stride 2.
        """
        features = self.features(x)
        hidden = self.final[:_HIDDEN](self._embedding(features))
        return resize_aligned(self.final[_HIDDEN:](hidden).float(), size or x.shape[-2:]), features, hidden

    def embed(self, x: Tensor) -> Tensor:
        """What the classifier reads, f32 [B,C,h,w] of stride 2: `classify(embed(x), size)` is `forward`."""
        return self._embedding(self.features(x))

    def classify(self, embedding: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits f32 [B,classes,*size] of an embedding."""
        return resize_aligned(self.final(embedding).float(), size)

    @property
    def distilled_norm(self) -> nn.BatchNorm2d:
        """The classifier's last BatchNorm."""
        norm = self.final[_HIDDEN]
        assert isinstance(norm, nn.BatchNorm2d)
        return norm

    def features(self, x: Tensor) -> list[Tensor]:
        """Trunk maps after mod2 to mod5, not rectified: strides 2, 4, 8, 8 with 2, 4, 8, 16 stem widths."""
        maps = [self._skip(x)]
        maps.append(self.mod3(self.pool3(maps[0])))
        maps.append(self.mod4(maps[1]))
        maps.append(self.mod5(maps[2]))
        return maps

    def _embedding(self, features: list[Tensor]) -> Tensor:
        skip = features[0]
        deep = self.mod7(self.mod6(features[-1]))
        context = resize_aligned(self.bot_aspp(self.aspp(deep)), skip.shape[-2:])
        return torch.cat([self.bot_fine(skip), context], 1)

    def _skip(self, x: Tensor) -> Tensor:
        return self.mod2(self.pool2(self.mod1(x)))
