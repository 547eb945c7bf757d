"""ONNX -> engine, with TensorRT or TensorRT-RTX: one code path, the module chosen by name.

Precision stands in the ONNX: its types are built as they are (a strongly typed network). Only TensorRT 8.6 (JetPack
6.0) knows no such network; there the flags of the builder say which types it may use (`_weakly_typed`). TensorRT-RTX
builds without a GPU, for every GPU it supports; TensorRT builds on the GPU, for that GPU.
"""

from __future__ import annotations

import dataclasses
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from mgcda_core.inference.artefact import bounds
from mgcda_core.inference.sidecar import Dimension, Precision, Sidecar, read_sidecar
from mgcda_core.inference.widening import widened
from mgcda_core.weights.resolve import checksum

log = logging.getLogger(__name__)

Library = Literal["tensorrt", "tensorrt-rtx"]
MODULES: dict[str, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
REMEDY = {
    "tensorrt": "on a Jetson it comes with JetPack (a virtual environment needs --system-site-packages), elsewhere "
    "pip install tensorrt",
    "tensorrt-rtx": "pip install tensorrt-rtx",
}
REPORT_PERIOD_S = 5.0
BEST_AT = (720, 1280)
"""Frame size that an engine for several sizes is tuned for, if it lies within them: the camera's of the targets."""
RECIPE = 1
"""What `build_engine` makes of an ONNX file; another number, and no engine in a cache is taken for one of today's."""
LARGEST_SIDE = 4096
"""Of an engine's frames, if it is built from a graph for several sizes: it reserves the memory of its largest frame."""


class EngineError(ValueError):
    """An engine cannot be built or run; the message says why and what to do."""


def load_library(library: Library) -> Any:
    """The module `tensorrt` or `tensorrt_rtx`. Raises EngineError if it is missing or broken."""
    if library not in get_args(Library):
        raise EngineError(f"library is {library!r}; it must be one of {', '.join(get_args(Library))}")
    try:
        return importlib.import_module(MODULES[library])
    except (ImportError, OSError) as error:  # OSError: its shared libraries
        raise EngineError(f"{MODULES[library]} cannot be imported ({error}): {REMEDY[library]}") from error


def build_engine(
    onnx: Path,
    out: Path,
    library: Library,
    progress: Callable[[str], None] = log.info,
    gpu: str | None = None,
) -> Sidecar:
    """Build `out`, all or nothing, from an ONNX artefact with its sidecar, and return the engine's sidecar, unwritten.

    `progress` gets a line every five seconds. `gpu` is the name of the GPU it is built on. Raises ArtefactError for the
    artefact, EngineError for the library, and with what parser and builder said in one sentence.
    """
    source = _within_memory(read_sidecar(onnx))
    trt = load_library(library)
    logger, errors = _logger(trt)
    builder = trt.Builder(logger)
    network, config = _strongly_typed(trt, builder, source.precision)
    _parse(trt, network, logger, onnx)
    _add_profile(builder, config, source)
    with _reported(progress, onnx.name) as phase:
        if hasattr(trt, "IProgressMonitor"):  # from TensorRT 10 on
            monitor = _monitor(trt, phase)  # a name of its own: it must outlive what uses it
            config.progress_monitor = monitor
        engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise EngineError(f"{library} {trt.__version__} cannot build {onnx}: {_sentence(errors)}")
    _write(out, engine)
    return dataclasses.replace(
        source, format=library, sha256=checksum(out), gpu=gpu, onnx_sha256=source.sha256,
        versions={**source.versions, library: trt.__version__}, parity=None, parity_note="built, not executed",
    )  # fmt: skip


def _strongly_typed(trt: Any, builder: Any, precision: Precision) -> tuple[Any, Any]:
    """Empty network and builder configuration; the ONNX' own types hold."""
    flags = trt.NetworkDefinitionCreationFlag
    if not hasattr(flags, "STRONGLY_TYPED"):
        return _weakly_typed(trt, builder, precision)
    config = builder.create_builder_config()
    if precision == "fp32" and hasattr(trt.BuilderFlag, "TF32"):  # on by default, it rounds fp32 factors to 10 bits
        config.clear_flag(trt.BuilderFlag.TF32)
    return builder.create_network(1 << int(flags.STRONGLY_TYPED)), config


def _weakly_typed(trt: Any, builder: Any, precision: Precision) -> tuple[Any, Any]:
    """TensorRT 8.6 (JetPack 6.0): float32, and the types that the flags allow; not run here, where it cannot be had."""
    config = builder.create_builder_config()
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    else:
        config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
    return builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)), config


