"""An exported chain of five nodes with a sidecar: for what the runtimes do around a graph, on frames of any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from mgcda_core.config import SegmenterConfig
from mgcda_core.inference.sidecar import Dimension, Input, Output, Precision, Sidecar, write_sidecar
from mgcda_core.weights.resolve import checksum

ANY: tuple[Dimension, ...] = ((1, 4), (2, 2160), (2, 4096), 3)
"""Batch, height, width, channels."""


def write_artefact(
    path: Path,
    shape: tuple[Dimension, ...] = ANY,
    precision: Precision = "fp32",
    weights_sha256: str = "0" * 64,
    graph: onnx.ModelProto | None = None,
) -> Path:
    """Write `path` and its sidecar; what it answers is `expected`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph or brightness(shape), path)
    write_sidecar(
        path,
        Sidecar(
            format="onnx",
            precision=precision,
            sha256=checksum(path),
            input=Input("image", shape),
            outputs=(
                Output("logits", shape[:3], "float32", "anomaly logits"),
                Output("segmentation", shape[:3], "uint8", "train ids"),
            ),
            config=SegmenterConfig(),
            threshold=0.7,
            weights_name="tiny",
            weights_sha256=weights_sha256,
            versions={"opset": "18"},
            gpu=None,
            onnx_sha256=None,
            parity=None,
            parity_note="not checked",
        ),
    )
    return path


def brightness(shape: tuple[Dimension, ...], cast_first: bool = True) -> onnx.ModelProto:
    """Logit: the mean of the colours / 64 - 2. Class: the strongest colour of each 2x2 block.

    `cast_first` false turns the uint8 frame before it is a float, which TensorRT's parser refuses.
    """
    dims = [size if isinstance(size, int) else f"dim{axis}" for axis, size in enumerate(shape)]
    turn, cast = "Transpose", "Cast"
    steps = [(cast, {"to": TensorProto.FLOAT}), (turn, {"perm": [0, 3, 1, 2]})]
    first, second = steps if cast_first else reversed(steps)
    nodes = [
        helper.make_node(first[0], ["image"], ["first"], **first[1]),
        helper.make_node(second[0], ["first"], ["frame"], **second[1]),
        helper.make_node("ReduceMean", ["frame", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "slope"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "two"], ["logits"]),
        helper.make_node("AveragePool", ["frame"], ["blocks"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("ArgMax", ["blocks"], ["strongest"], axis=1, keepdims=0),
        helper.make_node("Cast", ["strongest"], ["segmentation"], to=TensorProto.UINT8),
    ]
    constants = [
        helper.make_tensor("axes", TensorProto.INT64, [1], [1]),
        helper.make_tensor("slope", TensorProto.FLOAT, [], [1 / 64]),
        helper.make_tensor("two", TensorProto.FLOAT, [], [2.0]),
    ]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, dims)],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, dims[:3]),
            helper.make_tensor_value_info("segmentation", TensorProto.UINT8, [dims[0], None, None]),
        ],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def expected(images: np.ndarray) -> np.ndarray:
    """Logits float32 of uint8 [..., 3]."""
    return images.astype(np.float32).mean(-1) / 64 - 2
