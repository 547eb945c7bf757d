"""DDRNet-23-slim, the real-time segmentation network: two resolutions that exchange features.

Source: Hong, Pan, Sun, Jia, "Deep Dual-resolution Networks for Real-time and Accurate Semantic Segmentation of Road
Scenes" (arXiv 2101.06085). The published base width is 32 channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    """Bias-free convolution, BatchNorm and, if asked, ReLU; padding keeps ceil(size / stride)."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


def norm_conv(inputs: int, outputs: int, kernel: int = 1, groups: int = 1) -> nn.Sequential:
    """BatchNorm, ReLU, bias-free convolution (the pre-activation order of the pooling module and the heads)."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
    )


class ResidualBlock(nn.Module):
    """Sum of a branch of convolutions and a shortcut, without the ReLU that follows it."""

    def __init__(self, branch: nn.Module, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = branch
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,H,W] -> [B,outputs,ceil(H/stride),ceil(W/stride)], not rectified."""
        return self.branch(x) + self.shortcut(x)


def basic_block(inputs: int, outputs: int, stride: int = 1) -> ResidualBlock:
    """Two 3x3 convolutions around a shortcut."""
    branch = nn.Sequential(conv_norm(inputs, outputs, 3, stride), conv_norm(outputs, outputs, 3, relu=False))
    return ResidualBlock(branch, inputs, outputs, stride)


def bottleneck(inputs: int, inner: int, stride: int = 1) -> ResidualBlock:
    """1x1, 3x3, 1x1 convolutions around a shortcut; the output has 2 x `inner` channels."""
    branch = nn.Sequential(
        conv_norm(inputs, inner, 1), conv_norm(inner, inner, 3, stride), conv_norm(inner, 2 * inner, 1, relu=False)
    )
    return ResidualBlock(branch, inputs, 2 * inner, stride)


def stage(inputs: int, outputs: int, blocks: int, stride: int = 1) -> nn.Sequential:
    """`blocks` basic blocks with a ReLU between each two; the last sum is not rectified (the streams add to it)."""
    layers: list[nn.Module] = [basic_block(inputs, outputs, stride)]
    for _ in range(blocks - 1):
        layers += [nn.ReLU(inplace=True), basic_block(outputs, outputs)]
    return nn.Sequential(*layers)


def resize(x: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Bilinear resize to (height, width), align_corners False."""
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


class PyramidPooling(nn.Module):
    """DAPPM: five pooled scales of the coarsest map, each refined together with the next finer one, then fused."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        # nn.Identity stands for the global mean, which exports better as a reduction than as an adaptive pool.
        pools = [nn.AvgPool2d(2 * s + 1, s, s) for s in (2, 4, 8)]
        self.pools = nn.ModuleList([*pools, nn.Identity()])
        self.scales = nn.ModuleList(norm_conv(inputs, inner) for _ in range(5))
        self.refine = nn.ModuleList(norm_conv(inner, inner, 3) for _ in range(4))
        self.compress = norm_conv(5 * inner, outputs)
        self.shortcut = norm_conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,h,w] -> [B,outputs,h,w]."""
        size = x.shape[-2:]
        maps = [self.scales[0](x)]
        for i in range(4):
            pooled = x.mean((2, 3), keepdim=True) if i == 3 else self.pools[i](x)
            maps.append(self.refine[i](resize(self.scales[i + 1](pooled), size) + maps[-1]))
        return self.compress(torch.cat(maps, 1)) + self.shortcut(x)


class SegmentationHead(nn.Module):
    """BN, ReLU, 3x3 convolution, BN, ReLU, 1x1 convolution to the classes."""

    def __init__(self, inputs: int, inner: int, classes: int) -> None:
        super().__init__()
        self.hidden = norm_conv(inputs, inner, 3)
        self.norm = nn.BatchNorm2d(inner)
        self.classify = nn.Conv2d(inner, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,inputs,h,w] -> logits [B,classes,h,w]."""
        return self.answer(self.hidden(x))

    def answer(self, hidden: Tensor) -> Tensor:
        """Logits of what the 3x3 convolution gave."""
        return self.classify(F.relu(self.norm(hidden), inplace=True))


