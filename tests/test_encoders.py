"""mgcda_core.models.encoders: VGG pyramids and small strided encoders."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mgcda_core.models.encoders import StridedEncoder, Vgg16Layers, Vgg19Slices, scaled
from mgcda_core.models.loading import StateDictError


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("make", "parameters", "first", "last"),
    [
        (Vgg16Layers, 7_635_264, "layer1.0.weight", "layer4.5.bias"),
        (Vgg19Slices, 12_944_960, "slice1.0.weight", "slice5.28.bias"),
    ],
)
def test_published_widths_have_the_published_keys(
    make: type[nn.Module], parameters: int, first: str, last: str
) -> None:
    with torch.device("meta"):
        net = make()
    keys = list(net.state_dict())
    assert (_count(net), keys[0], keys[-1]) == (parameters, first, last)


def test_levels_have_the_spec_strides_and_scaled_channels() -> None:
    image = torch.rand(2, 3, 32, 48)
    vgg16 = Vgg16Layers(width=0.125)(image)
    assert [tuple(f.shape) for f in vgg16] == [(2, 8, 32, 48), (2, 16, 16, 24), (2, 32, 8, 12), (2, 64, 4, 6)]
    vgg19 = Vgg19Slices(width=0.0625)(image)
    assert [tuple(f.shape[1:]) for f in vgg19] == [(4, 32, 48), (8, 16, 24), (16, 8, 12), (32, 4, 6), (32, 2, 3)]
    assert all(bool((f >= 0).all()) for f in vgg16 + vgg19)  # every level ends in a ReLU
    strided = StridedEncoder(19, 4)(torch.rand(1, 19, 32, 48))
    assert [tuple(f.shape[1:]) for f in strided] == [(4, 32, 48), (8, 16, 24), (16, 8, 12), (32, 4, 6)]
    assert scaled(64, 0.001) == 1


def _torchvision_state(plan: list[tuple[int, int, int]]) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {"classifier.0.weight": torch.zeros(2, 2)}
    for index, fin, fout in plan:
        state[f"features.{index}.weight"] = torch.full((fout, fin, 3, 3), float(index))
        state[f"features.{index}.bias"] = torch.full((fout,), float(index))
    return state


def test_torchvision_state_dict_lands_on_the_right_layers() -> None:
    widths = [(0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256)]
    widths += [(17, 256, 512), (19, 512, 512), (21, 512, 512), (24, 512, 512)]
    state = _torchvision_state(widths)
    net = Vgg16Layers()
    net.load_torchvision(state, "vgg16.pth")
    for key, index in {
        "layer1.0": 0,
        "layer1.2": 2,
        "layer2.1": 5,
        "layer3.5": 14,
        "layer4.1": 17,
        "layer4.5": 21,
    }.items():
        assert float(net.state_dict()[f"{key}.bias"][0]) == index
    del state["features.14.bias"]
    with pytest.raises(StateDictError, match=r"vgg16\.pth.*layer3\.5\.bias"):
        net.load_torchvision(state, "vgg16.pth")
