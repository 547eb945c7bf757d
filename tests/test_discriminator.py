"""The CC-FPSE discriminator: sizes, parameters, spectral norm, and that labels matter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mgcda_core.models.discriminator import Discriminator


def test_three_scores_and_four_features() -> None:
    network = Discriminator(36, width=4)
    scores, features = network(torch.zeros(2, 3, 64, 128), torch.zeros(2, 36, 64, 128))
    assert [tuple(s.shape) for s in scores] == [(2, 1, 16, 32), (2, 1, 8, 16), (2, 1, 4, 8)]
    assert [tuple(f.shape) for f in features] == [(2, 8, 16, 32), (2, 16, 8, 16), (2, 32, 4, 8), (2, 32, 2, 4)]


def test_parameters_at_the_published_width_by_hand() -> None:
    w = 64
    encoder = 9 * (3 * w + w * 2 * w + 2 * w * 4 * w + 4 * w * 8 * w + 8 * w * 8 * w)
    lateral = (2 * w + 4 * w + 8 * w + 8 * w) * 4 * w
    final = 3 * 9 * 4 * w * 2 * w
    heads = (2 * w + 1) + (2 * w * 2 * w + 2 * w) + (36 * 2 * w + 2 * w)
    assert sum(p.numel() for p in Discriminator(36).parameters()) == encoder + lateral + final + heads == 5_175_873


def test_every_normed_convolution_has_spectral_norm_one() -> None:
    torch.manual_seed(0)
    network = Discriminator(36, width=4)
    image, maps = torch.randn(1, 3, 32, 32), torch.randn(1, 36, 32, 32)
    for _ in range(30):  # one power iteration a pass
        network(image, maps)
    convolutions = [m for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and "." in name]
    assert len(convolutions) == 12
    for convolution in convolutions:
        largest = torch.linalg.svdvals(convolution.weight.flatten(1))[0]
        assert float(largest.detach()) == pytest.approx(1.0, abs=0.03)


def test_pooling_the_labels_first_is_the_published_order() -> None:
    torch.manual_seed(0)
    network = Discriminator(36, width=4)
    feature, maps = torch.randn(2, 8, 8, 16), torch.randn(2, 36, 32, 64)
    published = F.avg_pool2d(F.avg_pool2d(network.embedding(maps), 2), 2)
    expected = network.real(feature) + (published * network.alignment(feature)).sum(1, keepdim=True)
    torch.testing.assert_close(network._score(feature, F.avg_pool2d(maps, 4)), expected, rtol=1e-4, atol=1e-5)


def test_the_same_picture_under_other_labels_scores_otherwise() -> None:
    torch.manual_seed(0)
    network = Discriminator(36, width=4).eval()
    image, maps = torch.randn(1, 3, 64, 64), torch.zeros(1, 36, 64, 64)
    other = maps.clone()
    other[:, 7, :, 32:] = 1
    for before, after in zip(network(image, maps)[0], network(image, other)[0], strict=True):
        half = before.shape[-1] // 2
        torch.testing.assert_close(before[..., :half], after[..., :half])
        assert (before[..., half:] - after[..., half:]).abs().min() > 1e-5
