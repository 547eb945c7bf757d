"""fp16 as types in the graph: where it is, where it must not be, and that the types fit together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from export_case import tiny_onnx

from mgcda_core.export.half import store_as_half, to_half

__all__ = ["tiny_onnx"]
ONES = np.ones((4, 4, 1, 1), np.float32)
ALONG_CHANNELS = np.array([1])
OVER_PIXELS = np.array([2, 3])


def _model(text: str, **constants: np.ndarray) -> ir.Model:
    """A graph of x float [1, 4, 8, 8] to y in ONNX' text form, its types inferred."""
    head = '<ir_version: 8, opset_import: ["" : 18]> g (float[1,4,8,8] x) => (float[1,C,8,8] y)'
    proto = onnx.parser.parse_model(f"{head} {{ {text} }}")
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True))


def _halved(text: str, **constants: np.ndarray) -> ir.Model:
    model = to_half(_model(text, **constants))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


def _run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def _types(model: ir.Model, *kinds: str) -> list[str]:
    """Type of the first input of every node of these kinds, in their order."""
    nodes = (node for node in model.graph if node.op_type in kinds)
    return [value.dtype.name for value in (node.inputs[0] for node in nodes) if value is not None and value.dtype]


def test_statistics_and_what_is_made_of_them_are_wide_until_the_next_convolution() -> None:
    model = _halved(
        """a = Conv(x, w) mean = ReduceMean(a, pixels) centred = Sub(a, mean) b = Relu(centred)
        c = Conv(b, w) d = Relu(c) y = Conv(d, w)""",
        w=ONES,
        pixels=OVER_PIXELS,
    )
    assert _types(model, "ReduceMean", "Sub") == ["FLOAT", "FLOAT"]
    assert _types(model, "Relu") == ["FLOAT", "FLOAT16"]
    assert _types(model, "Conv") == ["FLOAT16", "FLOAT16", "FLOAT"], "the last one makes the answer"


def test_products_under_a_sum_are_wide_and_one_wide_channel_widens_no_concatenation() -> None:
    model = _halved(
        """a = Conv(x, w) square = Mul(a, a) turned = Transpose <perm = [0, 2, 3, 1]> (square)
        back = Transpose <perm = [0, 3, 1, 2]> (turned) total = ReduceSum(back, channels)
        both = Concat <axis = 1> (a, total) b = Relu(both) c = Conv(b, v) d = Relu(c) y = Conv(d, w)""",
        w=ONES,
        v=np.ones((4, 5, 1, 1), np.float32),
        channels=ALONG_CHANNELS,
    )
    assert _types(model, "Mul", "Transpose", "ReduceSum") == ["FLOAT"] * 4
    assert _types(model, "Concat", "Relu") == ["FLOAT16"] * 3


def test_an_argmax_sees_what_its_convolution_made_in_fp32() -> None:
    model = _halved(
        """a = Conv(x, w) b = Relu(a) logits = Conv(b, w) best = ArgMax(logits) chosen = Cast <to = 1> (best)
        both = Mul(chosen, x) c = Conv(both, w) y = Conv(c, w)""",
        w=ONES,
    )
    assert _types(model, "ArgMax") == ["FLOAT"]
    assert _types(model, "Conv") == ["FLOAT16", "FLOAT", "FLOAT16", "FLOAT"]


def test_resizing_is_wide_whatever_comes_after() -> None:
    model = _halved(
        "rows = Reshape(x, shape) a = Conv(rows, u) back = Reshape(a, turned) b = Conv(back, w) y = Conv(b, w)",
        w=ONES,
        u=np.ones((1, 1, 1, 1), np.float32),
        shape=np.array([4, 1, 8, 8]),
        turned=np.array([1, 4, 8, 8]),
    )
    assert _types(model, "Conv") == ["FLOAT", "FLOAT16", "FLOAT"]


def test_batch_norm_keeps_a_variance_that_fp16_cannot_hold() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1e-4, (1, 4, 8, 8)).astype(np.float32)
    constants: dict[str, np.ndarray] = {
        "m": np.full(4, 1e-5, np.float32),
        "v": np.full(4, 1e-8, np.float32),
        "one": np.ones(4, np.float32),
    }
    text = "a = Conv(x, w) b = BatchNormalization <epsilon = 1e-12> (a, one, one, m, v) c = Relu(b) y = Conv(c, w)"
    constants["w"] = np.eye(4, dtype=np.float32).reshape(4, 4, 1, 1)
    expected = _run(_model(text, **constants), x)
    assert expected.max() > 2
    assert np.abs(_run(_halved(text, **constants), x) - expected).max() < 1e-2


def test_a_constant_beyond_fp16_is_named() -> None:
    with pytest.raises(ValueError, match="large holds values beyond 65504"):
        _halved("a = Conv(x, w) b = Add(a, large) y = Conv(b, w)", w=ONES, large=np.full(1, 1e5, np.float32))


def test_what_fp16_holds_is_stored_as_fp16_and_nothing_changes() -> None:
    rng = np.random.default_rng(0)
    held = rng.normal(0, 1, (32, 32, 1, 1)).astype(np.float16).astype(np.float32)
    longer, beyond = rng.normal(0, 1, (32, 32, 1, 1)).astype(np.float32), held * 65536
    text = """wide = Conv(x, enter) b = Conv(wide, held) c = BatchNormalization(b, one, one, one, one)
    d = Conv(c, longer) e = Conv(d, beyond) f = Conv(e, held) y = Conv(f, leave)"""
    constants = {
        "enter": np.ones((32, 4, 1, 1), np.float32), "leave": np.ones((4, 32, 1, 1), np.float32),
        "held": held, "longer": longer, "beyond": beyond, "one": np.ones(32, np.float32),
    }  # fmt: skip
    model, x = _model(text, **constants), rng.normal(0, 1, (1, 4, 8, 8)).astype(np.float32)
    expected = _run(model, x)
    store_as_half(model)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    half = [name for name, value in model.graph.initializers.items() if value.dtype == ir.DataType.FLOAT16]
    assert half == ["held_stored"] and "held" not in model.graph.initializers
    assert _types(model, "Cast") == ["FLOAT16"], "one cast for both convolutions"
    np.testing.assert_array_equal(_run(model, x), expected)


def test_the_chain_has_narrow_convolutions_and_wide_answers(tiny_onnx: Path) -> None:
    model = to_half(ir.load(tiny_onnx))
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert [value.dtype.name for value in (*model.graph.inputs, *model.graph.outputs)] == ["UINT8", "FLOAT", "UINT8"]  # pyright: ignore[reportOptionalMemberAccess]
    convolutions = _types(model, "Conv")
    assert len(convolutions) > 100 and convolutions.count("FLOAT") == 2, "the segmentation's last one and the answer's"
    assert set(_types(model, "ReduceMean", "ReduceSum", "ArgMax", "Exp", "Log", "LogSoftmax")) == {"FLOAT"}
    assert "BatchNormalization" not in {node.op_type for node in model.graph}


def test_the_parser_of_tensorrt_rtx_takes_the_typed_graph(tiny_onnx: Path) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    parsed = parser.parse(ir.to_proto(to_half(ir.load(tiny_onnx))).SerializeToString())
    assert parsed, [parser.get_error(number).desc() for number in range(parser.num_errors)]
