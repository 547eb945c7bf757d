"""mgcda_core.models.uncertainty: entropy, distance and perceptual difference (spec appendix D: maps.*, vggdiff)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from mgcda_core.models import uncertainty as u


def _logits(*probabilities: tuple[float, ...]) -> Tensor:
    """One pixel a tuple: [1, C, 1, number of pixels]."""
    return torch.tensor(probabilities, dtype=torch.float64).clamp(min=1e-30).log().t()[None, :, None].float()


def test_uniform_softmax_has_entropy_ln_19() -> None:
    logits = torch.zeros(1, 19, 4, 6)
    entropy, margin = u.entropy_and_margin(logits)
    assert torch.allclose(entropy, torch.full_like(entropy, math.log(19)))
    assert torch.equal(margin, torch.zeros_like(margin))
    assert torch.allclose(u.softmax_entropy(logits), torch.ones(1, 1, 4, 6))
    assert torch.equal(u.softmax_distance(logits), torch.ones(1, 1, 4, 6))
    assert torch.equal(u.softmax_entropy(logits, "reference"), torch.zeros(1, 1, 4, 6))  # constant: (e - min) / max = 0


def test_reference_scaling_is_not_a_min_max() -> None:
    assert torch.allclose(
        u.reference_entropy(torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)).flatten(), torch.tensor([0, 0.5])
    )
    distance = u.reference_distance(torch.tensor([0.2, 0.8]).view(1, 1, 1, 2)).flatten()
    assert torch.allclose(distance, torch.tensor([1.0, 0.25]))


def test_reference_extrema_are_per_sample_and_guarded() -> None:
    maps = torch.stack([torch.tensor([1.0, 2.0]), torch.tensor([10.0, 40.0])]).view(2, 1, 1, 2)
    assert torch.allclose(u.reference_entropy(maps)[:, 0, 0, 1], torch.tensor([0.5, 0.75]))
    zero = torch.zeros(1, 1, 2, 2)
    assert torch.equal(u.reference_entropy(zero), zero)
    assert torch.equal(u.reference_distance(zero), torch.ones_like(zero))


@pytest.mark.parametrize("scaling", ["fixed", "reference"])
def test_a_logit_gap_of_200_is_finite(scaling: u.Scaling) -> None:
    logits = torch.zeros(1, 19, 2, 2)
    logits[:, 3, 0] = 200.0
    for value in u.uncertainty_maps(logits, scaling):
        assert torch.isfinite(value).all()
        assert value.min() >= 0 and value.max() <= 1


def test_fixed_maps_of_known_probabilities() -> None:
    logits = _logits((0.5, 0.3, 0.2), (1.0, 0.0, 0.0), (0.4, 0.4, 0.2))
    entropy, distance = u.uncertainty_maps(logits)
    expected = -(0.5 * math.log(0.5) + 0.3 * math.log(0.3) + 0.2 * math.log(0.2)) / math.log(3)
    assert entropy.flatten().tolist()[:2] == pytest.approx([expected, 0.0], abs=1e-6)
    assert distance.flatten().tolist() == pytest.approx([0.8, 0.0, 1.0], abs=1e-6)  # ties count as no margin


def test_distance_equals_the_top_two_of_the_softmax() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 19, 8, 8) * 4
    top = logits.softmax(1).topk(2, 1).values
    torch.testing.assert_close(u.softmax_distance(logits), 1 - (top[:, :1] - top[:, 1:]), rtol=0, atol=1e-6)


def test_maps_are_float32_under_autocast() -> None:
    logits = torch.randn(1, 19, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        entropy = u.softmax_entropy(logits)
    assert entropy.dtype == torch.float32
    torch.testing.assert_close(entropy, u.softmax_entropy(logits))


class _Pyramid(nn.Module):
    """Five levels at strides 1 to 16 whose features are the image's pooled channels; one level may be off."""

    def __init__(self, on: tuple[int, ...]) -> None:
        super().__init__()
        self.on = on

    def forward(self, image: Tensor) -> list[Tensor]:
        pooled = [nn.functional.avg_pool2d(image, 2**k) for k in range(5)]
        return [f if k in self.on else torch.zeros_like(f) for k, f in enumerate(pooled)]


@pytest.mark.parametrize(("level", "weight"), [(0, 1 / 32), (1, 1 / 16), (2, 1 / 8), (3, 1 / 4), (4, 1.0)])
def test_each_level_has_its_weight(level: int, weight: float) -> None:
    image, synthesis = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 2.0)
    raw = u.PerceptualDifference(_Pyramid((level,)))(image, synthesis)
    torch.testing.assert_close(raw, torch.full((1, 1, 32, 32), 2.0 * weight))


def test_identical_images_differ_by_zero_and_batches_do_not_mix() -> None:
    torch.manual_seed(0)
    difference = u.PerceptualDifference(_Pyramid((0, 1, 2, 3, 4)))
    image, synthesis = torch.rand(2, 3, 32, 48), torch.rand(2, 3, 32, 48)
    same = difference(image, image)
    assert torch.equal(same, torch.zeros(2, 1, 32, 48))
    assert torch.equal(u.minmax_8bit(same), same)  # guarded: constant map -> zeros
    both = u.minmax_8bit(difference(image, synthesis))
    for k in range(2):
        torch.testing.assert_close(both[k : k + 1], u.minmax_8bit(difference(image[k : k + 1], synthesis[k : k + 1])))
        assert both[k].min() == 0 and both[k].max() == 1


def test_cosine_difference_of_equal_orthogonal_opposite_and_dead_features() -> None:
    a = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 0.0], [0.0, 0.0]]).t()[None, :, None]
    b = torch.tensor([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 0.0], [9.0, 0.0]]).t()[None, :, None]
    values = u.cosine_difference([a], [b], (1, 5)).flatten()
    assert values.tolist() == pytest.approx([0, 1, 1, 0, 1], abs=1e-3)


def test_cosine_difference_averages_levels_at_the_asked_size() -> None:
    ones, flipped = torch.ones(2, 4, 8, 8), torch.ones(2, 4, 8, 8)
    flipped[:, :, :, 4:] = -1
    fine, coarse = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 4, 4)
    value = u.cosine_difference([ones, fine, coarse], [flipped, fine, coarse], (16, 32))
    assert value.shape == (2, 1, 16, 32)
    assert value[..., 0].max() < 1e-5
    assert value[..., -1].min() == pytest.approx(1 / 3, abs=1e-5)
