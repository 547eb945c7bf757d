"""CC-FPSE: the generator that paints a street scene from a label map, and its style encoder (spec 1.5).

Source: Liu et al., Learning to Predict Layout-to-image Conditional Convolutions for Semantic Image Synthesis,
NeurIPS 2019. Spectral norm is not built: weights/spectral_norm.py folds it when published checkpoints are read.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import ConfigError, SynthesisConfig
from mgcda_core.labels import NUM_LABEL_IDS, TRAIN_TO_LABEL_ID
from mgcda_core.models.spade import BatchSpade, InstanceNorm

MAP_CHANNELS = NUM_LABEL_IDS + 1
"""One-hot label ids and the edge channel."""
_SLOPE = 0.2
_UPSAMPLINGS = 6  # latent to image: a factor of 64
_STYLE_SIZE = (256, 256)


def label_ids(labels_train: Tensor) -> Tensor:
    """Cityscapes train ids [B, h, w] -> label ids int64, same shape; void and anything else above 18 -> 0."""
    table = torch.tensor((*TRAIN_TO_LABEL_ID, 0), device=labels_train.device)
    known = labels_train.long().clamp(max=len(TRAIN_TO_LABEL_ID))
    return table.index_select(0, known.flatten()).view_as(known)


def label_maps(labels_train: Tensor) -> Tensor:
    """The generator's input: train ids [B, h, w] -> float32 [B, 36, h, w], one-hot label ids and the edge channel."""
    return id_maps(label_ids(labels_train))


def id_maps(ids: Tensor) -> Tensor:
    """Label ids 0..34 [B, h, w] -> float32 [B, 36, h, w]: one-hot, then 1 where a 4-neighbour has another id."""
    channels = torch.arange(NUM_LABEL_IDS, device=ids.device)
    one_hot = (ids.long()[:, None] == channels[None, :, None, None]).float()
    return torch.cat([one_hot, edges(ids)], 1)


def edges(ids: Tensor) -> Tensor:
    """float32 [B, 1, h, w], 1 on both sides of every boundary between ids [B, h, w] (4-neighbourhood)."""
    rows = (ids[:, 1:] != ids[:, :-1]).float()[:, None]
    columns = (ids[:, :, 1:] != ids[:, :, :-1]).float()[:, None]
    vertical = torch.maximum(F.pad(rows, (0, 0, 1, 0)), F.pad(rows, (0, 0, 0, 1)))
    horizontal = torch.maximum(F.pad(columns, (1, 0)), F.pad(columns, (0, 1)))
    return torch.maximum(vertical, horizontal)


def dynamic_convolution(x: Tensor, weights: Tensor) -> Tensor:
    """Per-pixel, per-channel 3x3 correlation, zero padded: x [B, C, h, w], weights [B, 9C, h, w] -> [B, C, h, w].

    Channel k * C + c of `weights` is tap k of channel c, taps row by row (published layers say 9c + k: `_tap_weights`
    reorders them). Nine shifted products: no unfold, so that ONNX and TensorRT take it and nothing nine times as
    large as x is kept.
    """
    height, width = x.shape[-2:]
    padded = F.pad(x, (1, 1, 1, 1))
    total = None
    for k, tap in enumerate(weights.chunk(9, 1)):
        dy, dx = divmod(k, 3)
        term = tap * padded[:, :, dy : dy + height, dx : dx + width]
        total = term if total is None else total + term
    assert total is not None
    return total


