"""`mgcda build-engine`: an engine from an ONNX artefact, into the cache or a file."""

from __future__ import annotations

import time
from pathlib import Path

from mgcda_core.config import ConfigError
from mgcda_core.export.command import gpu_of_engine, tell
from mgcda_core.inference.availability import check_device, gpu_name, lack
from mgcda_core.inference.engine import EngineError, Library, build_engine
from mgcda_core.inference.engine_cache import find_engine
from mgcda_core.inference.sidecar import write_sidecar


def build_engine_command(
    artefact: Path, library: Library = "tensorrt", out: Path | None = None, device: str = "auto"
) -> None:
    """Build the engine of an exported chain ahead, so that nobody waits for it later.

    Args:
        artefact: .onnx file of mgcda export, with its sidecar.
        library: tensorrt or tensorrt-rtx.
        out: .engine file to write, with its sidecar; without it the engine goes into the cache, for the backends.
        device: GPU to build on: auto, cuda or cuda:N.
    """
    if out is not None and out.suffix != ".engine":
        raise ConfigError(f"out is {out}; it must end in .engine")
    check_device(device)
    start = time.monotonic()
    if out is None:
        gpu = gpu_name(device)
        if gpu is None:
            remedy = "" if library == "tensorrt" else "; with --out a file is built, for any GPU TensorRT-RTX supports"
            raise EngineError(f"there is no GPU to build for: {lack(library, device)}{remedy}")
        engine = find_engine(artefact, library, gpu)
        engine.forget_refusal()
        path = engine.get(tell)
    else:
        path, gpu = out, gpu_of_engine(library, device)
        write_sidecar(out, build_engine(artefact, out, library, tell, gpu))
    print(f"build-engine: {path} gpu={gpu} seconds={time.monotonic() - start:.0f} (built, not executed)")
