"""Standardized Max Logits against plain formulas and maps worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from mgcda_core.methods.sml import LEAST_PIXELS, MaxLogitStatistics, boundaries, sml, smoothed, suppressed


def random_logits(seed: int, images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 5 + 4 * torch.randn(images, 4, 40, 60, generator=generator)


def statistics(count: list[int], mean: list[float], deviation: list[float]) -> MaxLogitStatistics:
    n, mu, sd = (torch.tensor(x, dtype=torch.float64) for x in (count, mean, deviation))
    return MaxLogitStatistics(n, mu, n * sd.square())


def test_statistics_are_those_of_the_pixels_predicted_as_each_class() -> None:
    logits = random_logits(0)
    found = MaxLogitStatistics.of(logits)
    z = logits.double().numpy()
    for c in range(4):
        values = z.max(1)[z.argmax(1) == c]
        assert found.count[c] == len(values)
        assert found.mean[c].item() == pytest.approx(values.mean())
        assert found.squares[c].item() == pytest.approx(len(values) * values.var())


def test_merged_statistics_are_those_of_all_images_at_once() -> None:
    a, b = random_logits(1), random_logits(2)
    b[:, 3] = -100.0  # never predicted in the second set, nor in an empty one
    merged = MaxLogitStatistics.of(a).merged(MaxLogitStatistics.of(b))
    whole = MaxLogitStatistics.of(torch.cat([a, b]))
    for name in ("count", "mean", "squares"):
        torch.testing.assert_close(getattr(merged, name), getattr(whole, name))


def test_scale_is_mean_and_deviation_of_each_class() -> None:
    mean, deviation = statistics([5000, 2000], [9.0, 4.0], [2.0, 0.5]).scale()
    assert mean.tolist() == [9.0, 4.0]
    assert deviation.tolist() == [2.0, 0.5]


@pytest.mark.parametrize(
    ("count", "deviation"),
    [(0, 0.0), (LEAST_PIXELS - 1, 0.25), (LEAST_PIXELS, 0.0)],
    ids=["never predicted", "too few pixels", "no spread"],
)
def test_a_class_that_says_nothing_takes_the_figures_of_all_pixels(count: int, deviation: float) -> None:
    mean, spread = statistics([3000, 1000, count], [8.0, 4.0, 6.0], [1.0, 3.0, deviation]).scale()
    assert mean[:2].tolist() == [8.0, 4.0]
    values = np.array([3000, 1000, count]), np.array([8.0, 4.0, 6.0]), np.array([1.0, 3.0, deviation])
    pooled = np.average(values[1], weights=values[0])
    variance = np.average(values[2] ** 2 + (values[1] - pooled) ** 2, weights=values[0])
    assert mean[2].item() == pytest.approx(pooled)
    assert spread[2].item() == pytest.approx(math.sqrt(variance))


def test_a_constant_network_keeps_a_finite_score() -> None:
    mean, deviation = MaxLogitStatistics.of(torch.full((1, 3, 40, 40), 1e30)).scale()
    assert deviation.tolist() == [1.0, 1.0, 1.0]
    assert torch.isfinite(sml(torch.full((1, 3, 40, 40), 1e30), mean, deviation)).all()


def test_logits_that_are_not_finite_are_refused() -> None:
    logits = random_logits(0)
    logits[0, 1, 3, 3] = math.nan
    with pytest.raises(ValueError, match="not finite"):
        MaxLogitStatistics.of(logits)


def test_boundary_is_cross_dilation_against_full_erosion() -> None:
    spot = torch.zeros(1, 5, 5, dtype=torch.int64)
    spot[0, 2, 2] = 1
    cross = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()
    assert torch.equal(boundaries(spot)[0], cross)  # the higher class grows by the cross
    square = torch.zeros(5, 5, dtype=torch.bool)
    square[1:4, 1:4] = True
    assert torch.equal(boundaries(1 - spot)[0], square)  # the lower one by the square
    assert not boundaries(torch.full((1, 4, 4), 7)).any()


def test_suppression_of_two_regions_worked_out_by_hand() -> None:
    """Boundary at columns 5 and 6, near it columns 2 to 9; from each side the next further column moves in."""
    predicted = (torch.arange(12) >= 6).long().expand(1, 3, 12)
    score = torch.arange(36.0).view(1, 3, 12) ** 2
    score[0, :, 1] = torch.tensor([0.0, 3.0, 6.0])
    score[0, :, 10] = torch.tensor([8.0, 8.0, 0.0])
    expected = score.clone()
    # Means over two rows at the upper and lower border, over three in the middle.
    expected[0, :, 2] = torch.tensor([1.5, 3.0, 4.5])
    expected[0, :, 3] = torch.tensor([2.25, 3.0, 3.75])
    expected[0, :, 4] = torch.tensor([2.625, 3.0, 3.375])
    expected[0, :, 5] = torch.tensor([2.8125, 3.0, 3.1875])
    expected[0, :, 9] = torch.tensor([8.0, 16 / 3, 4.0])
    expected[0, :, 8] = torch.tensor([20 / 3, 52 / 9, 14 / 3])
    expected[0, :, 7] = torch.tensor([56 / 9, 154 / 27, 47 / 9])
    expected[0, :, 6] = torch.tensor([161 / 27, 463 / 81, 295 / 54])
    torch.testing.assert_close(suppressed(score, predicted), expected)


def test_suppression_keeps_what_has_no_pixel_far_from_a_boundary() -> None:
    rows, columns = torch.arange(6)[:, None], torch.arange(7)
    board, score = ((rows + columns) % 2)[None], torch.rand(1, 6, 7, generator=torch.Generator().manual_seed(0))
    assert torch.equal(suppressed(score, board), score)


def test_smoothing_is_a_dilated_gaussian_with_repeated_borders() -> None:
    impulse = torch.zeros(1, 61, 71)
    impulse[0, 30, 35] = 1.0
    taps = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    taps /= taps.sum()
    expected = np.zeros((61, 71))
    expected[30 - 18 : 30 + 19 : 6, 35 - 18 : 35 + 19 : 6] = np.outer(taps, taps)
    np.testing.assert_allclose(smoothed(impulse)[0].numpy(), expected, atol=1e-7)
    corner = torch.zeros(1, 5, 9)
    corner[0, 0, 0] = 1.0
    assert smoothed(corner)[0, 0, 0].item() == pytest.approx(taps[:4].sum() ** 2)
    torch.testing.assert_close(smoothed(torch.full((2, 4, 4), 3.5)), torch.full((2, 4, 4), 3.5))


def test_score_of_two_regions_with_known_statistics() -> None:
    """Away from the boundary by the 4 pixels of the suppression and the 18 of the smoothing it is standardised only."""
    logits = torch.full((1, 3, 20, 100), -5.0)
    logits[:, 0, :, :50], logits[:, 2, :, 50:] = 10.0, 4.0
    mean, deviation = torch.tensor([9.0, 0.0, 8.0]), torch.tensor([0.5, 1.0, 2.0])
    score = sml(logits, mean, deviation)
    assert score.dtype == torch.float32
    torch.testing.assert_close(score[:, :, :27], torch.full((1, 20, 27), -2.0))  # -(10 - 9) / 0.5
    torch.testing.assert_close(score[:, :, -27:], torch.full((1, 20, 27), 2.0))  # -(4 - 8) / 2
    assert (score[0, 0].diff() >= -1e-6).all()
