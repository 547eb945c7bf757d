"""fp16 as a strongly typed graph: the type of every tensor stands in the ONNX file, with casts where it changes.

Convolutions and matrix products compute in fp16, and so does what follows them element by element. Sums over many
values and what they are made of (softmax, entropy, normalisation statistics, correlation), exponentials and divisions,
and everything from the last convolution to an output or an argmax stay in fp32: there fp16 would lose the answer, not
digits of it. TensorRT 10 and later builds such a graph as it stands; no runtime chooses types.

`store_as_half` changes what an fp32 graph takes on disk, not what it computes.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16

_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
_SUMS = {"ReduceMean", "ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare", "GlobalAveragePool"}
_WIDE = _SUMS | {"Softmax", "LogSoftmax", "Exp", "Log", "Sqrt", "Reciprocal", "Pow", "Div"}
_ANSWERS = {"Softmax", "LogSoftmax", "ArgMax"}
_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Abs", "Neg"}
_TERMS = {"Mul", "Sub", "Pow"}
_LARGEST = float(np.finfo(np.float16).max)
_WORTH_A_CAST = 1024  # numbers: a smaller constant saves little, and TensorRT folds batch norm of plain ones only


def to_half(model: ir.Model) -> ir.Model:
    """The same graph with fp16 where it does no harm, in place; inputs and outputs keep their types.

    Takes a graph whose values all have a type, with constants as initializers. Raises ValueError naming a constant
    that fp16 cannot hold.
    """
    graph = model.graph
    for node in list(graph):
        if node.op_type == "BatchNormalization":
            _batch_norm_to_scale_and_shift(node)
    wide = _wide_nodes(graph)
    for node in graph:
        if node not in wide:
            _narrow_outputs(node)
    typed = _Typed(graph)
    for node in list(graph):
        for index in _float_inputs(node):
            typed.convert_input(node, index, FLOAT if node in wide else HALF)
    typed.drop_unused()
    return model


def store_as_half(model: ir.Model) -> None:
    """Write constants that fp16 holds exactly as fp16 with a cast to fp32 behind them, in place; no value changes.

    Runtimes compute the casts when they open the file. Takes a graph with constants as initializers, in which batch
    norm is not folded into convolutions: products of two such numbers are longer than fp16.
    """
    graph = model.graph
    typed = _Typed(graph)
    for node in list(graph):
        for value in node.inputs:
            if value is not None and (half := _exact_half(value)) is not None:
                stored = _initializer(graph, ir.tensor(half, name=f"{value.name}_stored"))
                ir.convenience.replace_all_uses_with(value, typed.cast(stored, FLOAT, node))
    typed.drop_unused()


def _exact_half(value: ir.Value) -> np.ndarray | None:
    """The numbers of a large constant in fp16, if they are the same there."""
    if not value.is_initializer() or value.const_value is None or value.dtype != FLOAT:
        return None
    numbers = value.const_value.numpy()
    if numbers.size < _WORTH_A_CAST:
        return None
    with np.errstate(over="ignore"):  # what is too large becomes infinite, which is another number
        half = numbers.astype(np.float16)
    return half if np.array_equal(half, numbers) else None


def _wide_nodes(graph: ir.Graph) -> set[ir.Node]:
    """Nodes that compute in fp32; the nodes of a graph come in an order in which they can run."""
    answers = [value for node in graph if node.op_type in _ANSWERS for value in node.inputs]
    wide = _back_to_products([*graph.outputs, *answers])
    for node in graph:
        if node.op_type in _SUMS:
            wide |= _summed(node.inputs[0])
    for node in graph:
        if node.op_type in _WIDE or _follows_wide(node, wide):
            wide.add(node)
    return wide


def _follows_wide(node: ir.Node, wide: set[ir.Node]) -> bool:
    """As in PyTorch the wider type wins, but one wide channel does not widen all it is put beside."""
    if node.op_type in _PRODUCTS and not _resizes(node):
        return False
    inputs = [value for value in (node.inputs[index] for index in _float_inputs(node)) if value is not None]
    types = [value.producer() in wide for value in inputs if value.producer() is not None]
    if not types:  # made of whole numbers or truth values; of these fp16 holds every one
        source = node.inputs[0] if node.inputs else None
        return source is None or source.dtype != ir.DataType.BOOL
    return all(types) if node.op_type in ("Concat", "MatMul") else any(types)


def _resizes(node: ir.Node) -> bool:
    """A product that resizes pixels: a convolution of each channel alone, or of an image by computed weights."""
    weights = node.inputs[1]
    if weights is None or not weights.is_initializer():
        return node.op_type == "MatMul"
    group = node.attributes["group"].as_int() if "group" in node.attributes else 1
    return node.op_type == "Conv" and group == 1 and weights.shape is not None and weights.shape[1] == 1


def _back_to_products(values: Iterable[ir.Value | None]) -> set[ir.Node]:
    """What makes `values`, back to the last convolutions or matrix products, those included."""
    found: set[ir.Node] = set()
    waiting = [value.producer() for value in values if value is not None]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        found.add(node)
        if node.op_type not in _PRODUCTS:
            waiting += [value.producer() for value in node.inputs if value is not None and value.dtype == FLOAT]
    return found


def _summed(value: ir.Value | None) -> set[ir.Node]:
    """The products or differences a sum is over, and what turns them: a * b of a correlation, x * x of a variance."""
    found: set[ir.Node] = set()
    node = None if value is None else value.producer()
    while node is not None and node.op_type in _MOVES:
        found.add(node)
        source = node.inputs[0]
        node = None if source is None else source.producer()
    return found | {node} if node is not None and node.op_type in _TERMS else set()


def _float_inputs(node: ir.Node) -> list[int]:
    """Inputs whose type follows the node's; the scales of Resize are float32 whatever it resizes."""
    last = 1 if node.op_type == "Resize" else len(node.inputs)
    return [i for i, value in enumerate(node.inputs[:last]) if value is not None and value.dtype in (FLOAT, HALF)]