def _parse(trt: Any, network: Any, logger: Any, onnx: Path) -> None:
    try:
        graph = widened(onnx)
    except ImportError as error:
        raise EngineError(f"reading {onnx} needs the package onnx ({error}): pip install onnx") from error
    parser = trt.OnnxParser(network, logger)
    if parser.parse(graph):
        return
    found = [parser.get_error(number) for number in range(parser.num_errors)]
    raise EngineError(
        f"{trt.__name__} {trt.__version__} cannot read {onnx}: {_sentence([error.desc() for error in found])}"
    )


def _within_memory(source: Sidecar) -> Sidecar:
    """The sidecar with frames up to LARGEST_SIDE, or its smallest ones where those are larger."""
    image = dataclasses.replace(source.input, shape=_limited(source.input.shape))
    outputs = tuple(dataclasses.replace(output, shape=_limited(output.shape)) for output in source.outputs)
    return dataclasses.replace(source, input=image, outputs=outputs)


def _limited(shape: tuple[Dimension, ...]) -> tuple[Dimension, ...]:
    return tuple(
        side if isinstance(side, int) else (side[0], max(side[0], min(side[1], LARGEST_SIDE))) for side in shape
    )


def _add_profile(builder: Any, config: Any, source: Sidecar) -> None:
    """The least, best and largest input of a graph that takes several."""
    limits = [bounds(dimension) for dimension in source.input.shape]
    least, largest = ([limit[end] for limit in limits] for end in (0, 1))
    if least == largest:
        return
    wanted = (1, *BEST_AT, 3)
    best = [min(max(value, low), high) for value, (low, high) in zip(wanted, limits, strict=True)]
    profile = builder.create_optimization_profile()
    profile.set_shape(source.input.name, least, best, largest)
    config.add_optimization_profile(profile)


def _logger(trt: Any) -> tuple[Any, list[str]]:
    """A logger that keeps the errors, and their list."""
    errors: list[str] = []

    class Errors(trt.ILogger):
        def log(self, severity: Any, text: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                errors.append(text)

    return Errors(), errors


def _monitor(trt: Any, phase: list[str]) -> Any:
    """Writes the builder's phase and step into `phase`; it never stops the builder."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.steps[name] = steps
            phase[:] = [name]

        def step_complete(self, name: str, step: int) -> bool:
            phase[:] = [f"{name}, step {step + 1} of {self.steps[name]}"]
            return True

        def phase_finish(self, name: str) -> None:
            pass

    return Monitor()


@contextmanager
def _reported(progress: Callable[[str], None], name: str) -> Iterator[list[str]]:
    """Calls `progress` every five seconds with the time passed and the phase, which the body may write."""
    phase: list[str] = []
    done = threading.Event()
    start = time.monotonic()

    def report() -> None:
        while not done.wait(REPORT_PERIOD_S):
            progress(" ".join([f"building {name}: {time.monotonic() - start:.0f} s", *(f"({p})" for p in phase)]))

    reporter = threading.Thread(target=report, name="mgcda-build-report", daemon=True)
    reporter.start()
    try:
        yield phase
    finally:
        done.set()
        reporter.join()


def _sentence(errors: list[str]) -> str:
    """What a library said, without its file names and what only repeats that there is no GPU."""
    lines = [line.strip() for error in errors for line in error.splitlines()]
    told = dict.fromkeys(line for line in lines if line and "checkMacros" not in line)
    return "; ".join(told) or "it gives no reason"


def _write(path: Path, data: Any) -> None:
    """All or nothing: a reader sees the old file or the whole new one, after a loss of power too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
