"""VGG feature pyramids and the small strided encoders, scalable in width."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor, nn

from mgcda_core.models.loading import load_strict

_POOL = 0
_VGG16 = (64, 64, _POOL, 128, 128, _POOL, 256, 256, 256, _POOL, 512, 512, 512)
_VGG16_CUTS = (4, 9, 16, 23)
_VGG19 = (64, 64, _POOL, 128, 128, _POOL, *(256,) * 4, _POOL, *(512,) * 4, _POOL, *(512,) * 4)
_VGG19_CUTS = (2, 7, 12, 21, 30)


def scaled(channels: int, width: float) -> int:
    """`channels` of the published network at a width factor, at least 1."""
    return max(1, round(channels * width))


class _VggPyramid(nn.Module):
    """torchvision's `features` list cut into stages; a subclass says which cuts and how the keys are named."""

    def __init__(self, plan: tuple[int, ...], cuts: tuple[int, ...], stem: str, local_names: bool, width: float,
                 stride: int = 1) -> None:  # fmt: skip
        super().__init__()
        self.stage_names = tuple(f"{stem}{k + 1}" for k in range(len(cuts)))
        self.torchvision_names: dict[str, str] = {}  # `features` index -> own key prefix
        layers = _vgg_layers(plan, width, stride)
        start = 0
        for name, end in zip(self.stage_names, cuts, strict=True):
            named = OrderedDict((str(i - start if local_names else i), layers[i]) for i in range(start, end))
            self.add_module(name, nn.Sequential(named))
            for i in range(start, end):
                if isinstance(layers[i], nn.Conv2d):
                    self.torchvision_names[str(i)] = f"{name}.{i - start if local_names else i}"
            start = end

    def forward(self, image: Tensor) -> list[Tensor]:
        """ImageNet-normalised RGB [B, 3, h, w] -> one feature map a stage, fine to coarse."""
        features = []
        x = image
        for name in self.stage_names:
            x = self.get_submodule(name)(x)
            features.append(x)
        return features

    def load_torchvision(self, state_dict: Mapping[str, Tensor], source: str) -> None:
        """Load a torchvision VGG state dict (`features.N.*`), published width only.

        Classifier and deeper layers are left out; raises StateDictError with every key that does not fit.
        """
        renamed: dict[str, Tensor] = {}
        for key, value in state_dict.items():
            part, _, rest = key.partition(".")
            index, _, leaf = rest.partition(".")
            if part == "features" and index in self.torchvision_names:
                renamed[f"{self.torchvision_names[index]}.{leaf}"] = value
        load_strict(self, renamed, source)


class Vgg16Layers(_VggPyramid):
    """VGG16 (no batch norm) up to conv4_3: four levels at strides 1, 2, 4, 8 with 64, 128, 256, 512 channels.

    Keys are `layer{1..4}.{index in the level}`, as in DissimilarityNet's checkpoints (spec 1.7). Source: Simonyan and
    Zisserman, ICLR 2015. With `stride` s the first convolution takes s x s pixels a step (kernel 3s): every level is
    that much coarser.
    """

    def __init__(self, width: float = 1.0, stride: int = 1) -> None:
        super().__init__(_VGG16, _VGG16_CUTS, "layer", local_names=True, width=width, stride=stride)


class Vgg19Slices(_VggPyramid):
    """VGG19 up to conv5_1: ReLU outputs of conv1_1 ... conv5_1 at strides 1 to 16 (spec 1.6).

    Keys are `slice{1..5}.{index in torchvision's features}`. Source: Simonyan and Zisserman, ICLR 2015.
    """

    def __init__(self, width: float = 1.0) -> None:
        super().__init__(_VGG19, _VGG19_CUTS, "slice", local_names=False, width=width)


class StridedEncoder(nn.Module):
    """Conv 7x7 (or of another odd `kernel`), then three convs 3x3 of stride 2, a ReLU after each (spec 1.7).

    Outputs at strides 1, 2, 4, 8 with c, 2c, 4c, 8c channels, c = `channels`. Keys `hidden_layers.{0..3}.0.*`.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int = 7) -> None:
        super().__init__()
        widths = [channels * 2**level for level in range(4)]
        blocks = [nn.Sequential(nn.Conv2d(in_channels, widths[0], kernel, padding=kernel // 2), nn.ReLU(inplace=True))]
        for narrow, wide in pairwise(widths):
            blocks.append(nn.Sequential(nn.Conv2d(narrow, wide, 3, stride=2, padding=1), nn.ReLU(inplace=True)))
        self.hidden_layers = nn.ModuleList(blocks)
        kaiming_relu(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """[B, in_channels, h, w] with h, w multiples of 8 -> four feature maps, fine to coarse."""
        features = []
        for block in self.hidden_layers:
            x = block(x)
            features.append(x)
        return features


def kaiming_relu(module: nn.Module) -> None:
    """He initialisation (fan out, ReLU) of every convolution of `module`, zero bias."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)


def _vgg_layers(plan: tuple[int, ...], width: float, stride: int) -> list[nn.Module]:
    """torchvision's `features` list; index i here is `features.i` there."""
    layers: list[nn.Module] = []
    channels = 3
    for entry in plan:
        if entry == _POOL:
            layers.append(nn.MaxPool2d(2))
            continue
        conv = nn.Conv2d(channels, scaled(entry, width), 3 * stride, stride, padding=stride)
        stride = 1
        kaiming_relu(conv)
        layers += [conv, nn.ReLU(inplace=True)]
        channels = scaled(entry, width)
    return layers
