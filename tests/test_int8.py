"""mgcda export --precision int8: which convolutions become it, which types stand in the graph, who takes it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from export_case import LARGEST, LEAST, MOST, tiny_onnx
from onnx import TensorProto, helper, numpy_helper

from mgcda_core.config import ConfigError
from mgcda_core.export import int8
from mgcda_core.export.command import export
from mgcda_core.export.int8 import Sensitivity, to_int8
from mgcda_core.export.onnx import NETWORKS, node_networks
from mgcda_core.inference.sidecar import read_sidecar

__all__ = ["tiny_onnx"]


LIMITS = (32, 48), (32, 48)
OF_THE_CHAIN = [name for name in NETWORKS if name != "student"]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """Four convolutions one after another: the networks in their order, the segmentation network's twice."""
    nodes = [
        helper.make_node("Cast", ["image"], ["wide"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["wide"], ["turned"], "turn", perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["turned", "share"], ["made0"], "scale"),
    ]
    rng = np.random.default_rng(0)
    constants: dict[str, Any] = {"share": np.float32(1 / 255), "channels": np.array([1])}
    parts = ("segmentation", "generator", "segmentation", "dissimilarity")
    for number, part in enumerate(parts):
        weight, bias = f"chain.{part}.0.weight", f"chain.{part}.0.bias"
        constants[weight] = rng.normal(0.1, 0.3, (3, 3, 1, 1)).astype(np.float32)
        constants[bias] = rng.normal(0, 0.3, 3).astype(np.float32)
        nodes.append(helper.make_node("Conv", [f"made{number}", weight, bias], [f"made{number + 1}"], f"conv{number}"))
    nodes.append(helper.make_node("ReduceMean", [f"made{len(parts)}", "channels"], ["logits"], "answer", keepdims=0))
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, (1, *LIMITS[0], 3))]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, *LIMITS[0]))]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    opset = [helper.make_opsetid("", 18)]
    path = tmp_path / "chain.onnx"
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", inputs, outputs, stored), opset_imports=opset, ir_version=10),
        path,
    )
    return path


def _quantised(path: Path) -> tuple[set[str], set[str]]:
    """Networks with a convolution that reads an int8 weight, and those with one that does not."""
    proto = onnx.load(path).graph
    made_by = {name: node.op_type for node in proto.node for name in node.output}
    found: tuple[set[str], set[str]] = set(), set()
    for node, network in zip(proto.node, node_networks(proto), strict=True):
        if network is not None and node.op_type == "Conv":
            found[made_by.get(node.input[1]) != "DequantizeLinear"].add(network)
    return found


def _zero_points(path: Path) -> tuple[set[int], set[int]]:
    """Types and values of the zero points of all activations."""
    proto = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in proto.initializer}
    zeros = [stored[node.input[2]] for node in proto.node if node.op_type == "QuantizeLinear"]
    return {zero.data_type for zero in zeros}, {
        int(value) for zero in zeros for value in numpy_helper.to_array(zero).flat
    }


def test_the_command_writes_it_and_says_what_it_measured(
    tiny_onnx: Path, tiny_weights: Path, drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr("mgcda_core.export.onnx.build_graph", lambda *_, **__: ir.load(tiny_onnx))
    flags: dict[str, Any] = {"min_size": LEAST, "max_size": LARGEST, "max_batch": MOST, "anomaly_values": "2"}
    own = tmp_path / "own"
    shutil.copytree(drive / "images", own)
    path = export(tmp_path / "out", str(tiny_weights), precision="int8", calibration=own, check=drive, **flags)
    said = capsys.readouterr().out
    rows = {line.split()[1]: line for line in said.splitlines() if line.startswith("int8: ")}
    assert list(rows) == OF_THE_CHAIN and "parity: onnxruntime tiny int8: frames=4" in said
    sidecar = read_sidecar(path)
    assert path.name.endswith("-int8.onnx") and sidecar.precision == "int8" and "onnxruntime" in sidecar.versions
    assert sidecar.parity is not None and sidecar.parity_note == "measured"
    assert 0 < (sidecar.parity["mean_score_difference"] or 0) < 0.02
    became, stayed = _quantised(path)
    assert became == {name for name, row in rows.items() if row.endswith(" int8")} and "segmentation" in became
    assert stayed == {name for name, row in rows.items() if row.endswith("stays fp32")} and "synthesis" in stayed
    types, values = _zero_points(path)
    assert types == {TensorProto.UINT8} and len(values) > 1, "what ONNX Runtime's kernels are fast with"


def test_tensorrt_gets_symmetric_ranges(graph: Path, drive: Path) -> None:
    to_int8(graph, drive / "images", LIMITS, symmetric=True)
    assert _zero_points(graph) == ({TensorProto.INT8}, {0})
    trt = pytest.importorskip("tensorrt_rtx")
    network = trt.Builder(logger := trt.Logger(trt.Logger.ERROR)).create_network(
        1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    )
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(graph.read_bytes()), parser.get_error(0).desc()


def test_what_moves_the_score_too_far_stays_fp32(graph: Path, drive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, frames = graph.read_bytes(), drive / "images"
    rows = {row.network: row.mean_difference for row in to_int8(graph, frames, LIMITS, symmetric=False)}
    assert list(rows) == OF_THE_CHAIN and all(0 < mean < int8.TOLERANCE for mean in rows.values())
    assert _quantised(graph) == ({"segmentation", "perceptual", "dissimilarity"}, {"synthesis"})
    del rows["synthesis"]
    fragile = max(rows, key=lambda network: rows[network])
    graph.write_bytes(before)
    monkeypatch.setattr(int8, "TOLERANCE", rows[fragile] * 0.999)
    to_int8(graph, frames, LIMITS, symmetric=False)
    assert _quantised(graph)[1] == {"synthesis", fragile}
    graph.write_bytes(before)
    monkeypatch.setattr(int8, "TOLERANCE", 0.0)
    with pytest.raises(ValueError, match=r"no network of chain.onnx may become int8"):
        to_int8(graph, frames, LIMITS, symmetric=False)
    assert graph.read_bytes() == before


def test_which_networks_become_int8() -> None:
    assert Sensitivity("segmentation", 1, int8.TOLERANCE, 1.0).becomes_int8
    assert not Sensitivity("segmentation", 1, int8.TOLERANCE * 1.01, 0.0).becomes_int8
    assert not Sensitivity("segmentation", 1, float("nan"), 0.0).becomes_int8
    assert not Sensitivity("synthesis", 1, 0.0, 0.0).becomes_int8
    assert str(Sensitivity("synthesis", 1, 0.0, 0.0)).endswith("stays fp32")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"precision": "int8"}, "needs --calibration DIR with frames of your own"),
        ({"calibration": Path("images")}, "--calibration is for precision int8, precision is fp32"),
        ({"precision": "int8", "calibration": Path("nowhere")}, "--calibration is nowhere, which is not there"),
        ({"precision": "int8", "calibration": Path("images"), "check": Path()}, "are the same frames"),
        ({"precision": "int8", "calibration": Path(), "check": Path()}, "are the same frames"),
    ],
)
def test_calibration_frames_are_the_users_own(
    flags: dict[str, Any], message: str, drive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(drive)
    with pytest.raises(ConfigError, match=message):
        export(drive / "out", "lite", **flags)
    assert not (drive / "out").exists()
