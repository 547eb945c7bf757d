"""Engines built once: a file in the user's cache folder for each ONNX file, GPU, library version, precision and shape.

An engine stands there as KEY.engine with its sidecar KEY.engine.json, whose sha256 is its checksum. What is missing,
damaged or of another making is built again; what was built and did not load is not, unless somebody asks. A lock file
lets one process build while others wait for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mgcda_core.inference.engine import LARGEST_SIDE, RECIPE, EngineError, Library, build_engine, load_library
from mgcda_core.inference.sidecar import Sidecar, read_sidecar, write_sidecar

log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """`mgcda` in XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgcda"


@dataclass(frozen=True)
class CachedEngine:
    """The place in the cache of one ONNX artefact's engine, whether it is there or not."""

    onnx: Path
    source: Sidecar
    """Of the ONNX artefact."""
    library: Library
    version: str
    """Of the library."""
    gpu: str
    """Name of the GPU."""

    @property
    def path(self) -> Path:
        """The file; another key for whatever makes another engine."""
        parts = [self.source.sha256, self.gpu, self.library, self.version, self.source.precision,
                 self.source.input.shape, RECIPE, LARGEST_SIDE]  # fmt: skip
        key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()
        return cache_folder() / "engines" / f"{key}.engine"

    def fault(self) -> str | None:
        """Why the file cannot be used; None if it is there, whole and made of what the key says."""
        if not self.path.exists():
            return "it is not there"
        try:
            found = read_sidecar(self.path)
        except (ValueError, OSError) as error:
            return str(error)
        wanted = (self.library, self.source.precision, self.gpu, self.source.sha256, self.version)
        made = (found.format, found.precision, found.gpu, found.onnx_sha256, found.versions.get(self.library))
        return None if made == wanted else f"it is stale: made for {made}, wanted {wanted}"

    def get(self, progress: Callable[[str], None] = log.info) -> Path:
        """The engine's file, built now if it cannot be used as it is; that takes seconds to tens of minutes.

        Two processes at once build it once. Raises as `engine.build_engine`, and EngineError for a refused one.
        """
        if (reason := self.refusal()) is not None:
            raise EngineError(f"the engine of {self.onnx} was built, but did not load ({reason}): {self.again}")
        if self.fault() is None:
            return self.path
        with _locked(self.path.with_suffix(".lock")):
            reason = self.fault()  # another process may have built it meanwhile
            if reason is not None:
                progress(
                    f"building an engine of {self.onnx} for {self.gpu} with {self.library} {self.version}: {reason}"
                )
                made = build_engine(self.onnx, self.path, self.library, progress, self.gpu)
                write_sidecar(self.path, made)
        return self.path

    def refuse(self, reason: str) -> None:
        """Remember that the engine did not load, and throw it away: it is not built again unless somebody asks."""
        self._refused.write_text(reason)
        self.path.unlink(missing_ok=True)

    def refusal(self) -> str | None:
        """Why the engine did not load when it was built; None if it did, or if that was not tried."""
        return self._refused.read_text() if self._refused.is_file() else None

    def forget_refusal(self) -> None:
        """Let it be built again."""
        self._refused.unlink(missing_ok=True)

    @property
    def again(self) -> str:
        """The command that builds it whatever happened before."""
        return f"mgcda build-engine {self.onnx} --library {self.library} tries again"

    @property
    def _refused(self) -> Path:
        return self.path.with_suffix(".refused")


def find_engine(onnx: Path, library: Library, gpu: str) -> CachedEngine:
    """Where the engine of an ONNX artefact belongs. Raises ArtefactError for it, EngineError for the library."""
    return CachedEngine(onnx, read_sidecar(onnx), library, load_library(library).__version__, gpu)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock file; the system lets go of it however the process ends."""
    import fcntl  # only POSIX has it; elsewhere the rest of the package works

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
