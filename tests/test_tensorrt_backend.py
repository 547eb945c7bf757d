"""The TensorRT backend as far as it goes without a GPU: what it refuses, and that what it calls is there.

Running an engine was not tested: no GPU was at hand.
"""

from __future__ import annotations

import dataclasses
import re
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny_artefact import write_artefact

from mgcda_core.inference import tensorrt_backend
from mgcda_core.inference.artefact import MOST_SHAPES, ExportedBackend
from mgcda_core.inference.engine import EngineError, Library
from mgcda_core.inference.sidecar import ArtefactError, Sidecar, read_sidecar, sidecar_path, write_sidecar
from mgcda_core.inference.tensorrt_backend import TensorRTBackend, check_engine, check_tensors


@pytest.fixture()
def engine(tmp_path: Path) -> Path:
    """An engine by its sidecar; its bytes are none."""
    onnx = write_artefact(tmp_path / "tiny.onnx")
    path = tmp_path / "e" / "tiny.engine"
    path.parent.mkdir()
    path.write_bytes(onnx.read_bytes())
    write_sidecar(path, engine_sidecar(read_sidecar(onnx)))
    return path


def engine_sidecar(source: Sidecar, library: Library = "tensorrt") -> Sidecar:
    return dataclasses.replace(
        source, format=library, versions={library: "10.3"}, gpu="Orin", onnx_sha256=source.sha256
    )


@pytest.fixture()
def orin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_backend, "lack", lambda library, device: None)
    monkeypatch.setattr(tensorrt_backend, "gpu_name", lambda device: "Orin")
    monkeypatch.setattr(tensorrt_backend, "load_library", lambda library: SimpleNamespace(__version__="10.3"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_gpu_or_library_it_says_so_in_one_sentence(engine: Path) -> None:
    with pytest.raises(
        EngineError, match=r"tiny.engine needs tensorrt: (tensorrt is missing: .+|PyTorch sees no CUDA GPU.+)"
    ):
        TensorRTBackend(engine)
    rtx = engine_sidecar(read_sidecar(engine), "tensorrt-rtx")
    with pytest.raises(EngineError, match=r"needs tensorrt-rtx: it runs on a GPU only, device is cpu"):
        check_engine(rtx, engine, "cpu")


def test_an_engine_of_another_version_or_gpu_is_refused(engine: Path, orin: None) -> None:
    made = read_sidecar(engine)
    assert check_engine(made, engine, "auto") == "tensorrt"
    assert check_engine(dataclasses.replace(made, gpu=None), engine, "auto") == "tensorrt"  # built for any
    for fields, said in (
        ({"versions": {"tensorrt": "8.6"}}, "was built with tensorrt 8.6, installed is 10.3: build it again"),
        ({"versions": {}}, "was built with tensorrt None, installed is 10.3"),
        ({"gpu": "Xavier"}, "was built for Xavier, this GPU is Orin: build it again"),
        ({"format": "onnx"}, "is no engine: build one from it with mgcda build-engine"),
    ):
        with pytest.raises(EngineError, match=re.escape(said)):
            check_engine(dataclasses.replace(made, **fields), engine, "auto")  # type: ignore[arg-type]


def test_the_engines_tensors_must_be_those_of_the_sidecar(engine: Path) -> None:
    def with_types(**types: str) -> Any:
        return SimpleNamespace(
            num_io_tensors=len(types),
            get_tensor_name=lambda number: list(types)[number],
            get_tensor_dtype=lambda name: SimpleNamespace(name=types[name]),
        )

    sidecar = read_sidecar(engine)
    check_tensors(with_types(image="UINT8", logits="FLOAT", segmentation="UINT8"), sidecar, engine)
    with pytest.raises(ArtefactError, match="'logits': 'HALF'"):
        check_tensors(with_types(image="UINT8", logits="HALF", segmentation="UINT8"), sidecar, engine)
    with pytest.raises(ArtefactError, match="has the tensors"):
        check_tensors(with_types(image="UINT8", logits="FLOAT"), sidecar, engine)


def test_without_its_sidecar_nothing_is_opened(engine: Path) -> None:
    sidecar_path(engine).unlink()
    with pytest.raises(ArtefactError, match=r"has no tiny\.engine\.json"):
        TensorRTBackend(engine)


class Context:
    """Of an engine whose logits are the shape and address it was given, in the order of what was done with it."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shape = shape
        self.done.append(("shape", shape))
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.shape[:3]

    def set_tensor_address(self, name: str, address: int) -> None:
        self.done.append((name, address))

    def execute_async_v3(self, stream: int) -> bool:
        self.done.append("run")
        return True


def test_cameras_that_take_turns_keep_their_buffers_and_graphs(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context, made = Context(), []
    empty = torch.empty

    def counted(*size: Any, pin_memory: bool = False, **kind: Any) -> torch.Tensor:
        made.append(size)
        return empty(*size, **kind)

    def recorded(_: TensorRTBackend) -> Any:
        context.done.append("recorded")
        return lambda: context.done.append("replay")

    monkeypatch.setattr(torch, "empty", counted)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(TensorRTBackend, "_recorded", recorded)
    backend = TensorRTBackend.__new__(TensorRTBackend)
    ExportedBackend.__init__(backend, engine)
    backend._context, backend._gpu, backend._records_itself = context, torch.device("cpu"), False
    backend._stream = cast("Any", SimpleNamespace(synchronize=lambda: None, cuda_stream=0))
    backend._buffers, backend._bound = {}, None
    shapes = [(1, 8 * number, 8, 3) for number in range(1, MOST_SHAPES + 2)]

    def run(shape: tuple[int, ...]) -> list[Any]:
        context.done.clear()
        backend._answer(np.zeros(shape, np.uint8))
        return [entry for entry in context.done if isinstance(entry, str) or entry[0] == "shape"]

    for shape in shapes[:MOST_SHAPES]:
        assert run(shape) == [("shape", shape), "run", "recorded", "replay"]
    made.clear()
    for shape in (*shapes[:MOST_SHAPES], *shapes[:MOST_SHAPES]):
        assert run(shape) == [("shape", shape), "replay"]
        assert run(shape) == ["replay"]
    assert (made, len(backend._buffers)) == ([], MOST_SHAPES)
    assert "run" in run(shapes[-1])
    assert run(shapes[1]) == [("shape", shapes[1]), "replay"]
    assert "run" in run(shapes[0])  # rested longest: made room for the last one
    assert len(backend._buffers) == MOST_SHAPES


def test_what_it_calls_is_there() -> None:
    """Names only, of TensorRT-RTX; that the calls do what they should needs a GPU."""
    trt = pytest.importorskip("tensorrt_rtx")
    context = ("set_input_shape", "get_tensor_shape", "set_tensor_address", "execute_async_v3")
    engine = (
        "get_tensor_name",
        "num_io_tensors",
        "get_tensor_dtype",
        "create_runtime_config",
        "create_execution_context",
    )
    assert set(context) <= set(dir(trt.IExecutionContext))
    assert set(engine) <= set(dir(trt.ICudaEngine))
    assert hasattr(trt.Runtime, "deserialize_cuda_engine")
    assert hasattr(trt.IRuntimeConfig, "cuda_graph_strategy")
    assert {"UINT8", "FLOAT"} <= set(trt.DataType.__members__)
    assert "WHOLE_GRAPH_CAPTURE" in trt.CudaGraphStrategy.__members__
