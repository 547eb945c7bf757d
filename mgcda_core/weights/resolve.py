"""Name, path or URL -> weights with their configuration, and the way back.

A weights file is one safetensors file with the whole chain (`segmentation.*`, `generator.*`, `style_encoder.*`,
`dissimilarity.*` and, if used, `perceptual.*`). Its metadata hold `format`, `name` and `config`, so that a file is
all there is to know. safetensors hold no code: opening one is safe, and nothing else is opened here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urldefrag

from mgcda_core.config import ConfigError, SegmenterConfig

if TYPE_CHECKING:
    import torch

FORMAT = "1"
RUN_FILE = "weights.safetensors"
"""What a finished training leaves in its folder."""
_SHIPPED = Path(__file__).parent
_CHUNK = 1 << 20
_LARGEST_DOWNLOAD = 4 << 30  # bytes; SynBoost's networks have 0.5 GB
_LONGEST_DOWNLOAD_S = 3600.0
_HEADER_BYTES = 8  # little-endian length of the JSON header in front of every safetensors file


class WeightsError(ValueError):
    """A weights file cannot be used; the message names the file and the remedy."""


@dataclass(frozen=True)
class Weights:
    """One weights file in memory."""

    state: dict[str, torch.Tensor]
    """Parameter name -> tensor on the CPU; floating point is float32, whatever the file stores."""
    config: SegmenterConfig
    """The chain the tensors belong to."""
    name: str
    sha256: str
    """Of the file, 64 hexadecimal digits."""
    path: Path
    """The file itself, for messages."""
    metadata: dict[str, str]
    """Everything else the file says about itself (licence, data, metrics ...)."""


def load_weights(name_or_path: str | Path) -> Weights:
    """Weights of a shipped name ("lite"), a .safetensors path, a run's folder, or https://...#sha256=<64 hex digits>.

    A shipped file and a download are read only if their checksum fits. Raises WeightsError for an unknown name, a
    wrong checksum or a damaged file, FileNotFoundError for a path that is not there.
    """
    text = str(name_or_path)
    if "://" in text:
        return _read(*_downloaded(text))
    path = Path(text).expanduser()
    if text in shipped_names():
        return _read(_SHIPPED / f"{text}.safetensors", _shipped_checksum(text))
    if path.is_file():
        return _read(path, None)
    if (path / RUN_FILE).is_file():
        return _read(path / RUN_FILE, None)
    if path.is_dir():
        raise WeightsError(f"{path} is a folder without {RUN_FILE}, which a finished run has; name a .safetensors file")
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"no weights file at {path}")
    raise WeightsError(
        f"unknown weights '{text}'; known names: {', '.join(shipped_names()) or 'none'} (or give a .safetensors path)"
    )


def shipped_names() -> list[str]:
    """Names of the weights that come with the package, sorted; an exported chain or engine beside them is none."""
    return sorted(path.stem for path in _SHIPPED.glob("*.safetensors"))


def save_weights(
    path: str | Path,
    state: Mapping[str, torch.Tensor],
    config: SegmenterConfig,
    name: str,
    metadata: Mapping[str, str] | None = None,
    *,
    half: bool = False,
) -> str:
    """Write one weights file, all or nothing, and return its sha256; equal content gives equal bytes.

    `half` stores floating point as float16. Raises WeightsError naming every tensor with NaN, infinity or, with
    `half`, a value beyond float16.
    """
    import torch
    from safetensors.torch import save_file

    stored, broken = {}, []
    for key, value in state.items():
        dtype = torch.float16 if half and value.is_floating_point() else value.dtype
        # A copy in plain memory order: safetensors refuses channels_last and tensors that share memory.
        stored[key] = value.detach().to("cpu", dtype).clone(memory_format=torch.contiguous_format)
        if value.is_floating_point() and not torch.isfinite(stored[key]).all():
            broken.append(key)
    if broken:
        kind = "float16" if half else "finite"
        raise WeightsError(f"weights '{name}' hold values that are not {kind} in: {', '.join(broken)}; not written")
    entries = {**(metadata or {}), "format": FORMAT, "name": name, "config": config.to_json()}
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _atomic(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(stored, temporary, metadata=entries)
        temporary.chmod(mode)  # safetensors leaves it readable by its owner only
        _sort_metadata(temporary)
        return checksum(temporary)


def checksum(path: Path) -> str:
    """sha256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _read(path: Path, expected: str | None) -> Weights:
    import torch
    from safetensors import SafetensorError, safe_open

    _refuse_pickle(path)
    found = checksum(path)
    if expected is not None and found != expected:
        raise WeightsError(f"{path} has sha256 {found}, expected {expected}: the file is damaged or was changed")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is no complete safetensors file ({error}); get it again") from error
    config = _config(path, metadata)
    state = {key: value.to(torch.float32) if value.is_floating_point() else value for key, value in state.items()}
    return Weights(state, config, metadata.pop("name", path.stem), found, path, metadata)


