"""int8 where it pays: convolutions between QuantizeLinear and DequantizeLinear, for ranges measured on real frames.

Ranges are the least and the largest value of each tensor over the calibration frames; weights have one for every
channel. Only convolutions and matrix products are quantised: sums, resizes and activations in int8 cost the comparing
network ten times as much accuracy. Each of the chain's networks is quantised alone first and compared with the fp32
graph; one that moves the score too far stays fp32.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from mgcda_core.export.onnx import IMAGE, NETWORKS, node_networks
from mgcda_core.export.parity import fitted
from mgcda_core.inference.artefact import LOGITS
from mgcda_core.inference.sources import open_source

TOLERANCE = 0.01
"""Mean difference of the score, which lies in [0, 1], that a network may make when it alone is int8; lite's make 0.002
to 0.007."""
KEPT = ("synthesis",)
"""Networks that stay fp32 whatever the mean says: a hundred small convolutions between normalisations, which int8 makes
no faster, and which cost lite the most AP (docs/performance.md)."""
Frames = Callable[[], Iterator[np.ndarray]]
"""Gives the calibration frames from the first one on."""
_PRODUCTS = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class Sensitivity:
    """What one network in int8, the others in fp32, does to the score of the calibration frames."""

    network: str
    products: int
    """Convolutions and matrix products."""
    mean_difference: float
    largest_difference: float

    @property
    def becomes_int8(self) -> bool:
        """Whether it is int8 in what is written."""
        return self.network not in KEPT and self.mean_difference <= TOLERANCE

    def __str__(self) -> str:
        """A row of the table."""
        return (
            f"int8: {self.network:<13} products={self.products:<3} mean={self.mean_difference:.5f} "
            f"max={self.largest_difference:.3f} {'int8' if self.becomes_int8 else 'stays fp32'}"
        )


def to_int8(
    path: Path, calibration: Path, limits: tuple[tuple[int, int], tuple[int, int]], symmetric: bool
) -> list[Sensitivity]:
    """Quantise the exported fp32 graph `path` in place; print and return what was measured of each network.

    `calibration` is a source of `open_source`, whose frames are brought to the sizes within `limits`, the smallest and
    the largest (height, width) of the graph. `symmetric`: zero is zero, which TensorRT asks for; else uint8 with an
    offset, which ONNX Runtime's fast CPU kernels ask for. Raises what `open_source` raises, ValueError if no network
    may become int8.
    """

    def frames() -> Iterator[np.ndarray]:
        return (fitted(frame.image, *limits, cv2.INTER_AREA) for frame in open_source(calibration))

    nodes = _nodes(path)
    with tempfile.TemporaryDirectory(prefix="mgcda-int8-") as folder:
        ranges = Path(folder) / "ranges.json"
        alone = {network: Path(folder) / f"{network}.onnx" for network in nodes}
        for network, out in alone.items():
            _quantise(path, nodes[network], out, frames, symmetric, ranges)
        differences = _differences(path, alone, frames)
        found = [Sensitivity(network, len(names), *differences[network]) for network, names in nodes.items()]
        print("\n".join(map(str, found)))
        chosen = [name for row in found if row.becomes_int8 for name in nodes[row.network]]
        if not chosen:
            raise ValueError(
                f"no network of {path.name} may become int8, each moves the mean score by more than {TOLERANCE:g}: "
                "export fp16"
            )
        whole = Path(folder) / path.name
        _quantise(path, chosen, whole, frames, symmetric, ranges)
        path.write_bytes(whole.read_bytes())
    return found


def _nodes(path: Path) -> dict[str, list[str]]:
    """Names of the nodes of each network that can be int8."""
    graph = onnx.load(path).graph
    found: dict[str, list[str]] = {network: [] for network in NETWORKS}
    for node, network in zip(graph.node, node_networks(graph), strict=True):
        if network is not None and node.op_type in _PRODUCTS:
            found[network].append(node.name)
    return {network: names for network, names in found.items() if names}


def _quantise(path: Path, nodes: list[str], out: Path, frames: Frames, symmetric: bool, ranges: Path) -> None:
    """Write the graph with `nodes` in int8; the first call measures the ranges of all and writes them to `ranges`.

    Biases stay fp32: TensorRT takes no int32, and ONNX Runtime is as fast.
    """
    with _quiet():
        quantize_static(
            path,
            out,
            _Reader(frames()),
            op_types_to_quantize=list(_PRODUCTS),
            nodes_to_quantize=nodes,
            per_channel=True,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"ActivationSymmetric": symmetric, "QuantizeBias": False},
            calibration_cache_path=ranges,
        )


class _Reader(CalibrationDataReader):
    def __init__(self, frames: Iterator[np.ndarray]) -> None:
        self.frames = frames

    def get_next(self) -> dict[str, np.ndarray] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The graph's input for the next frame."""
        image = next(self.frames, None)
        return None if image is None else {IMAGE: image[None]}


def _differences(path: Path, alone: dict[str, Path], frames: Frames) -> dict[str, tuple[float, float]]:
    """Mean and largest difference of each graph's score to that of `path`, over all frames."""
    plain, sessions = _session(path), {network: _session(file) for network, file in alone.items()}
    means: dict[str, list[float]] = {network: [] for network in alone}
    largest = dict.fromkeys(alone, 0.0)
    for image in frames():
        true = _score(plain, image)
        for network, session in sessions.items():
            difference = np.abs(_score(session, image) - true)
            means[network].append(float(difference.mean()))
            largest[network] = max(largest[network], float(difference.max()))
    return {network: (float(np.mean(means[network])), largest[network]) for network in alone}


def _session(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def _score(session: Any, image: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-session.run([LOGITS], {IMAGE: image[None]})[0]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without onnxruntime's advice on preparing the graph, which it gives for every graph."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
