"""`mgcda export`: weights -> ONNX or a TensorRT engine, compared with PyTorch before anything is written."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from mgcda_core import __version__
from mgcda_core.config import ConfigError
from mgcda_core.config.evaluation import whole_numbers
from mgcda_core.inference.availability import gpu_name, lack
from mgcda_core.inference.encodings import MAX_SIDE, MIN_SIDE
from mgcda_core.inference.engine import BEST_AT, LARGEST_SIDE, EngineError, build_engine, load_library
from mgcda_core.inference.sidecar import Format, Input, Output, Precision, Sidecar, sidecar_path, write_sidecar
from mgcda_core.weights.resolve import Weights, checksum, load_weights

if TYPE_CHECKING:
    from mgcda_core.export.onnx import Frames
    from mgcda_core.export.parity import Labels
    from mgcda_core.inference.backend import Backend
    from mgcda_core.inference.engine import Library

NOT_CHECKED = "not checked: give --check"
MEASURED = "measured"
_LARGEST_FILE = (1 << 31) - 1  # bytes of a protobuf message


def export(
    out: Path,
    weights: str = "lite",
    format: Format = "onnx",
    precision: Precision = "fp32",
    size: tuple[int, int] | None = None,
    min_size: tuple[int, int] | None = None,
    max_size: tuple[int, int] | None = None,
    max_batch: int = 1,
    compact: bool = False,
    calibration: Path | None = None,
    check: Path | None = None,
    anomaly_values: str = "1",
    ignore_values: str = "255",
    normal_values: str = "0",
) -> Path:
    """Write the whole chain as one file for a fast runtime, with a sidecar that says what it is.

    Args:
        out: folder to write NAME-HxW-PRECISION.onnx (or .engine, beside its .onnx) and the .json of each.
        weights: a shipped name, a .safetensors path or an https url.
        format: onnx for ONNX Runtime and as what engines are built from; tensorrt or tensorrt-rtx for an engine.
        precision: fp32; fp16 where it does no harm; int8 in the convolutions of the networks that bear it.
        size: height and width of the camera's frames, without it 720 1280; the networks' own sizes come with the
            weights.
        min_size: smallest height and width of frames, for a file that takes several sizes; slower on a CPU.
        max_size: largest height and width of frames, with min_size; size is left out then. An engine for several sizes
            takes frames up to 4096x4096.
        max_batch: most frames at a time.
        compact: store weights that are half floats as such, which halves the .onnx file of fp32 and changes no value.
        calibration: your own frames, some dozens as your camera gives them, which the ranges of int8 are measured on: a
            folder, video or recording as predict takes. Never those of a set the chain is evaluated on.
        check: real frames to compare with PyTorch in fp32 on: a folder with images/ and masks/, or what predict takes.
            Beyond the tolerance nothing is written.
        anomaly_values: comma list of the mask values that mean anomaly.
        ignore_values: comma list of the mask values that are not counted.
        normal_values: comma list of the mask values that mean normal; any other value is an error.

    Returns the artefact's path. Raises ConfigError for flags that exclude each other, ParityError with the figures for
    an answer beyond the tolerance, ValueError or OSError for weights, frames and missing libraries.
    """
    labels = cast("Labels", tuple(
        whole_numbers(text, f"--{name}_values")
        for name, text in (("anomaly", anomaly_values), ("ignore", ignore_values), ("normal", normal_values))
    ))  # fmt: skip
    frames = _frames(size, min_size, max_size, max_batch)
    if compact and precision != "fp32":
        raise ConfigError(f"--compact is for precision fp32: weights of {precision} are as small without it")
    if out.is_file():
        raise ConfigError(f"out is {out}, which is a file: name a folder")
    # All of it before the half minute that an export takes.
    _check_calibration(precision, calibration, check)
    _check_libraries(format, precision, check)
    if format != "onnx":
        _check_memory(frames)
    if check is not None:
        _read_once(check, frames, labels)
    loaded = load_weights(weights)
    stem = f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', loaded.name)}-{_size_name(frames)}-{precision}"
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out) as folder:
        artefact = Path(folder) / f"{stem}.onnx"
        sidecar = _write_onnx(artefact, loaded, frames, precision, compact)
        if calibration is not None:
            sidecar = _quantise(artefact, sidecar, calibration, symmetric=format != "onnx")
        if check is not None:
            from mgcda_core.inference.onnx_backend import OnnxBackend

            _gate(OnnxBackend(artefact), artefact, sidecar, loaded, check, labels)
        written = [artefact]
        if format != "onnx":
            artefact = artefact.with_name(f"{stem}-{format}.engine")
            _write_engine(written[0], artefact, format, loaded, check, labels)
            written.append(artefact)
        for path in written:
            for file in (path, sidecar_path(path)):
                file.replace(out / file.name)
    return out / artefact.name


def _check_libraries(format: Format, precision: Precision, check: Path | None) -> None:
    """Raises EngineError or ModuleNotFoundError naming the package."""
    for name in ("onnx", "onnxscript", *(("onnxruntime",) if check is not None or precision == "int8" else ())):
        importlib.import_module(name)
    if format != "onnx":
        load_library(format)


def _check_calibration(precision: Precision, calibration: Path | None, check: Path | None) -> None:
    if precision != "int8" and calibration is not None:
        raise ConfigError(f"--calibration is for precision int8, precision is {precision}")
    if precision == "int8" and calibration is None:
        raise ConfigError(
            "precision int8 needs --calibration DIR with frames of your own, never those of an evaluation set"
        )
    if calibration is not None and not calibration.exists():
        raise ConfigError(f"--calibration is {calibration}, which is not there: name a folder of your own frames")
    judged = (check.resolve(), check.resolve() / "images") if check is not None else ()
    if calibration is not None and calibration.resolve() in judged:
        raise ConfigError("--calibration and --check are the same frames: int8 has to be judged on others")


def _check_memory(frames: Frames) -> None:
    for name, side in (("height", frames.height), ("width", frames.width)):
        if isinstance(side, tuple) and side[1] > LARGEST_SIDE:
            raise ConfigError(
                f"--max_size has a {name} of {side[1]}: an engine for several sizes takes at most {LARGEST_SIDE}, as "
                "it reserves the memory of its largest frame"
            )


def _read_once(check: Path, frames: Frames, labels: Labels) -> None:
    """Raises what the readers raise for a folder that is not there or a mask with another value."""
    from mgcda_core.export.parity import read_check_frames

    least, largest = frames.sizes
    for _ in read_check_frames(check, labels, least, largest):
        pass


def _frames(
    size: tuple[int, int] | None, least: tuple[int, int] | None, largest: tuple[int, int] | None, max_batch: int
) -> Frames:
    from mgcda_core.export.onnx import Frames

    if (least is None) != (largest is None):
        raise ConfigError("--min_size and --max_size belong together")
    if size is not None and least is not None:
        raise ConfigError("--size is for one frame size, --min_size and --max_size are for several: leave one out")
    if max_batch < 1:
        raise ConfigError(f"max_batch is {max_batch}; it must be at least 1")
    low, high = least or size or BEST_AT, largest or size or BEST_AT
    if min(low) < MIN_SIDE or max(high) > MAX_SIDE or low[0] > high[0] or low[1] > high[1]:
        raise ConfigError(
            f"frames of {low[0]}x{low[1]} to {high[0]}x{high[1]} pixels: a side is {MIN_SIDE} to {MAX_SIDE}, "
            "and --min_size must not exceed --max_size"
        )
    dimensions = [a if a == b else (a, b) for a, b in ((1, max_batch), *zip(low, high, strict=True))]
    return Frames(*dimensions)


def _size_name(frames: Frames) -> str:
    """720x1280, or 480x640-1080x1920 for several sizes; b4 after it for batches."""
    from mgcda_core.inference.artefact import bounds

    sizes = ("x".join(str(bounds(side)[end]) for side in (frames.height, frames.width)) for end in (0, 1))
    most = bounds(frames.batch)[1]
    return "-".join([*dict.fromkeys(sizes), *([f"b{most}"] if most > 1 else [])])


def _write_onnx(path: Path, weights: Weights, frames: Frames, precision: Precision, compact: bool) -> Sidecar:
    import onnx
    import onnx_ir

    from mgcda_core.export.half import store_as_half, to_half
    from mgcda_core.export.onnx import build_graph

    tell(f"exporting {path.name}")
    model = build_graph(weights, frames, fold_batch_norm=not compact)
    if precision == "fp16":
        model = to_half(model)
    if compact:
        store_as_half(model)
    proto = onnx_ir.to_proto(model)
    if proto.ByteSize() > _LARGEST_FILE:
        raise ValueError(
            f"{path.name} would have {proto.ByteSize()} bytes, one ONNX file holds {_LARGEST_FILE}: use fp16"
        )
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    classes = cast("tuple[int, int]", tuple(model.graph.outputs[1].shape or ())[1:])
    sidecar = _described(path, weights, frames, precision, classes)
    write_sidecar(path, sidecar)
    return sidecar


def _described(path: Path, weights: Weights, frames: Frames, precision: Precision, classes: tuple[int, int]) -> Sidecar:
    """The sidecar of an ONNX file whose classes come as [height, width]; nothing was compared."""
    from mgcda_core.export.onnx import IMAGE, OPSET
    from mgcda_core.inference.artefact import LOGITS, SEGMENTATION

    return Sidecar(
        format="onnx",
        precision=precision,
        sha256=checksum(path),
        input=Input(IMAGE, frames.shape),
        outputs=(
            Output(LOGITS, frames.shape[:3], "float32", "anomaly logits: the sigmoid is the score"),
            Output(SEGMENTATION, (frames.batch, *classes), "uint8", "Cityscapes train ids"),
        ),
        config=weights.config,
        threshold=weights.config.threshold,
        weights_name=weights.name,
        weights_sha256=weights.sha256,
        versions={
            "mgcda": __version__,
            **{name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript")},
            "opset": str(OPSET),
        },
        gpu=None,
        onnx_sha256=None,
        parity=None,
        parity_note=NOT_CHECKED,
    )


def _quantise(artefact: Path, sidecar: Sidecar, calibration: Path, symmetric: bool) -> Sidecar:
    """Turn the fp32 graph into int8, and return its sidecar, which is written."""
    from mgcda_core.export.int8 import to_int8
    from mgcda_core.inference.artefact import frame_sizes

    tell(f"calibrating {artefact.name} on {calibration}")
    to_int8(artefact, calibration, frame_sizes(sidecar), symmetric)
    versions = {**sidecar.versions, "onnxruntime": importlib.metadata.version("onnxruntime")}
    sidecar = dataclasses.replace(sidecar, sha256=checksum(artefact), versions=versions)
    write_sidecar(artefact, sidecar)
    return sidecar


def _write_engine(
    onnx: Path, path: Path, library: Library, weights: Weights, check: Path | None, labels: Labels
) -> None:
    sidecar = build_engine(onnx, path, library, tell, gpu_of_engine(library))
    write_sidecar(path, sidecar)
    if check is not None and gpu_name() is not None:
        from mgcda_core.inference.tensorrt_backend import TensorRTBackend

        _gate(TensorRTBackend(path), path, sidecar, weights, check, labels)
    else:
        print(f"parity: {path.name}: {sidecar.parity_note}")


def gpu_of_engine(library: Library, device: str = "auto") -> str | None:
    """Name of the GPU that an engine is built on and for; None with TensorRT-RTX, which builds for all it supports.

    Raises EngineError if there has to be one and is not.
    """
    if library == "tensorrt-rtx":
        return None
    gpu = gpu_name(device)
    if gpu is None:
        raise EngineError(f"there is no GPU to build for: {lack(library, device)}")
    return gpu


def _gate(exported: Backend, artefact: Path, sidecar: Sidecar, weights: Weights, check: Path, labels: Labels) -> None:
    """Compare with PyTorch, and note the figures in the sidecar; ParityError if they are beyond the tolerance."""
    from mgcda_core.export.parity import ParityError, measure, read_check_frames
    from mgcda_core.export.reference import TorchReference
    from mgcda_core.inference.artefact import bounds, frame_sizes

    tell(f"comparing {exported.name} with PyTorch")
    frames = read_check_frames(check, labels, *frame_sizes(sidecar))
    most = bounds(sidecar.input.shape[0])[1]
    parity = measure(exported, TorchReference(weights, "cpu"), frames, sidecar.threshold, most)
    print(f"parity: {exported.name}: {parity}")
    if faults := parity.faults(sidecar.precision, sidecar.config.scaling):
        raise ParityError(f"{artefact.name} answers otherwise than PyTorch, nothing is written: {', '.join(faults)}")
    write_sidecar(artefact, dataclasses.replace(sidecar, parity=parity.figures(), parity_note=MEASURED))


def tell(line: str) -> None:
    """Progress; flushed, the ROS node reads it while the engine is built."""
    print(line, file=sys.stderr, flush=True)
