"""`mgcda doctor`: what is installed, which devices and backends there are, which weights are whole."""

from __future__ import annotations

import importlib.util
import os
import platform
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import PackageNotFoundError, version

import mgcda_core

# Distribution name -> what lacks without it; None: nothing works without it.
PACKAGES: dict[str, str | None] = {
    "numpy": None,
    "torch": None,
    "safetensors": None,
    "jsonargparse": "mgcda commands",
    "lightning-fabric": "mgcda train",
    "rosbags": "recordings as source",
    "onnx": "export, building engines",
    "onnxscript": "export",
    "onnxruntime": "ONNX backend",
    "tensorrt": "TensorRT backend",
    "tensorrt-rtx": "TensorRT-RTX backend",
}
OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")


def report() -> Iterator[str]:
    """Lines of the report, one finding each; a fault is a line, never an exception."""
    yield f"mgcda {mgcda_core.__version__}, Python {platform.python_version()}, {platform.platform()}"
    for name, lacks in PACKAGES.items():
        found = _version(name)
        yield _line(name, found or f"missing ({'needed' if lacks is None else f'only for: {lacks}'})")
    yield _line("opencv", next((f"{v} ({n})" for n in OPENCV if (v := _version(n))), None) or _opencv())
    yield _line("device", "; ".join(_guarded(_devices)))
    for name, found in _backends():
        yield _line(name, found)
    yield _line("backend auto", "; ".join(_guarded(_taken)))
    yield _line("ROS 2", _ros())
    for line in _guarded(_weights):
        yield _line("weights", line)


def _line(name: str, text: str) -> str:
    return f"{name:<28} {text}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _opencv() -> str:
    """The distribution's python3-opencv has no package metadata."""
    if importlib.util.find_spec("cv2") is None:
        return "missing (needed): pip install opencv-python-headless"
    import cv2

    return cv2.__version__


def _guarded(find: Callable[[], Iterator[str]]) -> list[str]:
    try:
        return list(find())
    except Exception as error:  # a broken driver or install is what this command is there to show
        return [f"error: {error}"]


def _devices() -> Iterator[str]:
    import torch

    yield f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    for number in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(number).total_memory / 2**30
        yield f"cuda:{number} {torch.cuda.get_device_name(number)}, {memory:.1f} GiB"
    if torch.cuda.device_count() == 0:
        yield f"no CUDA device (PyTorch built for {torch.version.cuda or 'CPU'})"


def _backends() -> Iterator[tuple[str, str]]:
    from mgcda_core.inference.availability import BACKENDS

    for name in BACKENDS:
        yield f"backend {name}", "; ".join(_guarded(partial(_backend, name)))


def _backend(name: str) -> Iterator[str]:
    from mgcda_core.inference.availability import lack

    yield lack(name) or "available"


def _taken() -> Iterator[str]:
    """What `auto` opens, by opening it: that a package is there does not say that it works."""
    from mgcda_core.inference.backend import open_backend
    from mgcda_core.weights.resolve import shipped_names

    for name in shipped_names():
        opened = open_backend(name)
        yield f"takes {opened.name} on {opened.device} for {name}"


def _ros() -> str:
    if importlib.util.find_spec("rclpy") is None:
        return "not found (only for the node: source /opt/ros/<distribution>/setup.bash)"
    found = _version("ros-rclpy") or _version("rclpy") or "of unknown version"
    return f"rclpy {found}, ROS_DISTRO={os.environ.get('ROS_DISTRO', 'not set')}"


def _weights() -> Iterator[str]:
    from mgcda_core.inference.artefact import exported_chains
    from mgcda_core.weights.resolve import load_weights, shipped_names

    for name in shipped_names() or [None]:
        if name is None:
            yield "none shipped"
            continue
        try:
            weights = load_weights(name)
            values = sum(tensor.numel() for tensor in weights.state.values()) / 1e6
            yield f"{name}, {values:.2f} M values, sha256 {weights.sha256[:12]}... as shipped"
            chains = ", ".join(chain.path.name for chain in exported_chains(name))
            yield f"exported chain beside {name}: {chains or 'none, so that only torch runs it (mgcda export)'}"
        except (ValueError, OSError) as error:
            yield f"{name}: error: {error}"
