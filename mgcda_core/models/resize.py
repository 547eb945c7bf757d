"""Resizing and 8-bit steps equal to Pillow's, for the published arithmetic (`scaling: reference`; spec 1.1, 1.4).

torch's own uint8 bicubic differs from Pillow in up to 1 % of values, by 1 or 2 (measured, torch 2.13, Pillow 13), so
Pillow's two passes are written out here: integer with 22 fraction bits for uint8, double for float maps.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_FRACTION_BITS = 22
_BICUBIC_A = -0.5
_BICUBIC_RADIUS = 2.0


def resize_bicubic_u8(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic resize of uint8 [B, C, H, W] to `size` (height, width), bit-equal to Pillow's; uint8 out."""
    if image.dtype != torch.uint8:
        raise ValueError(f"resize_bicubic_u8 takes uint8, got {image.dtype}")
    for axis, length in _passes(image, size):  # rounded and clipped in between
        if image.shape[axis] == length:
            continue
        first, taps = _bicubic_taps(image.shape[axis], length)
        whole = np.where(taps < 0, -0.5, 0.5) + taps * (1 << _FRACTION_BITS)
        total = _weighted_sum(image, axis, first, torch.from_numpy(whole.astype(np.int32)), torch.int32)
        image = ((total + (1 << (_FRACTION_BITS - 1))) >> _FRACTION_BITS).clamp(0, 255).to(torch.uint8)
    return image


def resize_bicubic_float(score: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic resize of a float map [B, C, h, w] to `size`, as Pillow does its mode F; float32, may overshoot."""
    score = score.float()
    for axis, length in _passes(score, size):
        if score.shape[axis] == length:
            continue
        first, taps = _bicubic_taps(score.shape[axis], length)
        score = _weighted_sum(score, axis, first, torch.from_numpy(taps), torch.float64).float()
    return score


def resize_nearest(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The source pixel under each output pixel's centre, [..., H, W] -> [..., *size], any type; Pillow's nearest.

    1024 x 2048 -> 256 x 512 takes [2::4, 2::4]; torch's mode "nearest" would take [::4, ::4] (spec 1.4).
    """
    for axis, length in ((-2, size[0]), (-1, size[1])):
        if x.shape[axis] != length:
            index = torch.from_numpy(_nearest_index(x.shape[axis], length)).to(x.device)
            x = x.index_select(axis, index)
    return x


def truncate_8bit(x: Tensor) -> Tensor:
    """[0, 1] floats to the 8-bit step below them, k / 255 with whole k: what a cast to uint8 and back does."""
    return (x * 255).clamp(0, 255).floor() / 255


def _passes(x: Tensor, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """(axis, target length) of the two passes: along rows first, unless Pillow 13 does columns first.

    It does where the height shrinks by more than twice what the width shrinks by (found by trial, holds on 6,600
    random sizes); Pillow 12 and older always go along rows first. It shows where a value is clipped in between.
    """
    along_rows, along_columns = (3, size[1]), (2, size[0])
    shrink_h, shrink_w = x.shape[2] - size[0], x.shape[3] - size[1]
    return (along_columns, along_rows) if shrink_h > max(0, 2 * shrink_w) else (along_rows, along_columns)


def _weighted_sum(x: Tensor, axis: int, first: np.ndarray, taps: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum over k of taps[:, k] * x taken at index first + k along `axis`, in `dtype`; taps past the end are 0."""
    length = x.shape[axis]
    shape = [1] * x.ndim
    shape[axis] = -1
    start = torch.from_numpy(first)
    total = None
    for k in range(taps.shape[1]):
        index = (start + k).clamp(max=length - 1).to(x.device)
        weight = taps[:, k].to(x.device).view(shape)
        term = x.index_select(axis, index).to(dtype) * weight
        total = term if total is None else total + term
    assert total is not None
    return total


@lru_cache(maxsize=64)
def _bicubic_taps(length: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """First source index int64 [target] and normalised weights float64 [target, taps] of Pillow's bicubic filter."""
    scale = length / target
    stretch = max(scale, 1.0)
    support = _BICUBIC_RADIUS * stretch
    count = int(np.ceil(support)) * 2 + 1
    centre = (np.arange(target) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), length)
    position = np.arange(count)[None, :]
    taps = _bicubic((position + first[:, None] - centre[:, None] + 0.5) * (1.0 / stretch))
    taps[position >= (last - first)[:, None]] = 0.0
    total = np.zeros(target)
    for k in range(count):  # in order, as Pillow sums: the last bit of the weights depends on it
        total += taps[:, k]
    return first, taps * (1.0 / total)[:, None]


def _bicubic(x: np.ndarray) -> np.ndarray:
    a, x = _BICUBIC_A, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


@lru_cache(maxsize=64)
def _nearest_index(length: int, target: int) -> np.ndarray:
    """Source index int64 [target]; the position is accumulated step by step, as Pillow does."""
    step = length / target
    position = np.cumsum(np.concatenate([[step * 0.5], np.full(target - 1, step)]))
    return np.minimum(position.astype(np.int64), length - 1)
