"""What is said about an exported chain: NAME.json beside NAME.onnx, NAME.engine.json beside NAME.engine.

Without it neither is opened.

The file is read as data from anybody: it is plain JSON, nothing in it is executed or imported, every field must be
there with its type and in its range, and the artefact must have the sha256 it names.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from mgcda_core.config import SegmenterConfig
from mgcda_core.inference.encodings import MAX_SIDE
from mgcda_core.weights.resolve import checksum

Format = Literal["onnx", "tensorrt", "tensorrt-rtx"]
Precision = Literal["fp32", "fp16", "int8"]
Dimension = int | tuple[int, int]
"""A size, or the least and the largest one of a graph that takes several."""

_SUFFIX = {"onnx": ".onnx", "tensorrt": ".engine", "tensorrt-rtx": ".engine"}
_LARGEST_FILE = 1 << 20  # bytes; the longest part is the configuration of a Hugging Face model, some ten thousand
_LARGEST_COUNT = 64  # entries of a list or of an object


class ArtefactError(ValueError):
    """An exported chain cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class Input:
    """The graph's one input: camera frames as they lie in memory."""

    name: str
    shape: tuple[Dimension, ...]
    """Batch, height, width, 3."""
    dtype: str = "uint8"
    colour: str = "rgb"
    layout: str = "NHWC"


@dataclass(frozen=True)
class Output:
    """One of the graph's outputs."""

    name: str
    shape: tuple[Dimension, ...]
    dtype: str
    meaning: str


@dataclass(frozen=True)
class Sidecar:
    """What belongs to an artefact besides its bytes; the fields are the keys of the JSON."""

    format: Format
    precision: Precision
    sha256: str
    """Of the artefact, 64 hexadecimal digits."""
    input: Input
    outputs: tuple[Output, ...]
    config: SegmenterConfig
    threshold: float
    """Score in [0, 1] from which a pixel is masked."""
    weights_name: str
    weights_sha256: str
    versions: dict[str, str]
    """Package -> version it was made with; `opset` is the ONNX operator set."""
    gpu: str | None
    """GPU an engine was built for; None for ONNX, and for an engine that was built without one."""
    onnx_sha256: str | None
    """Of the ONNX file an engine was built from; None for ONNX."""
    parity: dict[str, float | None] | None
    """Measured differences to PyTorch in fp32, None if nothing was measured; None as a figure: it has no value."""
    parity_note: str
    """How `parity` came about: `measured`, `built, not executed`, `not checked`."""


def sidecar_path(artefact: Path) -> Path:
    """NAME.json of NAME.onnx, NAME.engine.json of NAME.engine: an engine may lie beside what it was built from."""
    return artefact.with_suffix(".engine.json" if artefact.suffix == ".engine" else ".json")


def write_sidecar(artefact: Path, sidecar: Sidecar) -> Path:
    """Write the sidecar beside the artefact, all or nothing, and return its path; what `read_sidecar` gives again."""
    path = sidecar_path(artefact)
    values = {**asdict(sidecar), "config": json.loads(sidecar.config.to_json())}
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def read_sidecar(artefact: Path) -> Sidecar:
    """The sidecar of an artefact, whose bytes it has checked.

    Raises FileNotFoundError if the artefact is not there, ArtefactError if the sidecar is not, is damaged, lacks a
    field, has one more or one of a wrong type, or if the artefact is of another format or has another sha256.
    """
    if not artefact.is_file():
        raise FileNotFoundError(f"no exported chain at {artefact}")
    path = sidecar_path(artefact)
    if not path.is_file():
        raise ArtefactError(f"{artefact} has no {path.name} beside it, which says what it is: run mgcda export again")
    try:
        sidecar = _sidecar(_parsed(path))
    except (ValueError, RecursionError) as error:
        raise ArtefactError(f"{path} is no sidecar of mgcda export ({error}): run mgcda export again") from error
    if artefact.suffix != _SUFFIX[sidecar.format]:
        raise ArtefactError(f"{path} describes format {sidecar.format}, {artefact.name} is another: export it again")
    found = checksum(artefact)
    if found != sidecar.sha256:
        raise ArtefactError(
            f"{artefact} has sha256 {found}, its sidecar names {sidecar.sha256}: it is damaged or of another export, "
            "run mgcda export again"
        )
    return sidecar


