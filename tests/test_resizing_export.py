"""Resizing in plain operators: equal to PyTorch's and to the models' own, in double precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from mgcda_core.export import resizing
from mgcda_core.models import resize

SIZES = [
    ((720, 1280), (384, 768)),
    ((2, 2), (6, 10)),
    ((1, 1), (5, 7)),
    ((101, 33), (64, 128)),
    ((300, 2000), (384, 768)),
    ((7, 100), (7, 3)),
    ((8, 8), (8, 8)),
]


def _image(size: tuple[int, int]) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, *size), generator=torch.Generator().manual_seed(0)).float()


def _by_matrices(image: torch.Tensor, target: tuple[int, int], kernel: resizing.Kernel) -> torch.Tensor:
    """As where a length is dynamic."""
    sides = zip(image.shape[2:], target, strict=True)
    rows, columns = (resizing._matrix(length, wanted, kernel, image.device) for length, wanted in sides)
    return rows @ image @ columns.t()


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_antialiasing_both_ways_equals_pytorchs(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = _image(size)
    expected = F.interpolate(image.double(), target, mode="bilinear", antialias=True)
    for made in (resizing.antialiased(image, target), _by_matrices(image, target, resizing._triangle)):
        assert made.shape == expected.shape and made.dtype == torch.float32
        assert (made - expected).abs().max() < 2e-4, "of 255: float32 rounding"


@pytest.mark.parametrize(("size", "target"), SIZES)
def test_bicubic_equals_the_models(size: tuple[int, int], target: tuple[int, int]) -> None:
    image = _image(size)
    expected = resize.resize_bicubic_float(image, target)
    for made in (resizing.bicubic_float(image, target), _by_matrices(image, target, resizing._bicubic)):
        assert (made - expected).abs().max() < 2e-4
    whole = resize.resize_bicubic_u8(image.to(torch.uint8), target).float()
    difference = (resizing.bicubic_u8(image, target) - whole).abs()
    assert difference.max() <= 1
    assert difference.sum() <= 10 or (difference > 0).float().mean() < 1e-4, "only where a half is rounded"


def test_the_chain_resizes_so_only_while_it_is_traced() -> None:
    image, small = _image((9, 9)), (3, 3)
    plain, kept = F.interpolate(image, small, mode="bilinear"), resize.resize_bicubic_u8
    with resizing.plain_resizing():
        made = F.interpolate(image, small, mode="bilinear", antialias=True)
        assert torch.equal(made, resizing.antialiased(image, small)) and not torch.allclose(made, plain)
        assert torch.equal(F.interpolate(image, small, mode="bilinear"), plain)
        assert (image + 0.5).to(torch.uint8).dtype == torch.float32 and torch.equal(
            (image + 0.5).to(torch.uint8), image
        )
        assert torch.arange(3).to(torch.uint8).dtype == torch.uint8
        assert resize.resize_bicubic_u8 is resizing.bicubic_u8
    assert resize.resize_bicubic_u8 is kept
