"""An engine in TensorRT or TensorRT-RTX on an NVIDIA GPU; PyTorch lends its memory, streams and CUDA graphs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mgcda_core.inference.artefact import LOGITS, MOST_SHAPES, SEGMENTATION, ExportedBackend
from mgcda_core.inference.availability import gpu_name, gpu_number, lack
from mgcda_core.inference.engine import EngineError, Library, load_library
from mgcda_core.inference.sidecar import ArtefactError, Sidecar

if TYPE_CHECKING:
    from torch import Tensor

AGAIN = "build it again with mgcda build-engine"


class TensorRTBackend(ExportedBackend):
    """NAME.engine with its sidecar; implements `inference.backend.Backend`, one thread at a time.

    A frame goes over pinned memory to the GPU, through the whole chain and back on one stream, with one wait at the
    end. For each shape that comes buffers are made and the engine's launches recorded as a CUDA graph; those of the
    last MOST_SHAPES are kept. Raises as `ExportedBackend`, EngineError with the remedy: no GPU, library missing, an
    engine of another version or GPU; a frame raises RuntimeError if TensorRT fails.

    Written against the documentation of TensorRT 8.6 to 11 and TensorRT-RTX 1.7; it was not run on a GPU yet.
    """

    def __init__(self, engine: str | Path, device: str = "auto") -> None:
        super().__init__(engine)
        self.runtime = library = check_engine(self.sidecar, self.artefact, device)
        import torch

        self._gpu = torch.device("cuda", gpu_number(device))
        with torch.cuda.device(self._gpu):
            self._trt = load_library(library)
            self._runtime = self._trt.Runtime(self._trt.Logger(self._trt.Logger.ERROR))
            self._engine = self._runtime.deserialize_cuda_engine(self.artefact.read_bytes())
            if self._engine is None:
                raise EngineError(f"{library} {self._trt.__version__} cannot load {self.artefact}: {AGAIN}")
            check_tensors(self._engine, self.sidecar, self.artefact)
            self._records_itself = library == "tensorrt-rtx"
            self._context = (
                _recording_context(self._trt, self._engine)
                if self._records_itself
                else self._engine.create_execution_context()
            )
            self._stream = torch.cuda.Stream()
        self._buffers: dict[tuple[int, ...], _Buffers] = {}
        self._bound: _Buffers | None = None
        self.device = f"{self._gpu} {torch.cuda.get_device_name(self._gpu)}"

    def _answer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        with torch.cuda.device(self._gpu), torch.cuda.stream(self._stream):
            buffers = self._ready(images.shape)
            buffers.host_image.numpy()[:] = images
            buffers.image.copy_(buffers.host_image, non_blocking=True)
            buffers.launch()
            for name, output in buffers.outputs.items():
                buffers.host_outputs[name].copy_(output, non_blocking=True)
            self._stream.synchronize()
            # A copy, as the caller makes one of the train ids: the pinned memory belongs to the next frame.
            return buffers.host_outputs[LOGITS].numpy().copy(), buffers.host_outputs[SEGMENTATION].numpy()

    def _ready(self, shape: tuple[int, ...]) -> _Buffers:
        """Buffers for frames of this shape, which the context knows of; those that rested longest make room."""
        buffers = self._buffers.pop(shape, None)
        if buffers is None:
            while len(self._buffers) >= MOST_SHAPES:
                del self._buffers[next(iter(self._buffers))]
            self._bound = None  # what goes goes before the new one comes
            buffers = self._prepared(shape)
        elif buffers is not self._bound:  # then its graph holds again: NVIDIA's TensorRT-Edge-LLM keeps several as well
            self._set_shape(shape)
            self._bind(buffers)
        self._buffers[shape] = buffers
        return buffers

    def _prepared(self, shape: tuple[int, ...]) -> _Buffers:
        """Buffers for frames of this shape, known to the context, and its launches recorded where that is possible."""
        self._set_shape(shape)
        shapes = {output: tuple(self._context.get_tensor_shape(output)) for output in (LOGITS, SEGMENTATION)}
        buffers = _Buffers(shape, shapes, self._gpu)
        self._bind(buffers)
        self._execute()  # allocates and compiles what is allocated and compiled at the first run: not to be recorded
        self._stream.synchronize()
        buffers.launch = self._execute if self._records_itself else self._recorded()
        return buffers

    def _set_shape(self, shape: tuple[int, ...]) -> None:
        name = self.sidecar.input.name
        if not self._context.set_input_shape(name, shape):
            raise EngineError(
                f"{self.artefact} does not take frames of shape {list(shape)}, as its sidecar says: {AGAIN}"
            )

    def _bind(self, buffers: _Buffers) -> None:
        for tensor, memory in {self.sidecar.input.name: buffers.image, **buffers.outputs}.items():
            self._context.set_tensor_address(tensor, memory.data_ptr())
        self._bound = buffers

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError(f"{self.name} did not run the frame: see what TensorRT wrote on stderr")

    def _recorded(self) -> Any:
        import torch

        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread, such as the one that still serves with PyTorch, may use the GPU meanwhile.
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            self._execute()
        return graph.replay


class _Buffers:
    """Memory of one frame shape, on the GPU and pinned on the host."""

    def __init__(self, shape: tuple[int, ...], outputs: dict[str, tuple[int, ...]], gpu: Any) -> None:
        import torch

        types = {LOGITS: torch.float32, SEGMENTATION: torch.uint8}
        self.host_image: Tensor = torch.empty(shape, dtype=torch.uint8, pin_memory=True)
        self.image: Tensor = torch.zeros(shape, dtype=torch.uint8, device=gpu)
        self.outputs = {name: torch.empty(size, dtype=types[name], device=gpu) for name, size in outputs.items()}
        self.host_outputs = {
            name: torch.empty(size, dtype=types[name], pin_memory=True) for name, size in outputs.items()
        }
        self.launch: Any = None


def check_engine(sidecar: Sidecar, artefact: Path, device: str) -> Library:
    """The library that runs an engine. Raises EngineError if it is missing, or if library or GPU are others."""
    if sidecar.format == "onnx":
        raise EngineError(f"{artefact} is no engine: build one from it with mgcda build-engine")
    library = cast("Library", sidecar.format)
    if (lacking := lack(library, device)) is not None:
        raise EngineError(f"{artefact} needs {library}: {lacking}")
    installed, built = load_library(library).__version__, sidecar.versions.get(library)
    if installed != built:
        raise EngineError(f"{artefact} was built with {library} {built}, installed is {installed}: {AGAIN}")
    here = gpu_name(device)
    if sidecar.gpu is not None and sidecar.gpu != here:
        raise EngineError(f"{artefact} was built for {sidecar.gpu}, this GPU is {here}: {AGAIN}")
    return library


def check_tensors(engine: Any, sidecar: Sidecar, artefact: Path) -> None:
    """Raises ArtefactError unless the engine's tensors are those of the sidecar, in the types of our buffers."""
    types = {sidecar.input.name: "UINT8", LOGITS: "FLOAT", SEGMENTATION: "UINT8"}
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    found = {name: engine.get_tensor_dtype(name).name for name in names}
    if found != types:
        raise ArtefactError(f"{artefact} has the tensors {found}, not {types}: run mgcda export again")


def _recording_context(trt: Any, engine: Any) -> Any:
    """Of TensorRT-RTX, which compiles kernels while it runs and records its CUDA graph itself once they are there."""
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return engine.create_execution_context(config)
