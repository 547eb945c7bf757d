"""mgcda_core.models.spade: normalisation modulated by a semantic map."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from mgcda_core.models.spade import BatchSpade, Spade, SpadeBlock, instance_normalise


def test_instance_normalise_equals_torch_and_keeps_type_and_layout() -> None:
    x = torch.randn(2, 5, 12, 20) * 3 + 7
    torch.testing.assert_close(instance_normalise(x), F.instance_norm(x, eps=1e-5), rtol=0, atol=2e-6)
    half = x.to(torch.bfloat16, memory_format=torch.channels_last)
    out = instance_normalise(half)
    assert out.dtype == torch.bfloat16
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_statistics_are_float32_under_autocast() -> None:
    """A bf16 sum over 64 x 128 pixels of a value near 100 would be off by far more than the spread of 1."""
    x = (torch.randn(1, 2, 64, 128) + 100).to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        out = instance_normalise(x)
    torch.testing.assert_close(out.float(), F.instance_norm(x.float()), rtol=0, atol=2e-2)


def test_zero_modulation_is_the_plain_norm_and_constants_stay_finite() -> None:
    spade = Spade(4, 3, 8)
    for conv in (spade.gamma, spade.beta):
        torch.nn.init.zeros_(conv.weight)
        assert conv.bias is not None
        torch.nn.init.zeros_(conv.bias)
    x, semantic = torch.randn(1, 4, 8, 8), torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(spade(x, semantic), instance_normalise(x))
    assert torch.equal(spade(torch.ones(1, 4, 8, 8), semantic), torch.zeros(1, 4, 8, 8))


def test_block_takes_the_top_left_pixel_of_the_semantics() -> None:
    torch.manual_seed(0)
    block = SpadeBlock(4, 3, 8)
    x, semantic = torch.randn(1, 4, 4, 8), torch.rand(1, 3, 16, 32)
    torch.testing.assert_close(block(x, semantic), block(x, semantic[..., ::4, ::4]))
    assert not torch.allclose(block(x, semantic), block(x, semantic[..., 2::4, 2::4]))


def test_batch_spade_uses_running_statistics_in_evaluation() -> None:
    norm = BatchSpade(4, 3, 8).eval()
    x, condition = torch.randn(1, 4, 8, 8), torch.rand(1, 3, 8, 8)
    before = norm(x, condition)
    norm.param_free_norm.running_mean = torch.full((4,), 5.0)
    assert not torch.allclose(before, norm(x, condition))
    assert not list(norm.param_free_norm.parameters())
