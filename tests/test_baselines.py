"""Baseline scores against plain formulas in float64, and at the extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mgcda_core.methods.baselines import BASELINES, energy, entropy, maxlogit, msp, score_at_size


def random_logits() -> torch.Tensor:
    return 4 * torch.randn(2, 19, 5, 7, generator=torch.Generator().manual_seed(0))


def test_scores_equal_the_formulas() -> None:
    logits = random_logits()
    z = logits.double().numpy()
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    expected = {
        "msp": 1 - p.max(1),
        "maxlogit": -z.max(1),
        "entropy": -(p * np.log(p)).sum(1) / np.log(19),
        "energy": -np.log(np.exp(z).sum(1)),
    }
    assert set(expected) == set(BASELINES)
    for name, score in BASELINES.items():
        result = score(logits)
        assert result.shape == (2, 5, 7)
        assert result.dtype == torch.float32
        np.testing.assert_allclose(result.numpy(), expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_uniform_logits_are_the_top_of_the_scale() -> None:
    flat = torch.zeros(1, 19, 1, 1)
    assert msp(flat).item() == pytest.approx(18 / 19)
    assert entropy(flat).item() == pytest.approx(1.0)
    assert energy(flat).item() == pytest.approx(-math.log(19))
    assert maxlogit(flat).item() == 0.0


def test_confident_pixels_keep_their_order_and_stay_finite() -> None:
    gaps = torch.tensor([20.0, 25.0, 30.0, 60.0, 200.0])
    logits = torch.zeros(1, 19, 1, 5)
    logits[0, 3, 0] = gaps
    assert torch.all(msp(logits)[0, 0].diff() < 0)
    for name, score in BASELINES.items():
        assert torch.isfinite(score(logits)).all(), name
    assert torch.all(entropy(logits) >= 0)


@pytest.mark.parametrize("scale", [1e-30, 1e4, 1e30])
def test_saturated_and_vanishing_logits_stay_finite_and_in_range(scale: float) -> None:
    signs = torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0], [0.0, -1.0, -1.0]]).T.view(1, 3, 1, 3)
    for name, score in BASELINES.items():
        values = score(scale * signs)
        assert torch.isfinite(values).all(), name
        if name in ("msp", "entropy"):
            assert ((values >= 0) & (values <= 1)).all(), name
    if scale > 1:  # a tie of two, one class alone, one class alone
        torch.testing.assert_close(msp(scale * signs)[0, 0], torch.tensor([0.5, 0.0, 0.0]))
        torch.testing.assert_close(entropy(scale * signs)[0, 0], torch.tensor([math.log(2) / math.log(3), 0.0, 0.0]))


def test_half_precision_logits_are_scored_in_float32() -> None:
    logits = random_logits().half()
    for name, score in BASELINES.items():
        torch.testing.assert_close(score(logits), score(logits.float()), msg=name)


def test_energy_of_high_temperature_is_the_mean() -> None:
    logits = random_logits()
    expected = -(logits.mean(1) + 1e4 * math.log(19))
    torch.testing.assert_close(energy(logits, temperature=1e4), expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("size", [(37, 50), (5, 7), (3, 4), (100, 9)])
def test_strips_equal_resizing_the_logits_whole(size: tuple[int, int]) -> None:
    logits = random_logits()
    whole = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=False)
    for name, score in BASELINES.items():
        strips = score_at_size(logits, size, score, rows=8)
        torch.testing.assert_close(strips, score(whole), rtol=1e-5, atol=1e-5, msg=name)
