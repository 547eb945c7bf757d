"""Weights stored as half floats become plain constants again: the shipped chain, as TensorRT is given it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from mgcda_core.inference.artefact import exported_chains
from mgcda_core.inference.widening import widened


def test_casts_of_constants_go_and_values_stay(tmp_path: Path) -> None:
    """One half float is cast, one is used as it is, and one both."""
    rng = np.random.default_rng(0)
    halves = {name: rng.normal(size=(3, 2)).astype(np.float16) for name in ("cast", "plain", "both")}
    nodes = [
        helper.make_node("Cast", ["cast"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["both"], ["wide_both"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.FLOAT16),
        helper.make_node("Sum", ["x", "wide", "wide_both"], ["sum"]),
        helper.make_node("Sum", ["x16", "plain", "both"], ["half"]),
    ]
    shape = {"elem_type": TensorProto.FLOAT, "shape": (3, 2)}
    typed = helper.make_tensor_value_info
    outputs = [typed("sum", **shape), typed("half", TensorProto.FLOAT16, (3, 2))]
    constants = [numpy_helper.from_array(value, name) for name, value in halves.items()]
    graph = helper.make_graph(nodes, "g", [typed("x", **shape)], outputs, constants)
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    made = widened(path)
    left = onnx.load_from_string(made).graph
    assert {tensor.name: tensor.data_type for tensor in left.initializer} == {
        "plain": TensorProto.FLOAT16,
        "both": TensorProto.FLOAT16,
        "wide": TensorProto.FLOAT,
        "wide_both": TensorProto.FLOAT,
    }
    assert [node.output[0] for node in left.node] == ["x16", "sum", "half"]
    x = {"x": rng.normal(size=(3, 2)).astype(np.float32)}
    for before, after in zip(_run(path.read_bytes(), x), _run(made, x), strict=True):
        assert (before == after).all()


def test_the_shipped_chain_has_no_cast_before_a_convolution() -> None:
    path = exported_chains("lite")[0].path
    stored, wide = onnx.load(path), onnx.load_from_string(widened(path))
    assert _cast_weights(stored.graph)
    assert not _cast_weights(wide.graph)
    assert len(wide.SerializeToString()) > 1.8 * path.stat().st_size


def _cast_weights(graph: onnx.GraphProto) -> list[str]:
    """Convolutions whose weights come out of a cast."""
    casts = {node.output[0] for node in graph.node if node.op_type == "Cast"}
    return [node.name for node in graph.node if node.op_type == "Conv" and node.input[1] in casts]


def _run(model: bytes, inputs: dict[str, np.ndarray]) -> Any:
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, inputs)
