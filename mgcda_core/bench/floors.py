"""What a frame must take at least: operations over the measured peak, bytes over the measured bandwidth.

Both are measured on this device with PyTorch: the best of matrix products and 3x3 convolutions, and of copies far
larger than any cache. `ORIN` estimates what NVIDIA's modules could reach from their data sheets.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from mgcda_core.bench.stages import Work, event_on, seconds_between

BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
_TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_EMULATED = ("cpu", "fp16")
"""Most CPUs do not compute in fp16, and PyTorch then takes minutes for one product."""
_REPEATS = 5
_SIDE = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the multiplied matrices."""
_COPIED = 1 << 28  # bytes


@dataclass(frozen=True)
class Limits:
    """What the device reached in measurements."""

    precision: str
    gflops: float | None
    """Peak of matrix products and convolutions; None where PyTorch has none (int8) or emulates it (fp16 on a CPU)."""
    gbytes: float
    """Read and written a second, 10**9 bytes."""


@dataclass(frozen=True)
class Module:
    """An NVIDIA Jetson module."""

    name: str
    tflops: float
    """FP16, dense, of the GPU's tensor cores: SMs x 2048 FLOP x clock, a quarter of the INT8 sparse figure NVIDIA
    advertises for the GPU."""
    gbytes: float


ORIN = (
    Module("Orin Nano 8GB (625 MHz)", 10.2, 68.0),
    Module("Orin Nano Super (1020 MHz)", 16.7, 102.0),
    Module("Orin NX 16GB (918 MHz)", 15.0, 102.4),
    Module("AGX Orin 64GB (1300 MHz)", 42.6, 204.8),
)
"""Clocks and bandwidths: NVIDIA's data sheets of the Jetson Orin Nano, Orin NX and AGX Orin series, and the Jetson AGX
Orin Technical Brief."""


def measure(device: torch.device, precision: str) -> Limits:
    """Peak and bandwidth of `device`, the best of a few tries of a second or less."""
    with torch.inference_mode():
        peak = None
        if precision in _TYPES and (device.type, precision) != _EMULATED:
            peak = max(_matrix_product(device, _TYPES[precision]), _convolution(device, _TYPES[precision])) / 1e9
        source = torch.ones(_COPIED // 4, device=device)
        target = torch.empty_like(source)
        return Limits(precision, peak, 2 * _COPIED / _best(lambda: target.copy_(source), device) / 1e9)


def floors_ms(work: Work, limits: Limits) -> dict[str, float | None]:
    """Milliseconds that operations and bytes take at least, and the larger."""
    moved = 1000 * work.bytes(BYTES[limits.precision]) / (limits.gbytes * 1e9)
    computed = None if limits.gflops is None else 1000 * work.flops / (limits.gflops * 1e9)
    return {"flops_ms": computed, "bytes_ms": moved, "larger_ms": max(moved, computed or 0.0)}


def orin_estimates(work: Work) -> list[dict[str, float | str]]:
    """The floor of every module of `ORIN` in FP16, and frames a second at it and at three times it."""
    rows: list[dict[str, float | str]] = []
    for module in ORIN:
        floor = floors_ms(work, Limits("fp16", 1000 * module.tflops, module.gbytes))["larger_ms"]
        assert floor is not None
        rows.append({"module": module.name, "tflops": module.tflops, "gbytes_s": module.gbytes, "floor_ms": floor,
                     "fps_at_floor": 1000 / floor, "fps_at_3x_floor": 1000 / (3 * floor)})  # fmt: skip
    return rows


def _matrix_product(device: torch.device, kind: torch.dtype) -> float:
    side = _SIDE[device.type]
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    return 2 * side**3 / _best(lambda: a @ b, device)


def _convolution(device: torch.device, kind: torch.dtype) -> float:
    channels, height, width = (512, 256, 512) if device.type == "cuda" else (256, 64, 128)
    x = torch.randn(1, channels, height, width, device=device).to(kind).to(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(kind).to(memory_format=torch.channels_last)
    flops = 2 * 9 * channels**2 * height * width
    return flops / _best(lambda: F.conv2d(x, weight, padding=1), device)


def _best(run: Callable[[], object], device: torch.device) -> float:
    """Fewest seconds of a few runs, after one that is not timed."""
    run()
    times = []
    for _ in range(_REPEATS):
        if device.type == "cuda":
            begun = event_on(device)
            run()
            times.append(seconds_between(begun, event_on(device)))
        else:
            started = time.perf_counter()
            run()
            times.append(time.perf_counter() - started)
    return min(times)
