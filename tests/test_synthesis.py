"""mgcda_core.models.synthesis: label maps, dynamic convolution, generator and style encoder."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mgcda_core.config import ConfigError, SynthesisConfig
from mgcda_core.models import synthesis as s

TINY = SynthesisConfig(ngf=4, hidden=8, z_dim=8, encoder_width=4, size=(64, 128))


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_label_maps_use_label_ids_and_void_becomes_id_0() -> None:
    labels = torch.tensor([[[0, 13, 18, 255]]], dtype=torch.uint8)
    maps = s.label_maps(labels)
    assert maps.shape == (1, 36, 1, 4) and maps.dtype == torch.float32
    assert maps[0, :35, 0].argmax(0).tolist() == [7, 26, 33, 0]
    assert torch.equal(maps[:, :35].sum(1), torch.ones(1, 1, 4))


def test_a_single_different_pixel_marks_a_plus() -> None:
    ids = torch.full((1, 5, 6), 7)
    ids[0, 2, 3] = 24
    expected = torch.zeros(5, 6)
    for y, x in ((2, 3), (1, 3), (3, 3), (2, 2), (2, 4)):
        expected[y, x] = 1
    assert torch.equal(s.edges(ids)[0, 0], expected)
    corner = torch.full((1, 3, 3), 7)
    corner[0, 0, 0] = 8
    assert s.edges(corner).sum() == 3  # nothing wraps around the border


def _reference_dynamic(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The definition by unfold, taps innermost (channel 9c + k), as published."""
    b, c, h, w = x.shape
    patches = F.unfold(x, 3, padding=1).view(b, c, 9, h, w)
    return (weights.view(b, c, 9, h, w) * patches).sum(2)


def test_dynamic_convolution_deltas() -> None:
    x = torch.rand(1, 2, 4, 5)
    taps = torch.zeros(1, 9, 2, 4, 5)
    taps[:, 4] = 1
    assert torch.equal(s.dynamic_convolution(x, taps.flatten(1, 2)), x)
    upper_left = torch.zeros_like(taps)
    upper_left[:, 0] = 1
    assert torch.equal(s.dynamic_convolution(x, upper_left.flatten(1, 2)), F.pad(x, (1, 0, 1, 0))[..., :4, :5])


def test_dynamic_convolution_equals_the_published_definition() -> None:
    torch.manual_seed(0)
    x, published = torch.randn(2, 3, 6, 7), torch.randn(2, 27, 6, 7)
    taps_outermost = published.view(2, 3, 9, 6, 7).transpose(1, 2).reshape(2, 27, 6, 7)
    ours = s.dynamic_convolution(x, taps_outermost)
    torch.testing.assert_close(ours, _reference_dynamic(x, published), rtol=0, atol=1e-5)


def test_predictor_taps_are_reordered_without_changing_them() -> None:
    torch.manual_seed(0)
    block = s.ConditionalBlock(6, 4, 5, 8)
    condition, x = torch.randn(1, 5, 6, 6), torch.randn(1, 6, 6, 6)
    ours = s.dynamic_convolution(x, s._tap_weights(block.gen_weights1, condition))
    torch.testing.assert_close(ours, _reference_dynamic(x, block.gen_weights1(condition)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "parameters"),
    # 128,055,555 published, less the 26,112 of the dead norms that only its checkpoints hold
    [(s.Generator, 128_055_555 - 26_112), (s.StyleEncoder, 10_463_424)],
)
def test_published_widths_have_the_published_parameters(make: type[nn.Module], parameters: int) -> None:
    with torch.device("meta"):
        assert _count(make(SynthesisConfig())) == parameters


def test_generator_from_scratch_is_finite_in_evaluation_and_bounded() -> None:
    torch.manual_seed(0)
    generator = s.Generator(TINY).eval()
    maps = s.label_maps(torch.randint(0, 19, (2, 64, 128)))
    with torch.inference_mode():
        image = generator(maps, torch.randn(2, 8))
    assert image.shape == (2, 3, 64, 128)
    assert torch.isfinite(image).all()
    assert 0.02 < image.std() < 0.9  # neither blank nor saturated
    assert image.abs().max() <= 1


