"""Distances of pictures from photographs, against closed forms and hand cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from mgcda_core.evaluation.image_distance import ImageDistance, frechet_distance, perceptual_distance


def levels(image: Tensor) -> list[Tensor]:
    """A feature network made by hand: the image, and its halves' means stacked as channels."""
    return [image, torch.cat([image[..., ::2], image[..., 1::2].square()], 1)]


def test_commuting_gaussians_in_closed_form() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 1.0, 16.0])
    means = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, 0.0])
    found = frechet_distance(means[0], rotation * a @ rotation.T, means[1], rotation * b @ rotation.T)
    assert found == pytest.approx(5 + np.square(np.sqrt(a) - np.sqrt(b)).sum())


def test_gaussians_that_do_not_commute() -> None:
    """M 2x2 with positive eigenvalues p, q: Tr M^(1/2) = sqrt(p) + sqrt(q) = sqrt(Tr M + 2 sqrt(det M))."""
    a, b = np.array([[2.0, 1.0], [1.0, 2.0]]), np.array([[5.0, -1.0], [-1.0, 1.0]])
    cross = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    expected = np.trace(a) + np.trace(b) - 2 * cross
    assert frechet_distance(np.zeros(2), a, np.zeros(2), b) == pytest.approx(expected)
    assert frechet_distance(np.zeros(2), b, np.zeros(2), a) == pytest.approx(expected)


def test_singular_covariances_and_one_feature() -> None:
    flat = np.diag([1.0, 0.0])
    assert frechet_distance(np.zeros(2), flat, np.zeros(2), np.diag([0.0, 1.0])) == pytest.approx(2.0)
    assert frechet_distance(np.zeros(1), np.array(4.0), np.ones(1), np.array(9.0)) == pytest.approx(2.0)


def test_perceptual_distance_by_hand() -> None:
    """Unit vectors at a right angle are 2 apart, opposite ones 4, whatever their length; levels are summed."""
    a = torch.tensor([[3.0, 0.0], [0.0, 1.0]]).view(1, 2, 1, 2)  # positions (3, 0) and (0, 1)
    b = torch.tensor([[0.0, 0.0], [5.0, -7.0]]).view(1, 2, 1, 2)  # (0, 5) and (0, -7)
    assert float(perceptual_distance([a], [b])) == pytest.approx((2 + 4) / 2)
    assert float(perceptual_distance([a, a], [b, 10 * a])) == pytest.approx(3.0)


def test_identical_sets_are_at_distance_zero() -> None:
    distance = ImageDistance(levels)
    images = torch.rand(5, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    distance.add(images[:3], images[:3])
    distance.add(images[3:], images[3:])
    found = distance.result()
    assert found.images == 5
    assert found.perceptual == pytest.approx(0.0, abs=1e-9)
    assert found.frechet == pytest.approx(0.0, abs=1e-6)


def test_frechet_ignores_the_pairing_and_grows_with_a_shift() -> None:
    images = torch.rand(6, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    found = []
    for generated in (images.flip(0), images * 0.9, images * 0.5):
        distance = ImageDistance(levels)
        distance.add(generated, images)
        found.append(distance.result())
    assert found[0].frechet == pytest.approx(0.0, abs=1e-6)
    assert found[0].perceptual > 0.01
    assert 1e-3 < found[1].frechet < found[2].frechet


def test_one_pair_has_no_covariance() -> None:
    distance = ImageDistance(levels)
    distance.add(torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4))
    with pytest.raises(ValueError, match="1 pairs of images"):
        distance.result()