def _narrow_outputs(node: ir.Node) -> None:
    for value in node.outputs:
        if value.dtype == FLOAT:
            value.dtype = HALF
    if node.op_type == "Cast" and node.attributes["to"].as_int() == FLOAT:
        node.attributes["to"] = ir.AttrInt64("to", HALF)


class _Typed:
    """The values of a graph in the other type, each made once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def convert_input(self, node: ir.Node, index: int, dtype: ir.DataType) -> None:
        """Let input `index` of `node` have type `dtype`."""
        value = node.inputs[index]
        assert value is not None
        if value.dtype != dtype:
            if (value, dtype) not in self.made:
                self.made[value, dtype] = self._constant(value) if value.is_initializer() else self.cast(value, dtype)
            node.replace_input_with(index, self.made[value, dtype])

    def drop_unused(self) -> None:
        """Remove the constants that are only used in the other type."""
        for name, value in list(self.graph.initializers.items()):
            if not value.uses():
                del self.graph.initializers[name]

    def cast(self, value: ir.Value, dtype: ir.DataType, reader: ir.Node | None = None) -> ir.Value:
        """A new value: `value` in another type, made as soon as it is there; if it is a constant, before `reader`."""
        cast = ir.node("Cast", [value], {"to": dtype})
        cast.outputs[0].name = f"{value.name}_{'fp32' if dtype == FLOAT else 'fp16'}"
        cast.outputs[0].dtype, cast.outputs[0].shape = dtype, value.shape
        if (producer := value.producer()) is None:
            self.graph.insert_before(reader or self.graph[0], cast)
        else:
            self.graph.insert_after(producer, cast)
        return cast.outputs[0]

    def _constant(self, value: ir.Value) -> ir.Value:
        assert value.const_value is not None
        numbers = value.const_value.numpy()
        if numbers.size and not np.abs(numbers).max() <= _LARGEST:
            raise ValueError(
                f"{value.name} holds values beyond {_LARGEST:.0f}, which fp16 cannot hold: export it in fp32"
            )
        tensor = ir.tensor(numbers.astype(np.float16), name=f"{value.name}_fp16")
        return _initializer(self.graph, tensor)


def _initializer(graph: ir.Graph, tensor: ir.TensorProtocol) -> ir.Value:
    value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)  # pyright: ignore[reportArgumentType]
    graph.register_initializer(value)
    return value


def _batch_norm_to_scale_and_shift(node: ir.Node) -> None:
    """(x - mean) / sqrt(variance + eps) * gamma + beta as x * scale + shift: the variance may be too small for fp16."""
    x, *constants = node.inputs
    gamma, beta, mean, variance = (value.const_value.numpy().astype(np.float64) for value in constants)  # pyright: ignore[reportOptionalMemberAccess]
    graph, made = node.graph, node.outputs[0]
    assert isinstance(graph, ir.Graph) and x is not None
    eps = node.attributes["epsilon"].as_float() if "epsilon" in node.attributes else 1e-5
    scale = gamma / np.sqrt(variance + eps)
    shape = (-1,) + (1,) * (len(made.shape or ()) - 2)
    factor, offset = (
        _initializer(graph, ir.tensor(numbers.astype(np.float32).reshape(shape), name=f"{made.name}_{name}"))
        for name, numbers in (("scale", scale), ("shift", beta - mean * scale))
    )
    scaled = ir.node("Mul", [x, factor])
    shifted = ir.node("Add", [scaled.outputs[0], offset])
    for new, name in ((scaled, f"{made.name}_scaled"), (shifted, f"{made.name}_shifted")):
        new.outputs[0].name = name
        new.outputs[0].dtype, new.outputs[0].shape = FLOAT, made.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [scaled, shifted], [made], [shifted.outputs[0]])