def test_generator_depends_on_labels_and_style() -> None:
    torch.manual_seed(0)
    generator = s.Generator(TINY).eval()
    maps = s.label_maps(torch.randint(0, 19, (1, 64, 128)))
    z = torch.randn(1, 8)
    with torch.inference_mode():
        image = generator(maps, z)
        assert not torch.allclose(image, generator(s.label_maps(torch.zeros(1, 64, 128)), z), atol=1e-3)
        assert not torch.allclose(image, generator(maps, -z), atol=1e-3)


def test_generator_learns_to_paint_two_classes() -> None:
    """A few steps of L1 must bring the image nearer: gradients reach through the dynamic convolutions."""
    torch.manual_seed(0)
    generator = s.Generator(SynthesisConfig(ngf=2, hidden=4, z_dim=4, size=(64, 64)))
    labels = torch.zeros(2, 64, 64, dtype=torch.long)
    labels[:, :, 32:] = 10
    target = torch.where(labels[:, None] == 10, 0.6, -0.6).expand(-1, 3, -1, -1)
    maps, z = s.label_maps(labels), torch.randn(2, 4)
    optimiser = torch.optim.Adam(generator.parameters(), 1e-2)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        loss = (generator(maps, z) - target).abs().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]
    assert all(p.grad is not None for p in generator.parameters())


def test_channels_last_and_bf16_agree_with_plain_float() -> None:
    torch.manual_seed(0)
    generator = s.Generator(TINY).eval()
    maps, z = s.label_maps(torch.randint(0, 19, (1, 64, 128))), torch.randn(1, 8)
    with torch.inference_mode():
        plain = generator(maps, z)
        generator.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        laid_out = generator(maps.to(memory_format=torch.channels_last), z)
        torch.testing.assert_close(laid_out, plain, rtol=0, atol=1e-5)
        with torch.autocast("cpu", torch.bfloat16):
            half = generator(maps, z).float()
    assert (half - plain).abs().mean() < 0.02


def test_detail_generates_a_larger_image() -> None:
    torch.manual_seed(0)
    generator = s.Generator(dataclasses.replace(TINY, detail=2)).eval()
    maps36 = s.label_maps(torch.randint(0, 19, (1, *TINY.size)))
    with torch.inference_mode():
        image = generator(maps36, torch.randn(1, TINY.z_dim))
    assert image.shape == (1, 3, 128, 256)
    assert image.abs().max() <= 1
    assert not torch.equal(image[..., ::2, ::2], image[..., 1::2, 1::2])


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ConfigError, match="multiples of 64"):
        s.Generator(SynthesisConfig(size=(100, 128)))
    with pytest.raises(ValueError, match=r"\(64, 128\).*\(64, 64\)"):
        s.Generator(TINY)(torch.zeros(1, 36, 64, 64), torch.zeros(1, 8))


def test_style_encoder_takes_any_size_and_gives_the_code() -> None:
    encoder = s.StyleEncoder(TINY).eval()
    image = torch.rand(2, 3, 48, 80) * 2 - 1
    mu, logvar = encoder(image)
    assert mu.shape == logvar.shape == (2, 8)
    resized = F.interpolate(image, (256, 256), mode="bilinear", align_corners=False)
    torch.testing.assert_close(encoder(resized)[0], mu)


def test_a_block_exports_without_unfold() -> None:
    torch.manual_seed(0)
    block = s.ConditionalBlock(4, 2, 5, 8).eval()
    x, condition = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 8, 8)
    exported = torch.export.export(block, (x, condition)).run_decompositions()
    assert not _unfolding(exported)
    torch.testing.assert_close(exported.module()(x, condition), block(x, condition), rtol=0, atol=1e-5)


def test_the_export_check_finds_an_unfold() -> None:
    exported = torch.export.export(nn.Unfold(3, padding=1), (torch.randn(1, 4, 8, 8),))
    assert _unfolding(exported)
    assert _unfolding(exported.run_decompositions())  # index by then


def _unfolding(program: torch.export.ExportedProgram) -> set[str]:
    """Operators of the exported graph that an unfold is, or is decomposed to."""
    names = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    return {name for name in names if any(word in name for word in ("unfold", "im2col", "aten.index.", "gather"))}