class ConditionalBlock(nn.Module):
    """Residual block whose two convolutions and gates are predicted from the label condition (spec 1.5, step 4)."""

    def __init__(self, fin: int, fout: int, condition: int, hidden: int) -> None:
        super().__init__()
        middle = min(fin, fout)
        self.gen_weights1 = _predictor(condition, hidden, 9 * fin)
        self.gen_weights2 = _predictor(condition, hidden, 9 * middle)
        self.gen_se_weights1 = _predictor(condition, hidden, middle)
        self.gen_se_weights2 = _predictor(condition, hidden, fout)
        self.conv_1 = nn.Conv2d(fin, middle, 1)
        self.norm_1 = nn.BatchNorm2d(fin)
        self.norm_2 = nn.BatchNorm2d(middle)
        self.conv_3 = nn.Conv2d(middle, fout, 1)
        self.learned_shortcut = fin != fout
        if self.learned_shortcut:
            self.conv_s = nn.Conv2d(fin, fout, 1, bias=False)
            self.norm_s = BatchSpade(fin, condition, hidden)
        for conv in (self.conv_1, self.conv_3):
            nn.init.kaiming_normal_(conv.weight, a=_SLOPE)
        for predictor in (self.gen_weights1, self.gen_weights2):
            _start_as_identity(predictor)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """x [B, fin, h, w], condition [B, channels, h, w] -> [B, fout, h, w]."""
        h = dynamic_convolution(self.norm_1(x), _tap_weights(self.gen_weights1, condition))
        h = F.leaky_relu(self.conv_1(h) * self.gen_se_weights1(condition).sigmoid(), _SLOPE)
        h = dynamic_convolution(self.norm_2(h), _tap_weights(self.gen_weights2, condition))
        h = F.leaky_relu(self.conv_3(h) * self.gen_se_weights2(condition).sigmoid(), _SLOPE)
        return h + (self.conv_s(self.norm_s(x, condition)) if self.learned_shortcut else x)


