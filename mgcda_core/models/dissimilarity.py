"""DissimilarityNet: image, re-synthesis, predicted semantics and uncertainty maps -> two-class logits (spec 1.7)."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from mgcda_core.config import ConfigError, DissimilarityConfig
from mgcda_core.labels import IGNORE
from mgcda_core.models.encoders import StridedEncoder, Vgg16Layers, scaled
from mgcda_core.models.spade import SpadeBlock

_LEVELS = (64, 128, 256, 512)  # channels of the image features and of the fused features, fine to coarse
_SEMANTIC = 32  # channels of the finest semantic features; it doubles per level
_LEAST_ENTROPY = 1e-3  # its logit must stay finite; float16 holds it
Level = tuple[Tensor | None, Tensor]
"""Correlation channels, if any, and fused features of one encoder level."""


def semantic_maps(labels_train: Tensor, num_classes: int = 19, void: bool = False) -> Tensor:
    """Train ids [B, h, w], any integer type -> one-hot float32 [B, num_classes, h, w].

    Void (255) is all zero, or has a channel of its own after the classes'.
    """
    classes = torch.arange(num_classes + void, device=labels_train.device)
    if void:
        classes = torch.where(classes == num_classes, IGNORE, classes)
    return (labels_train.long()[:, None] == classes[None, :, None, None]).float()


class DissimilarityNet(nn.Module):
    """Compares an image with its re-synthesis and says per pixel how anomalous the difference is.

    The network SynBoost publishes (flags semantic, prior, correlation, spade in DissimilarityConfig) and MGCDA trains;
    every channel count scales with `config.width`, and at 1.0 the keys are those of the published checkpoint. Source:
    Di Biase et al., Pixel-wise Anomaly Detection in Complex Driving Scenes, CVPR 2021; layer by layer in spec 1.7.
    """

    def __init__(self, config: DissimilarityConfig, num_classes: int = 19) -> None:
        super().__init__()
        self.config = config
        self.num_classes = num_classes
        c = [scaled(channels, config.width) for channels in _LEVELS]
        if config.correlation and c[0] % config.correlation_groups:
            raise ConfigError(f"dissimilarity.correlation_groups is {config.correlation_groups}, which does not divide "
                              f"the {c[0]} channels of width {config.width}")  # fmt: skip
        semantic_channels = num_classes + config.void_channel
        semantic = [scaled(_SEMANTIC, config.width) * 2**k if config.semantic else 0 for k in range(4)]
        self.vgg_encoder = Vgg16Layers(config.width, config.detail)
        if config.semantic:
            self.semantic_encoder = StridedEncoder(
                semantic_channels, scaled(_SEMANTIC, config.width), config.stem_kernel
            )
        if config.prior:
            self.prior_encoder = StridedEncoder(len(config.prior), c[0], config.stem_kernel)
        extra = config.correlation_groups if config.correlation else 0
        self.conv1 = _conv_selu(c[3] + extra, c[2])
        self.conv12 = _conv_selu(c[2] + c[2] + extra, c[2])
        self.conv3 = _conv_selu(c[2] + c[1] + extra, c[1])
        self.conv5 = _conv_selu(c[1] + c[0] + extra, c[0])
        self.conv2, self.conv13, self.conv4, self.conv6 = (
            self._refine(channels, semantic_channels) for channels in (c[2], c[2], c[1], c[0])
        )
        self.tconv1 = nn.ConvTranspose2d(c[2], c[2], 2, stride=2)
        self.tconv3 = nn.ConvTranspose2d(c[2], c[2], 2, stride=2)
        self.tconv2 = nn.ConvTranspose2d(c[1], c[1], 2, stride=2)
        self.conv7, self.conv8, self.conv9, self.conv10 = (
            nn.Conv2d(2 * c[k] + semantic[k], c[k], 1) for k in (3, 2, 1, 0)
        )
        self.conv11 = nn.Conv2d(c[0], 2, 1)
        if config.residual:
            nn.init.zeros_(self.conv11.weight)
            self.certainty = nn.Conv2d(1, 1, 1)
            nn.init.ones_(self.certainty.weight)
            for layer in (self.conv11, self.certainty):
                nn.init.zeros_(layer.get_parameter("bias"))
        if config.correlation:
            self._calm_correlation(c)

    def forward(self, image: Tensor, synthesis: Tensor, semantic: Tensor, prior: Tensor) -> Tensor:
        """Logits [B, 2, h, w], class 1 = anomaly.

        image, synthesis [B, 3, d h, d w] ImageNet-normalised, d = `config.detail`; semantic as `semantics` makes it;
        prior [B, `config.maps`, h, w] in [0, 1], in the order of `PRIORS`. Raises ValueError if h or w is no multiple
        of 8, or the images do not have d times the size.
        """
        return self.features(image, synthesis, semantic, prior)[0]

    def semantics(self, labels_train: Tensor) -> Tensor:
        """Train ids [B, h, w] -> one-hot float32 [B, 19 or 20, h, w], see `semantic_maps`."""
        return semantic_maps(labels_train, self.num_classes, self.config.void_channel)

    def features(
        self, image: Tensor, synthesis: Tensor, semantic: Tensor, prior: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`forward`, and the one encoder feature MGCDA's losses look at by default.

        Returns logits [B, 2, h, w], the fused features of the deepest level after the prior [B, 512 w, h/8, w/8]
        without the correlation channel, and the decoder feature [B, 64 w, h, w].
        """
        logits, levels, decoder_feature = self.pyramid(image, synthesis, semantic, prior)
        return logits, levels[3][1], decoder_feature

    def pyramid(
        self, image: Tensor, synthesis: Tensor, semantic: Tensor, prior: Tensor
    ) -> tuple[Tensor, list[Level], Tensor]:
        """`forward`, and what the decoder reads.

        Returns logits [B, 2, h, w]; per level, fine to coarse (strides 1, 2, 4, 8), the raw correlation channel
        [B, groups, ., .], None without one, and the fused features times the prior's [B, C, ., .] with C = 64, 128,
        256, 512 w; and the decoder feature [B, 64 w, h, w].
        """
        height, width = semantic.shape[-2:]
        if height % 8 or width % 8:
            raise ValueError(f"DissimilarityNet needs height and width divisible by 8, got {height} x {width}")
        detail = self.config.detail
        if tuple(image.shape[-2:]) != (detail * height, detail * width):
            raise ValueError(f"DissimilarityNet needs images of {detail} x the maps' {height} x {width}, got "
                             f"{image.shape[-2]} x {image.shape[-1]}")  # fmt: skip
        levels = self._fuse(image, synthesis, semantic, prior)
        logits, decoder_feature = self.decode(levels, semantic, prior)
        return logits, levels, decoder_feature

    def decode(self, levels: list[Level], semantic: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and decoder feature of the levels `pyramid` gives, or of changed ones; semantic and prior as there."""
        # An instance norm follows every convolution from here on, so their gradients are small differences of large
        # sums, which bfloat16 rounds away: trainings ran off with gradients of 1e5 and more (docs/ladder.md).
        with torch.autocast(semantic.device.type, enabled=False) if self.training else nullcontext():
            logits, decoder_feature = self._decode(levels, semantic)
            if self.config.residual:
                start = self.certainty(torch.logit(prior[:, :1].float(), eps=_LEAST_ENTROPY))
                logits = torch.cat([logits[:, :1], logits[:, 1:] + start], 1)
        return logits, decoder_feature

    def _decode(self, levels: list[Level], semantic: Tensor) -> tuple[Tensor, Tensor]:
        if self.training:
            levels = [(None if correlation is None else correlation.float(), x.float()) for correlation, x in levels]
        first, second, third, fourth = ([x for x in level if x is not None] for level in levels)
        x = self.tconv1(self._refined(self.conv2, self.conv1(torch.cat(fourth, 1)), semantic))
        x = torch.cat([x, *third], 1)
        x = self.tconv3(self._refined(self.conv13, self.conv12(x), semantic))
        x = torch.cat([x, *second], 1)
        x = self.tconv2(self._refined(self.conv4, self.conv3(x), semantic))
        x = torch.cat([x, *first], 1)
        decoder_feature = self._refined(self.conv6, self.conv5(x), semantic)
        return self.conv11(decoder_feature), decoder_feature

    def _fuse(self, image: Tensor, synthesis: Tensor, semantic: Tensor, prior: Tensor) -> list[Level]:
        both = self.vgg_encoder(torch.cat([image, synthesis]))  # one pass: the encoder is shared
        semantics = self.semantic_encoder(semantic) if self.config.semantic else [None] * 4
        priors = self.prior_encoder(prior) if self.config.prior else [None] * 4
        levels: list[Level] = []
        for level, conv in enumerate((self.conv10, self.conv9, self.conv8, self.conv7)):
            a, b = both[level].unflatten(0, (2, -1)).unbind()  # not chunk: no graph of any batch size has one
            s, p = semantics[level], priors[level]
            x = conv(torch.cat([a, b] if s is None else [a, b, s], 1))
            x = x if p is None else x * p
            groups = self.config.correlation_groups
            levels.append((_correlation(a, b, groups).to(x.dtype) if self.config.correlation else None, x))
        return levels

    def _refine(self, channels: int, semantic_channels: int) -> nn.Module:
        if self.config.spade == "decoder":
            return SpadeBlock(channels, semantic_channels, scaled(self.config.spade_hidden, self.config.width))
        return _conv_selu(channels, channels)

    def _refined(self, block: nn.Module, x: Tensor, semantic: Tensor) -> Tensor:
        return block(x, semantic) if self.config.spade == "decoder" else block(x)

    def _calm_correlation(self, c: list[int]) -> None:
        """Start the correlation channels at the scale of the others: each is a sum over its group of channels."""
        groups = self.config.correlation_groups
        with torch.no_grad():
            for conv, position, channels in (
                (self.conv1, 0, c[3]), (self.conv12, c[2], c[2]), (self.conv3, c[2], c[1]), (self.conv5, c[1], c[0]),
            ):  # fmt: skip
                conv.get_submodule("0").get_parameter("weight")[:, position : position + groups] /= channels // groups


def _conv_selu(in_channels: int, out_channels: int) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight, nonlinearity="linear")  # LeCun, what SELU asks for
    return nn.Sequential(conv, nn.SELU(inplace=True))


def _correlation(a: Tensor, b: Tensor, groups: int = 1) -> Tensor:
    """Sum of a * b over each group of channels, [B, C, h, w] -> float32 [B, groups, h, w].

    Channels go last for the sum, so that the result counts as channels_last beside maps that are: a plain sum's strides
    do not say, and every concatenation with it would fall back to the other layout. Groups as in Guo et al.,
    Group-wise Correlation Stereo Network, CVPR 2019, without their division.
    """
    products = a.float() * b.float()
    return products.permute(0, 2, 3, 1).unflatten(-1, (groups, -1)).sum(-1).permute(0, 3, 1, 2)
