"""Segmentation networks: published sizes, any input size, strict loading, and the public ENet's accuracy."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mgcda_core.config import ConfigError, SegmentationConfig
from mgcda_core.models.loading import load_strict
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.models.segmentation.ddrnet import DDRNet23Slim
from mgcda_core.models.segmentation.deeplabv3plus import DeepLabV3Plus, PreActivationBlock, resize_aligned
from mgcda_core.models.segmentation.enet import ENet

NARROW = [("ddrnet23_slim", 8), ("enet", 16), ("deeplabv3plus", 4)]
SHARED = Path(os.environ.get("MGCDA_SHARED", "../shared"))


def narrow(architecture: str, width: int) -> nn.Module:
    torch.manual_seed(0)
    return build_segmentation(SegmentationConfig(architecture=architecture, width=width)).eval()  # type: ignore[arg-type]


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(("architecture", "width"), NARROW)
@pytest.mark.parametrize("size", [(64, 128), (65, 97), (50, 131)])
def test_logits_have_the_input_size_or_the_asked_size(architecture: str, width: int, size: tuple[int, int]):
    network, image = narrow(architecture, width), torch.randn(2, 3, *size)
    with torch.inference_mode():
        logits, small = network(image), network(image, size=(20, 30))
    assert logits.shape == (2, 19, *size)
    assert small.shape == (2, 19, 20, 30)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert logits.std() > 0


@pytest.mark.parametrize(
    ("architecture", "width", "expected"),
    [
        ("ddrnet23_slim", 8, [(8, 4), (16, 8), (32, 16)]),
        ("enet", 16, [(16, 2), (64, 4), (128, 8)]),
        ("deeplabv3plus", 4, [(8, 2), (16, 4), (32, 8), (64, 8)]),
    ],
)
def test_features_go_fine_to_coarse(architecture: str, width: int, expected: list[tuple[int, int]]):
    network, x = narrow(architecture, width), torch.randn(1, 3, 64, 128)
    with torch.inference_mode():
        maps = network.features(x)  # type: ignore[operator]
        logits, same = network.logits_and_features(x, (20, 30))  # type: ignore[operator]
        torch.testing.assert_close(logits, network(x, (20, 30)))
    assert [tuple(m.shape) for m in maps] == [(1, c, 64 // s, 128 // s) for c, s in expected]
    torch.testing.assert_close(same, maps)


@pytest.mark.parametrize(("architecture", "width"), NARROW)
def test_the_classifier_and_what_it_reads_are_the_network(architecture: str, width: int):
    network, x = narrow(architecture, width), torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        logits, features, distilled = network.outputs(x, (20, 30))  # type: ignore[operator]
        torch.testing.assert_close(network.classify(network.embed(x), (20, 30)), logits)  # type: ignore[operator]
        torch.testing.assert_close(network(x, (20, 30)), logits)
    torch.testing.assert_close(features, network.features(x))  # type: ignore[operator]
    assert isinstance(network.get_submodule(network.classifier), nn.Module)  # type: ignore[arg-type]
    norm = network.distilled_norm
    assert norm is None or norm.num_features == distilled.shape[1]  # type: ignore[union-attr]


@pytest.mark.parametrize(("architecture", "width"), NARROW)
def test_a_batch_gives_what_its_images_give(architecture: str, width: int):
    network, images = narrow(architecture, width), torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(network(images)[1:], network(images[1:]), rtol=1e-4, atol=1e-4)


def test_ddrnet_has_the_published_parameters_and_operations():
    """5.7 M parameters and 36.3 GFLOPs (multiply-adds) at 1024x2048 (arXiv 2101.06085)."""
    with torch.device("meta"):
        network, image = DDRNet23Slim(32, auxiliary=False).eval(), torch.zeros(1, 3, 1024, 2048)
        with FlopCounterMode(display=False) as counter:
            network(image)
    assert round(parameters(network) / 1e6, 1) == 5.7
    assert counter.get_total_flops() / 2e9 == pytest.approx(36.3, abs=0.05)


def test_ddrnet_main_logits_reach_every_stage_and_the_auxiliary_ones_stop_after_stage_3():
    torch.manual_seed(0)
    network = DDRNet23Slim(8)
    reached = []
    for index in range(2):
        network.zero_grad()
        logits = network.training_logits(torch.randn(2, 3, 65, 96))
        assert [y.shape for y in logits] == [(2, 19, 65, 96)] * 2
        logits[index].square().mean().backward()
        used = {n for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        reached.append(used)
    every = {name for name, _ in network.named_parameters()}
    early = ("stem.", "stage1.", "stage2.", "context3.", "detail3.", "up3.", "auxiliary_head.")
    assert reached[0] == {name for name in every if not name.startswith("auxiliary_head.")}
    assert reached[1] == {name for name in every if name.startswith(early)}


def test_ddrnet_without_its_auxiliary_head_says_the_same():
    full, bare = narrow("ddrnet23_slim", 8), DDRNet23Slim(8, auxiliary=False).eval()
    load_strict(bare, full.state_dict(), "full", ignore=("auxiliary_head.",))
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(bare(image), full(image), rtol=0, atol=0)
    with pytest.raises(RuntimeError, match="auxiliary=True"):
        bare.training_logits(image)


def test_enet_has_the_published_size_and_loads_a_data_parallel_checkpoint():
    torch.manual_seed(0)
    source, target = ENet().eval(), ENet().eval()
    assert parameters(source) == 351_804  # the count of the public checkpoints
    checkpoint = {f"module.{key}": value for key, value in source.state_dict().items()}
    assert len(checkpoint) == 622
    dilations = [m.dilation for m in source.modules() if isinstance(m, nn.Conv2d) and m.dilation != (1, 1)]
    assert dilations == [(d, d) for d in (2, 4, 8, 16, 2, 4, 8, 16)]  # table 1
    load_strict(target, checkpoint, "checkpoint")
    image = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        torch.testing.assert_close(target(image), source(image), rtol=0, atol=0)


def test_enet_cuts_the_void_output_unless_asked():
    network, image = narrow("enet", 16), torch.rand(1, 3, 64, 96)
    assert isinstance(network, ENet)
    with torch.inference_mode():
        cut = network(image)
        network.keep_void = True
        whole = network(image)
    assert whole.shape[1] == 20
    torch.testing.assert_close(cut, whole[:, :19], rtol=0, atol=0)


def test_deeplab_has_the_published_parameters_keys_and_strides():
    with torch.device("meta"):
        network = DeepLabV3Plus().eval()
        image = torch.zeros(1, 3, 128, 256)
        skip = network.mod2(network.pool2(network.mod1(image)))
        deep = network.mod7(network.mod6(network.mod5(network.mod4(network.mod3(network.pool3(skip))))))
        logits = network(image)
    assert parameters(network) == 137_103_936
    assert len(network.state_dict()) == 268
    assert skip.shape == (1, 128, 64, 128)
    assert deep.shape == (1, 4096, 16, 32)
    assert logits.shape == (1, 19, 128, 256)


def test_deeplab_aligns_the_corners():
    class Ramp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tensor([0.0, 1.0]).expand(x.shape[0], 19, 2, 2)

    torch.testing.assert_close(
        resize_aligned(torch.tensor([[[[0.0, 1.0]]]]), (1, 3)), torch.tensor([[[[0, 0.5, 1.0]]]])
    )
    network = narrow("deeplabv3plus", 4)
    network.final[-1] = Ramp()  # type: ignore[index, assignment]
    with torch.inference_mode():
        row = network(torch.zeros(1, 3, 16, 16))[0, 0, 5]
    torch.testing.assert_close(row, torch.linspace(0, 1, 16))


def test_deeplab_shortcut_projects_the_activation_but_passes_the_raw_input():
    """spec 1.2: y = bnrelu(x); the projection reads y, the identity is x itself."""
    torch.manual_seed(0)
    x = torch.randn(1, 6, 5, 5)
    for channels, expected in (((6, 6), x), ((6, 8), None)):
        block = PreActivationBlock(6, channels).eval()
        nn.init.zeros_(block.convs.get_submodule("conv2").get_parameter("weight"))
        with torch.inference_mode():
            out = block(x.clone())
            if expected is None:
                assert block.proj_conv is not None
                expected = block.proj_conv(block.bn1(x.clone()))
        torch.testing.assert_close(out, expected, rtol=0, atol=0)


def test_every_key_that_does_not_fit_is_named_in_one_error():
    network = DeepLabV3Plus(2)
    state = network.state_dict()
    del state["mod3.block2.convs.conv1.weight"], state["aspp.img_conv.0.weight"]
    state["final.9.weight"] = torch.zeros(1)
    state["final.6.weight"] = torch.zeros(20, 8, 1, 1)
    before = network.state_dict()["mod1.conv1.weight"].clone()
    state["mod1.conv1.weight"] = before + 1
    with pytest.raises(ValueError) as error:
        load_strict(network, state, "cityscapes_best.pth")
    for word in (
        "cityscapes_best.pth", "mod3.block2.convs.conv1.weight", "aspp.img_conv.0.weight", "final.9.weight",
        "final.6.weight", "(20, 8, 1, 1)", "(19, 8, 1, 1)",
    ):  # fmt: skip
        assert word in str(error.value)
    torch.testing.assert_close(network.state_dict()["mod1.conv1.weight"], before, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (SegmentationConfig(architecture="segformer"), "architecture"),  # type: ignore[arg-type]
        (SegmentationConfig(width=0), "width"),
        (SegmentationConfig(num_classes=0), "num_classes"),
        (SegmentationConfig(architecture="enet", unknown=True), "unknown"),
    ],
)
def test_a_bad_configuration_names_its_field(config: SegmentationConfig, field: str):
    with pytest.raises(ConfigError, match=field):
        build_segmentation(config)


@pytest.mark.data
@pytest.mark.parametrize(("letter", "least"), [("a", 0.55), ("b", 0.45)])
def test_the_public_enet_segments_cityscapes(letter: str, least: float):
    """Measured 0.570 and 0.476 over the 14 training images at 1024x512; the data README says 0.566, 0.473 on val."""
    network = ENet().eval()
    path = SHARED / "data/teacher-enet" / f"enet_cityscapes_{letter}.pth"
    load_strict(network, torch.load(path, weights_only=True, map_location="cpu"), str(path))
    counts = np.zeros((19, 19), np.int64)
    for file in sorted((SHARED / "data/cityscapes-mini/images").glob("*.jpg")):
        image = Image.open(file).convert("RGB").resize((1024, 512), Image.Resampling.BOX)
        mask = Image.open(file.parents[1] / "masks" / f"{file.stem}.png").resize((1024, 512), Image.Resampling.NEAREST)
        truth = np.asarray(mask, np.int64)
        with torch.inference_mode():
            found = network(torch.tensor(np.asarray(image)).permute(2, 0, 1)[None] / 255)[0].argmax(0).numpy()
        valid = truth < 19
        counts += np.bincount(truth[valid] * 19 + found[valid], minlength=361).reshape(19, 19)
    overlap = np.diag(counts) / np.maximum(counts.sum(0) + counts.sum(1) - np.diag(counts), 1)
    assert overlap.mean() > least