class Generator(nn.Module):
    """Label maps and a style code -> RGB in [-1, 1]; keys as the published checkpoint after folding (spec 1.5).

    From scratch it starts tame: the dynamic convolutions near the identity (bias 1 on the centre tap, small weights),
    everything else He or Xavier, so that it is finite in evaluation mode before any training step.
    """

    def __init__(self, config: SynthesisConfig) -> None:
        super().__init__()
        height, width = config.size
        if height % 64 or width % 64:
            raise ConfigError(f"synthesis.size is {config.size}: height and width must be multiples of 64")
        self.config = config
        self.latent = (height // 64, width // 64)
        n = config.ngf
        self.fc = nn.Linear(config.z_dim, 16 * n * self.latent[0] * self.latent[1])
        nn.init.kaiming_normal_(self.fc.weight, nonlinearity="linear")
        self.labelenc1 = _label_unit(MAP_CHANNELS, n, 3)
        for k in range(2, 8):
            self.add_module(f"labelenc{k}", _label_unit(n, n, 3, stride=2))
        for k in range(1, 7):
            self.add_module(f"labellat{k}", _label_unit(n, n, 1))
            self.add_module(f"labeldec{k}", _label_unit(n, n, 3))
        widths = (16 * n, 16 * n, 16 * n, 16 * n, 8 * n, 4 * n, 2 * n, n)
        self.block_names = ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3")
        for name, fin, fout in zip(self.block_names, widths, widths[1:], strict=False):
            self.add_module(name, ConditionalBlock(fin, fout, MAP_CHANNELS + n, config.hidden))
        self.conv_img = nn.Conv2d(n, 3 * config.detail**2, 3, padding=1)
        nn.init.xavier_normal_(self.conv_img.weight)

    def forward(self, maps36: Tensor, z: Tensor) -> Tensor:
        """maps36 float [B, 36, h, w] at `config.size`, z [B, z_dim] -> [B, 3, d h, d w] in [-1, 1], d is `detail`.

        Raises ValueError for maps of another size: the first layer fixes it.
        """
        if tuple(maps36.shape[-2:]) != tuple(self.config.size):
            raise ValueError(f"the generator is built for {self.config.size}, got maps of {tuple(maps36.shape[-2:])}")
        pyramid = self._label_pyramid(maps36)
        x = self.fc(z).view(-1, 16 * self.config.ngf, *self.latent)
        for level, (name, labels) in enumerate(zip(self.block_names, pyramid, strict=True)):
            if level:
                x = _upsample(x)
            coarse = F.interpolate(maps36, x.shape[-2:], mode="nearest").to(labels.dtype)
            x = self.get_submodule(name)(x, torch.cat([coarse, labels], 1))
        image = self.conv_img(F.leaky_relu(x, _SLOPE)).tanh()
        return F.pixel_shuffle(image, self.config.detail) if self.config.detail > 1 else image

    def _label_pyramid(self, maps36: Tensor) -> list[Tensor]:
        """Encoded labels, coarse to fine: seven maps [B, ngf, ., .] from the latent size to the full one."""
        x = maps36
        encoded = []
        for k in range(1, 8):
            x = self.get_submodule(f"labelenc{k}")(x)
            encoded.append(x)
        pyramid = [x]
        for k in range(1, _UPSAMPLINGS + 1):
            x = _upsample(x) + self.get_submodule(f"labellat{k}")(encoded[6 - k])
            x = self.get_submodule(f"labeldec{k}")(x)
            pyramid.append(x)
        return pyramid


class StyleEncoder(nn.Module):
    """The variational encoder of CC-FPSE: an image's mean style code and log variance (spec 1.5)."""

    def __init__(self, config: SynthesisConfig) -> None:
        super().__init__()
        w = config.encoder_width
        widths = (3, w, 2 * w, 4 * w, 8 * w, 8 * w, 8 * w)
        for k, (fin, fout) in enumerate(pairwise(widths), start=1):
            conv = nn.Conv2d(fin, fout, 3, stride=2, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, a=_SLOPE)
            self.add_module(f"layer{k}", nn.Sequential(conv, InstanceNorm()))
        self.fc_mu = nn.Linear(8 * w * 16, config.z_dim)
        self.fc_var = nn.Linear(8 * w * 16, config.z_dim)

    def forward(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """rgb [B, 3, h, w] in [-1, 1], any size -> mu, logvar [B, z_dim]; z = mu + eps * exp(logvar / 2)."""
        x = rgb
        if tuple(x.shape[-2:]) != _STYLE_SIZE:
            x = F.interpolate(x, _STYLE_SIZE, mode="bilinear", align_corners=False)
        for k in range(1, 7):
            x = self.get_submodule(f"layer{k}")(x if k == 1 else F.leaky_relu(x, _SLOPE))
        x = F.leaky_relu(x, _SLOPE).flatten(1)
        return self.fc_mu(x), self.fc_var(x)


def _upsample(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def _label_unit(fin: int, fout: int, kernel: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(fin, fout, kernel, stride=stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(conv.weight, a=_SLOPE)
    return nn.Sequential(nn.Sequential(conv, nn.BatchNorm2d(fout)), nn.LeakyReLU(_SLOPE, inplace=True))


def _predictor(condition: int, hidden: int, out_channels: int) -> nn.Sequential:
    first = nn.Conv2d(condition, hidden, 3, padding=1)
    nn.init.kaiming_normal_(first.weight, nonlinearity="relu")
    return nn.Sequential(first, nn.ReLU(inplace=True), nn.Conv2d(hidden, out_channels, 3, padding=1))


def _tap_weights(predictor: nn.Sequential, condition: Tensor) -> Tensor:
    """The predictor's output with the taps outermost, by reordering its last layer's weights in place of its output.

    Each tap is then one dense run of channels: twice as fast in training, a third faster in channels_last (measured).
    """
    first, relu, last = predictor
    weight = last.get_parameter("weight").unflatten(0, (-1, 9)).transpose(0, 1).flatten(0, 1)
    bias = last.get_parameter("bias").unflatten(0, (-1, 9)).t().flatten()
    return F.conv2d(relu(first(condition)), weight, bias, padding=1)


def _start_as_identity(predictor: nn.Sequential) -> None:
    """Centre tap (k = 4) of every channel near 1, the other eight near 0."""
    last = predictor[2]
    assert isinstance(last, nn.Conv2d) and last.bias is not None
    nn.init.kaiming_normal_(last.weight, nonlinearity="linear")
    with torch.no_grad():
        last.weight *= 0.1
        last.bias.zero_()
        last.bias[4::9] = 1.0