def initialise(module: nn.Module) -> None:
    """Kaiming-normal (fan out) convolutions, BatchNorm at 1 and 0: the network is trained from scratch."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


class DDRNet23Slim(nn.Module):
    """DDRNet-23-slim of any base width (32: 5.7 M parameters).

    A detail stream stays at stride 8; a context stream goes on to stride 64 and the pyramid pooling. The two exchange
    features after stages 3 and 4 and meet in front of the head.
    """

    classifier = "head"

    def __init__(self, width: int = 32, num_classes: int = 19, *, auxiliary: bool = True) -> None:
        super().__init__()
        w = width
        self.stem = nn.Sequential(conv_norm(3, w, 3, 2), conv_norm(w, w, 3, 2))
        self.stage1 = stage(w, w, 2)
        self.stage2 = stage(w, 2 * w, 2, stride=2)
        self.context3 = stage(2 * w, 4 * w, 2, stride=2)
        self.context4 = stage(4 * w, 8 * w, 2, stride=2)
        self.context5 = bottleneck(8 * w, 8 * w, stride=2)
        self.detail3 = stage(2 * w, 2 * w, 2)
        self.detail4 = stage(2 * w, 2 * w, 2)
        self.detail5 = bottleneck(2 * w, 2 * w)
        self.up3 = conv_norm(4 * w, 2 * w, 1, relu=False)
        self.up4 = conv_norm(8 * w, 2 * w, 1, relu=False)
        self.down3 = conv_norm(2 * w, 4 * w, 3, 2, relu=False)
        self.down4 = nn.Sequential(conv_norm(2 * w, 4 * w, 3, 2), conv_norm(4 * w, 8 * w, 3, 2, relu=False))
        self.pooling = PyramidPooling(16 * w, 4 * w, 4 * w)
        self.head = SegmentationHead(4 * w, 2 * w, num_classes)
        self.auxiliary_head = SegmentationHead(2 * w, 2 * w, num_classes) if auxiliary else None
        initialise(self)

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits f32 [B,classes,*size] of a normalised image f32 [B,3,H,W]; `size` None means (H, W).

        The stride-8 logits are resized once, straight to `size`.
        """
        return self.logits_and_features(x, size)[0]

    def logits_and_features(self, x: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """`forward` and `features` of the same x in one pass."""
        logits, features, _ = self.outputs(x, size)
        return logits, features

    def outputs(self, x: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """`forward`, `features` and what `distilled_norm` normalises [B,2 widths,h,w], of the same x in one pass."""
        features = self.features(x)
        hidden = self.head.hidden(self._embedding(self._streams(features[1], features[2])))
        return resize(self.head.answer(hidden).float(), size or x.shape[-2:]), features, hidden

    def embed(self, x: Tensor) -> Tensor:
        """What the classifier reads, f32 [B,4 widths,h,w] of stride 8: `classify(embed(x), size)` is `forward`."""
        return self._embedding(self._streams(*self.features(x)[1:]))

    def classify(self, embedding: Tensor, size: tuple[int, int]) -> Tensor:
        """Logits f32 [B,classes,*size] of an embedding."""
        return resize(self.head(embedding).float(), size)

    @property
    def distilled_norm(self) -> nn.BatchNorm2d:
        """The head's last BatchNorm."""
        return self.head.norm

    def features(self, x: Tensor) -> list[Tensor]:
        """Rectified maps of strides 4, 8 and 16 with 1, 2 and 4 base widths, for a perceptual difference.

        x: normalised f32 [B,3,H,W]. Nothing after the two streams part is run but the first context stage.
        """
        first = F.relu(self.stage1(self.stem(x)))
        shared = F.relu(self.stage2(first))
        return [first, shared, F.relu(self.context3(shared))]

    def training_logits(self, x: Tensor) -> list[Tensor]:
        """[main, auxiliary] logits f32 [B,classes,H,W]; the auxiliary head reads the detail stream after stage 3."""
        if self.auxiliary_head is None:
            raise RuntimeError("this DDRNet has no auxiliary head; build it with auxiliary=True to train")
        _first, shared, context = self.features(x)
        streams = self._streams(shared, context)
        logits = [self.head(self._embedding(streams)), self.auxiliary_head(streams[1])]
        return [resize(y.float(), x.shape[-2:]) for y in logits]

    def _streams(self, shared: Tensor, context: Tensor) -> list[Tensor]:
        """Stages 3 and 4 of what `features` gives: [context after stage 4 (stride 32), rectified; detail after stage 3
        and after stage 4, not rectified]."""
        detail = self.detail3(shared)
        detail3 = detail + resize(self.up3(context), detail.shape[-2:])
        context3 = F.relu(context + self.down3(F.relu(detail)))
        context, detail = self.context4(context3), self.detail4(F.relu(detail3))
        detail4 = detail + resize(self.up4(F.relu(context)), detail.shape[-2:])
        context4 = F.relu(context + self.down4(F.relu(detail)))
        return [context4, detail3, detail4]

    def _embedding(self, streams: list[Tensor]) -> Tensor:
        context, _, detail4 = streams
        detail = self.detail5(F.relu(detail4))
        return detail + resize(self.pooling(self.context5(context)), detail.shape[-2:])
