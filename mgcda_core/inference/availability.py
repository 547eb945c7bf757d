"""Which backends this machine can run, and what the others lack."""

from __future__ import annotations

import importlib.util
import re
import shutil

from mgcda_core.config import ConfigError
from mgcda_core.inference.engine import MODULES, REMEDY

BACKENDS = (
    "torch",
    "torch-compile",
    "torch-cudagraph",
    "onnxruntime",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "tensorrt",
    "tensorrt-rtx",
)
ON_GPU_ONLY = ("torch-cudagraph", "onnxruntime-cuda", "onnxruntime-tensorrt", "tensorrt", "tensorrt-rtx")

_NOT_RTX = ((8, 7), (9, 0))
"""Compute capabilities of Orin and H100, which TensorRT-RTX 1.7 does not list."""


def lack(backend: str, device: str = "auto") -> str | None:
    """What `backend` lacks on this machine to run on `device`, with the remedy; None if nothing.

    `device` is "auto", "cpu", "cuda" or "cuda:N". It looks for packages, providers and a GPU; nothing is loaded onto
    the GPU, so a driver that is broken shows when the backend is opened.
    """
    if backend in ON_GPU_ONLY and device == "cpu":
        return "it runs on a GPU only, device is cpu"
    if backend == "onnxruntime" and device.startswith("cuda"):
        return f"it runs on the CPU only, device is {device}: take onnxruntime-cuda"
    if backend.startswith("onnxruntime"):
        return _onnxruntime_lack(backend)
    if backend in MODULES and importlib.util.find_spec(MODULES[backend]) is None:
        return f"{MODULES[backend]} is missing: {REMEDY[backend]}"
    if importlib.util.find_spec("torch") is None:
        return "PyTorch is missing: pip install torch"
    if backend in ON_GPU_ONLY:
        return _gpu_lack(device) or (_rtx_lack(device) if backend == "tensorrt-rtx" else None)
    return _compiler_lack(device) if backend == "torch-compile" else None


def check_device(device: str) -> None:
    """Raises ConfigError unless `device` is auto, cpu, cuda or cuda:N."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise ConfigError(f"device is {device!r}; it must be auto, cpu, cuda or cuda:N")


def gpu_name(device: str = "auto") -> str | None:
    """Name of the GPU that `device` means, as PyTorch gives it; None without one."""
    if device == "cpu" or importlib.util.find_spec("torch") is None or _gpu_lack(device) is not None:
        return None
    import torch

    return torch.cuda.get_device_name(gpu_number(device))


def gpu_number(device: str) -> int:
    """N of "cuda:N"; 0 for "auto" and "cuda"."""
    return int(device.partition(":")[2] or 0)


def _onnxruntime_lack(backend: str) -> str | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return f"onnxruntime is missing: pip install onnxruntime{'' if backend == 'onnxruntime' else '-gpu'}"
    import onnxruntime

    provider = {
        "onnxruntime": "CPUExecutionProvider",
        "onnxruntime-cuda": "CUDAExecutionProvider",
        "onnxruntime-tensorrt": "TensorrtExecutionProvider",
    }[backend]
    if provider in onnxruntime.get_available_providers():
        return None
    return f"this onnxruntime has no {provider}: pip install onnxruntime-gpu (on a Jetson NVIDIA's wheel)"


def _gpu_lack(device: str) -> str | None:
    import torch

    count = torch.cuda.device_count()
    if gpu_number(device) < count:
        return None
    if count:
        return f"device {device} is not there: PyTorch sees {count} GPUs"
    return f"PyTorch sees no CUDA GPU (it is built for {f'CUDA {torch.version.cuda}' if torch.version.cuda else 'CPU'})"


def _rtx_lack(device: str) -> str | None:
    import torch

    capability = torch.cuda.get_device_capability(gpu_number(device))
    if capability not in _NOT_RTX:
        return None
    return f"TensorRT-RTX builds for no {gpu_name(device)} (SM {capability[0]}.{capability[1]}): take tensorrt"


def _compiler_lack(device: str) -> str | None:
    """torch.compile writes Triton for a GPU and C++ for a CPU."""
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return None if importlib.util.find_spec("triton") else "triton is missing: pip install triton"
    return None if shutil.which("g++") or shutil.which("clang++") else "it needs a C++ compiler: apt-get install g++"
