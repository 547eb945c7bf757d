"""Resizing in operators that every runtime takes: TensorRT has no Resize(antialias), no bytes and no doubles inside.

A side of one length is resized by a strided convolution: output pixels stand to the source's as p : q, so their
weights repeat after p of them, and p output channels of a convolution with stride q hold them all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from mgcda_core.models import resize

Kernel = Callable[[Any], Any]
"""Weight of a source pixel by its distance from the output pixel's centre, in pixels of the coarser of the two sides;
takes and gives an array or a tensor."""


@contextmanager
def plain_resizing() -> Iterator[None]:
    """Let the chain, while it is traced, resize with the functions of this module and keep bytes as floats."""
    kept = resize.resize_bicubic_u8, resize.resize_bicubic_float
    resize.resize_bicubic_u8, resize.resize_bicubic_float = bicubic_u8, bicubic_float
    try:
        with _PlainCalls():
            yield
    finally:
        resize.resize_bicubic_u8, resize.resize_bicubic_float = kept


class _PlainCalls(TorchFunctionMode):
    """Takes the place of two calls of torch."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Every call of a torch function comes here."""
        kwargs = kwargs or {}
        if func is F.interpolate and kwargs.get("antialias"):
            return antialiased(args[0], kwargs["size"])
        if func is Tensor.to and args[1:] == (torch.uint8,):  # all of them 0 to 255 already
            if args[0].is_floating_point():
                return args[0].floor()
            return args[0].float().to(torch.uint8)  # the train ids: TensorRT makes bytes of floats only, at an output
        return func(*args, **kwargs)


def antialiased(image: Tensor, size: tuple[int, int]) -> Tensor:
    """What `F.interpolate(image, size, mode="bilinear", antialias=True)` gives for float [B, C, H, W]."""
    for axis, target in ((2, size[0]), (3, size[1])):
        image = _resized(image, axis, target, _triangle, 1.0)
    return image


def bicubic_u8(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`resize.resize_bicubic_u8` for whole numbers in float32; where 22 fraction bits decide, 1 of 255 beside it."""
    for axis, target in resize._passes(image, size):
        image = (_resized(image, axis, target, _bicubic, 2.0) + 0.5).floor().clamp(0, 255)
    return image


def bicubic_float(score: Tensor, size: tuple[int, int]) -> Tensor:
    """`resize.resize_bicubic_float` in float32."""
    for axis, target in ((2, size[0]), (3, size[1])):
        score = _resized(score.float(), axis, target, _bicubic, 2.0)
    return score


def _resized(image: Tensor, axis: int, target: int, kernel: Kernel, reach: float) -> Tensor:
    """One side of [B, C, H, W] to `target` pixels; where one of the lengths is dynamic by a matrix, which is dearer."""
    length = image.shape[axis]
    if isinstance(length, int) and isinstance(target, int):
        return image if length == target else _convolved(image, axis, target, kernel, reach)
    weights = _matrix(length, target, kernel, image.device)
    return weights @ image if axis == 2 else image @ weights.t()


def _convolved(image: Tensor, axis: int, target: int, kernel: Kernel, reach: float) -> Tensor:
    """One side from one fixed length to another; `kernel` is zero from `reach` on."""
    channels, height, width = image.shape[1:]
    rows, length = axis == 2, image.shape[axis]
    stride = length // math.gcd(length, target)
    taps, total = _weights(length, target, kernel, reach)
    margin = (taps.shape[1] - stride) // 2
    made = F.conv2d(
        image.reshape(-1, 1, height, width),
        torch.from_numpy(taps.astype(np.float32)).reshape(
            (-1, 1, taps.shape[1], 1) if rows else (-1, 1, 1, taps.shape[1])
        ),
        stride=(stride, 1) if rows else (1, stride),
        padding=(margin, 0) if rows else (0, margin),
    )
    made = made.permute((0, 2, 1, 3) if rows else (0, 2, 3, 1))  # what the channels hold side by side
    made = made.reshape((-1, channels, target, width) if rows else (-1, channels, height, target))
    share = torch.from_numpy((1 / total).astype(np.float32))
    return made * (share[:, None] if rows else share)


def _weights(length: int, target: int, kernel: Kernel, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights [p, taps] of the first p outputs, and the sum [target] of each output's part inside the image."""
    repeats = math.gcd(length, target)
    stride, phases = length // repeats, target // repeats
    coarser = max(length / target, 1.0)
    margin = math.ceil(reach * coarser)
    position = np.arange(-margin, stride + margin)
    centre = (np.arange(phases) + 0.5) * stride / phases
    taps = kernel((position + 0.5 - centre[:, None]) / coarser)
    source = np.arange(repeats)[:, None, None] * stride + position
    return taps, (taps * ((source >= 0) & (source < length))).sum(2).ravel()


def _matrix(length: int, target: int, kernel: Kernel, device: torch.device) -> Tensor:
    """Weights [target, length] of every source pixel in every output pixel; the lengths may be symbolic."""
    # Distances times 2 * target are whole numbers, which float32 holds exactly as far as a frame reaches.
    centre = (2 * torch.arange(target, device=device, dtype=torch.float32) + 1) * length
    position = (2 * torch.arange(length, device=device, dtype=torch.float32) + 1) * target
    weights = kernel((position - centre[:, None]) / (2 * torch.sym_max(length, target)))
    return weights / weights.sum(1, keepdim=True)


def _triangle(distance: Any) -> Any:
    return (1 - abs(distance)).clip(0)


def _bicubic(distance: Any) -> Any:
    x, a = abs(distance), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return near * (x < 1) + far * ((x >= 1) & (x < 2))