def _config(path: Path, metadata: dict[str, str]) -> SegmenterConfig:
    """Takes `format` and `config` out of `metadata`."""
    version, config = metadata.pop("format", None), metadata.pop("config", None)
    if version is None or config is None:
        raise WeightsError(
            f"{path} has no 'format' and 'config' in its metadata: not written by mgcda "
            "(published SynBoost checkpoints: mgcda import synboost)"
        )
    if version != FORMAT:
        raise WeightsError(f"{path} has weights format {version}, this version reads {FORMAT}; update mgcda_core")
    try:
        return SegmenterConfig.from_json(config)
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error


def _refuse_pickle(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(_HEADER_BYTES + 1)
    # A safetensors header may begin with the same bytes, but its JSON opens right behind the length; a file cut off
    # before that point could be either and holds nothing.
    if len(start) > _HEADER_BYTES and start.startswith((b"PK\x03\x04", b"\x80")) and not start.endswith(b"{"):
        raise WeightsError(
            f"{path} is a PyTorch pickle, which can run code when it is opened, and is refused; give a .safetensors "
            "file (published SynBoost checkpoints: mgcda import synboost)"
        )


def _shipped_checksum(name: str) -> str:
    path = _SHIPPED / f"{name}.json"
    try:
        value = json.loads(path.read_text())["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path} has no readable 'sha256' field; install the package again") from error
    return _hex64(str(value), str(path))


def _hex64(value: str, source: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise WeightsError(f"{source}: '{value}' is no sha256, which has 64 hexadecimal digits")
    return value.lower()


def _downloaded(url: str) -> tuple[Path, str]:
    """Cached file of an https URL with `#sha256=`, and that checksum; downloads it once."""
    address, fragment = urldefrag(url)
    if not address.startswith("https://"):
        raise WeightsError(f"{address}: weights are downloaded over https only")
    if not fragment.startswith("sha256="):
        raise WeightsError(f"{address}: add #sha256=<64 hexadecimal digits>, so that the download can be checked")
    expected = _hex64(fragment.removeprefix("sha256="), address)
    path = _cache() / f"{expected}.safetensors"
    if path.is_file() and checksum(path) == expected:
        return path, expected
    path.parent.mkdir(parents=True, exist_ok=True)
    with _atomic(path) as temporary:
        _fetch(address, temporary)
        found = checksum(temporary)
        if found != expected:
            raise WeightsError(f"{address} has sha256 {found}, expected {expected}: nothing was kept")
    return path, expected


def _fetch(address: str, path: Path) -> None:
    deadline, size = time.monotonic() + _LONGEST_DOWNLOAD_S, 0
    try:
        with urllib.request.urlopen(address, timeout=30) as response, path.open("wb") as file:
            while chunk := response.read1(_CHUNK):  # what is there: `read` would wait for a whole chunk, drop by drop
                file.write(chunk)
                size += len(chunk)
                if size > _LARGEST_DOWNLOAD or time.monotonic() > deadline:
                    raise OSError(
                        f"it is larger than {_LARGEST_DOWNLOAD >> 30} GiB or takes longer than "
                        f"{_LONGEST_DOWNLOAD_S / 60:.0f} minutes"
                    )
    except (OSError, HTTPException) as error:  # URLError, HTTPError, time-outs, a full disk; a cut connection
        raise WeightsError(
            f"cannot download {address} ({error}); without a network give the path of a .safetensors file"
        ) from error


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgcda"


@contextmanager
def _atomic(path: Path) -> Iterator[Path]:
    """Path of a temporary file in the same folder: synced and renamed to `path` at the end, removed on an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a safetensors file in place: the library writes them in a new order each time."""
    with path.open("rb+") as file:
        length = int.from_bytes(file.read(_HEADER_BYTES), "little")
        header: dict[str, Any] = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # always, unless the two JSON writers escape differently; then the order stays
            file.seek(_HEADER_BYTES)
            file.write(text.ljust(length))
