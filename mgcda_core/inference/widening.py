"""Weights that `mgcda export --compact` stored as half floats, as plain float32 constants again.

ONNX Runtime computes the casts behind them when it opens the file. TensorRT takes a convolution whose weights come out
of a cast for one whose weights change from frame to frame, if it takes it at all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np


def widened(path: Path) -> bytes:
    """The ONNX file `path`, with every float16 constant that is cast to float32 as a float32 constant; nothing else
    changes, no value either. Raises ImportError without the package onnx.
    """
    import onnx
    from onnx import TensorProto, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    casts = [
        node for node in graph.node
        if node.op_type == "Cast" and node.input[0] in stored and node.attribute[0].i == TensorProto.FLOAT
    ]  # fmt: skip
    for cast in casts:
        numbers = numpy_helper.to_array(stored[cast.input[0]]).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(numbers, cast.output[0]))
        graph.node.remove(cast)
    read = {name for node in graph.node for name in node.input}
    for name, tensor in stored.items():
        if name not in read:
            graph.initializer.remove(tensor)
    return model.SerializeToString()