def _parsed(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST_FILE:
        raise ValueError(f"it is larger than {_LARGEST_FILE} bytes")
    return _object(json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant), "it", Sidecar)


def _no_constant(name: str) -> float:
    raise ValueError(f"it holds {name}, which is no number")


def _sidecar(values: dict[str, Any]) -> Sidecar:
    read: dict[str, Callable[[Any, str], Any]] = {
        "format": _one_of(get_args(Format)),
        "precision": _one_of(get_args(Precision)),
        "sha256": _sha256,
        "input": _input,
        "outputs": _outputs,
        "config": lambda value, _: SegmenterConfig.from_json(json.dumps(value)),
        "threshold": _share,
        "weights_name": _text,
        "weights_sha256": _sha256,
        "versions": lambda value, name: {k: _text(v, f"{name}.{k}") for k, v in _object(value, name).items()},
        "gpu": _optional(_text),
        "onnx_sha256": _optional(_sha256),
        "parity": _optional(_figures),
        "parity_note": _text,
    }
    return Sidecar(**{key: read[key](value, key) for key, value in values.items()})


def _input(value: Any, name: str) -> Input:
    values = _object(value, name, Input)
    layout = {"dtype": "uint8", "colour": "rgb", "layout": "NHWC"}
    if wrong := [key for key in layout if values[key] != layout[key]]:
        raise ValueError(f"{name}.{wrong[0]} is {values[wrong[0]]!r}, not {layout[wrong[0]]}")
    shape = _shape(values["shape"], f"{name}.shape")
    if len(shape) != 4 or shape[3] != 3:
        raise ValueError(f"{name}.shape is {values['shape']}, not batch, height, width, 3")
    return Input(_text(values["name"], f"{name}.name"), shape)


def _outputs(value: Any, name: str) -> tuple[Output, ...]:
    outputs = []
    for entry in _list(value, name):
        values = _object(entry, name, Output)
        texts = {key: _text(values[key], f"{name}.{key}") for key in ("name", "dtype", "meaning")}
        outputs.append(Output(shape=_shape(values["shape"], f"{name}.shape"), **texts))
    return tuple(outputs)


def _shape(value: Any, name: str) -> tuple[Dimension, ...]:
    shape = []
    for entry in _list(value, name):
        bounds = entry if isinstance(entry, list) and len(entry) == 2 else [entry, entry]
        if not all(type(side) is int and 1 <= side <= MAX_SIDE for side in bounds) or bounds[0] > bounds[1]:
            raise ValueError(f"{name} holds {entry!r}: a size is 1 to {MAX_SIDE}, or the least and the largest")
        shape.append(tuple(bounds) if isinstance(entry, list) else entry)
    return tuple(shape)


def _figures(value: Any, name: str) -> dict[str, float | None]:
    figures = _object(value, name)
    for key, figure in figures.items():
        if figure is not None and (type(figure) not in (int, float) or not math.isfinite(figure)):
            raise ValueError(f"{name}.{key} is {figure!r}, not a number")
    return figures


def _object(value: Any, name: str, kind: type | None = None) -> dict[str, Any]:
    """A JSON object; with `kind` its keys are the fields of that dataclass."""
    if not isinstance(value, dict) or len(value) > _LARGEST_COUNT:
        raise ValueError(f"{name} is no object of at most {_LARGEST_COUNT} entries")
    if kind is not None and (wrong := sorted(value.keys() ^ {field.name for field in fields(kind)})):
        raise ValueError(f"{name} {'has an unknown' if wrong[0] in value else 'lacks the'} field {wrong[0]}")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= _LARGEST_COUNT:
        raise ValueError(f"{name} is no list of 1 to {_LARGEST_COUNT} entries")
    return value


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {value!r}, not text")
    return value


def _sha256(value: Any, name: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", _text(value, name)):
        raise ValueError(f"{name} is {value!r}, not 64 hexadecimal digits")
    return value


def _share(value: Any, name: str) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r}, not a number in [0, 1]")
    return float(value)


def _one_of(choices: tuple[str, ...]) -> Callable[[Any, str], str]:
    def read(value: Any, name: str) -> str:
        if value not in choices:
            raise ValueError(f"{name} is {value!r}, not one of {', '.join(choices)}")
        return value

    return read


def _optional(read: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    return lambda value, name: None if value is None else read(value, name)
