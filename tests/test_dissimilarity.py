"""mgcda_core.models.dissimilarity: shapes, flags and the published parameter counts (spec 1.7)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mgcda_core.config import PRIORS, ConfigError, DissimilarityConfig
from mgcda_core.models.dissimilarity import DissimilarityNet, semantic_maps

NARROW: dict[str, Any] = {"width": 0.0625}


def _inputs(n: int = 1, h: int = 16, w: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    image, synthesis = torch.randn(2, n, 3, h, w, generator=generator)
    semantic = semantic_maps(torch.randint(0, 19, (n, h, w), generator=generator))
    return image, synthesis, semantic, torch.rand(n, 3, h, w, generator=generator)


def _net(**flags: Any) -> DissimilarityNet:
    torch.manual_seed(0)
    return DissimilarityNet(DissimilarityConfig(**{**NARROW, **flags})).eval()


def test_void_labels_are_all_zero() -> None:
    maps = semantic_maps(torch.tensor([[[0, 18, 255]]], dtype=torch.uint8))
    assert maps.shape == (1, 19, 1, 3)
    assert maps.sum(1).flatten().tolist() == [1, 1, 0]
    assert maps.argmax(1).flatten().tolist()[:2] == [0, 18]


@pytest.mark.parametrize(
    ("flags", "parameters", "keys"),
    [
        ({}, 18_780_162, 116),
        ({"prior": (), "spade": "none"}, 13_798_530, 60),
        ({"prior": (), "correlation": False}, 17_215_170, 108),
        ({"prior": (), "semantic": False}, 16_630_082, 100),
        ({"spade": "none"}, 15_357_186, 68),
    ],
)
def test_published_variants(flags: dict[str, Any], parameters: int, keys: int) -> None:
    with torch.device("meta"):
        net = DissimilarityNet(DissimilarityConfig(**flags))
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == keys


@pytest.mark.parametrize("semantic", [True, False])
@pytest.mark.parametrize("prior", [PRIORS, PRIORS[:3], ()], ids=["four", "three", "none"])
@pytest.mark.parametrize("correlation", [True, False])
@pytest.mark.parametrize("spade", ["decoder", "none"])
def test_every_flag_combination_runs_and_trains(
    semantic: bool, prior: tuple[str, ...], correlation: bool, spade: str
) -> None:
    net = _net(semantic=semantic, prior=prior, correlation=correlation, spade=spade)
    *inputs, maps = _inputs()
    maps = torch.cat([maps, maps[:, :1]], 1)[:, : net.config.maps]
    logits = net(*inputs, maps)
    assert logits.shape == (1, 2, 16, 32)
    (logits[:, 1] - logits[:, 0]).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_feature_shapes() -> None:
    logits, encoder, decoder = _net(width=0.125).features(*_inputs(2, 24, 32))
    assert logits.shape == (2, 2, 24, 32)
    assert encoder.shape == (2, 64, 3, 4)
    assert decoder.shape == (2, 8, 24, 32)


@pytest.mark.parametrize("correlation", [True, False])
def test_the_pyramid_is_what_the_decoder_reads(correlation: bool) -> None:
    net = _net(width=0.125, correlation=correlation)
    seen: list[Tensor] = []
    net.conv1.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    logits, levels, decoder = net.pyramid(*_inputs(2, 24, 32))
    assert [tuple(fused.shape) for _, fused in levels] == [(2, 8 * 2**k, 24 // 2**k, 32 // 2**k) for k in range(4)]
    assert all((channel is not None) == correlation for channel, _ in levels)
    assert all(channel.shape[1] == 1 for channel, _ in levels if channel is not None)
    assert torch.equal(seen[0], torch.cat([x for x in levels[3] if x is not None], 1))
    for one, other in zip(net.features(*_inputs(2, 24, 32)), (logits, levels[3][1], decoder), strict=True):
        assert torch.equal(one, other)


def test_void_may_have_a_channel_of_its_own() -> None:
    maps = _net(void_channel=True).semantics(torch.tensor([[[0, 18, 255]]], dtype=torch.uint8))
    assert maps.argmax(1).flatten().tolist() == [0, 18, 19]
    assert torch.equal(maps.sum(1), torch.ones(1, 1, 3))


def test_a_residual_network_starts_as_the_entropy_and_learns_all_of_itself() -> None:
    net = _net(residual=True)
    inputs = _inputs()
    inputs[3][0, 0, :2] = torch.tensor([0.0, 1.0])[:, None]  # certain, and without any preference
    logits = net(*inputs)
    assert torch.allclose((logits[:, 1] - logits[:, 0]).sigmoid(), inputs[3][:, 0].clamp(1e-3, 1 - 1e-3), atol=1e-6)
    torch.nn.init.normal_(net.conv11.weight)
    (net(*inputs) - logits.detach()).square().mean().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_detail_takes_larger_images_and_answers_at_the_maps_size() -> None:
    net = _net(detail=2, void_channel=True, stem_kernel=3)
    _, _, semantic, prior = _inputs(2, 16, 32)
    semantic = torch.cat([semantic, torch.zeros(2, 1, 16, 32)], 1)
    image, synthesis = torch.randn(2, 2, 3, 32, 64)
    logits, levels, decoder = net.pyramid(image, synthesis, semantic, prior)
    assert logits.shape == (2, 2, 16, 32)
    assert decoder.shape[-2:] == (16, 32)
    assert [fused.shape[-2:] for _, fused in levels] == [(16 // 2**k, 32 // 2**k) for k in range(4)]
    moved = image.clone()
    moved[:, :, 9, 21] += 3  # every pixel counts, not every second one
    assert not torch.equal(net(moved, synthesis, semantic, prior), logits)
    with pytest.raises(ValueError, match="images of 2 x the maps' 16 x 32, got 16 x 32"):
        net(image[..., :16, :32], synthesis[..., :16, :32], semantic, prior)


def test_grouped_correlations_add_up_to_the_published_one() -> None:
    net, grouped = _net(width=0.125), _net(width=0.125, correlation_groups=4)
    grouped.vgg_encoder.load_state_dict(net.vgg_encoder.state_dict())
    (one, _), (four, _) = (n.pyramid(*_inputs())[1][2] for n in (net, grouped))
    assert one is not None
    assert four is not None
    assert four.shape[1] == 4
    torch.testing.assert_close(four.sum(1, keepdim=True), one, rtol=1e-4, atol=1e-6)
    with pytest.raises(ConfigError, match="correlation_groups is 3"):
        _net(width=0.125, correlation_groups=3)


def test_in_bf16_training_has_the_gradient_of_float32_whatever_the_features_size() -> None:
    """An instance norm makes the loss blind to it, and a gradient whose large terms do not cancel is noise."""
    net = _net(width=0.125).train()
    with torch.no_grad():
        net.vgg_encoder.get_submodule("layer1.0").get_parameter("weight").mul_(1e3)
    image, synthesis, semantic, prior = _inputs(2, 32, 64)
    label = (image[:, 0] > 0).long()

    def gradient(enabled: bool) -> Tensor:
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = net(image, synthesis, semantic, prior)
        torch.nn.functional.cross_entropy(logits.float(), label).backward()
        return torch.cat([p.grad.double().flatten() for p in net.conv1.parameters() if p.grad is not None])

    plain, mixed = gradient(False), gradient(True)
    assert plain.norm() > 0
    assert mixed.norm() < 2 * plain.norm()  # 8000 times as long with the decoder in bfloat16


def test_odd_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="divisible by 8, got 20 x 32"):
        _net()(*_inputs(1, 20, 32))


def test_a_zero_prior_leaves_only_the_correlation() -> None:
    net = _net()
    for p in net.prior_encoder.parameters():
        torch.nn.init.zeros_(p)
    seen: list[Tensor] = []
    net.conv1.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    _logits, encoder, _decoder = net.features(*_inputs())
    assert torch.equal(encoder, torch.zeros_like(encoder))
    assert torch.equal(seen[0][:, 1:], encoder)
    assert seen[0][:, :1].abs().sum() > 0


def test_correlation_is_the_raw_channel_sum_of_products() -> None:
    net = _net()
    image, synthesis, semantic, prior = _inputs()
    seen: list[Tensor] = []
    net.conv1.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    net(image, synthesis, semantic, prior)
    expected = (net.vgg_encoder(image)[3] * net.vgg_encoder(synthesis)[3]).sum(1, keepdim=True)
    torch.testing.assert_close(seen[0][:, :1], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_every_input_matters(position: int) -> None:
    net = _net()
    inputs = list(_inputs())
    before = net(*inputs)
    inputs[position] = inputs[position].flip(-1)
    assert (net(*inputs) - before).abs().max() > 1e-3


def test_image_and_synthesis_are_not_interchangeable() -> None:
    net = _net()
    image, synthesis, semantic, prior = _inputs()
    assert not torch.allclose(net(image, synthesis, semantic, prior), net(synthesis, image, semantic, prior), atol=1e-4)


def test_samples_of_a_batch_are_independent() -> None:
    net = _net()
    inputs = _inputs(3)
    whole = net(*inputs)
    torch.testing.assert_close(net(*(x[1:2] for x in inputs)), whole[1:2], rtol=0, atol=1e-5)


def test_channels_last_and_bf16_agree_with_plain_float() -> None:
    net = _net(width=0.125)
    inputs = _inputs(1, 32, 64)
    with torch.inference_mode():
        plain = net(*inputs)
        net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        laid_out = net(*(x.to(memory_format=torch.channels_last) for x in inputs))
        torch.testing.assert_close(laid_out, plain, rtol=0, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            half = net(*inputs).float()
    assert (half - plain).abs().mean() < 0.1 * plain.std()


def test_correlation_starts_at_the_scale_of_the_other_channels() -> None:
    net = _net()
    weight = net.conv1.get_submodule("0").get_parameter("weight")
    assert weight[:, 0].std() < 0.2 * weight[:, 1:].std()
