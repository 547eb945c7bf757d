"""What runs the chain on one image: the interface every runtime implements, and the choice among them."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast, get_args

import numpy as np

from mgcda_core.config import ConfigError, SegmenterConfig
from mgcda_core.inference.artefact import Chain, exported_chains, is_exported
from mgcda_core.inference.availability import BACKENDS, ON_GPU_ONLY, check_device, gpu_name, gpu_number, lack
from mgcda_core.inference.engine import MODULES, EngineError, Library
from mgcda_core.inference.engine_cache import CachedEngine, find_engine
from mgcda_core.inference.sidecar import Precision
from mgcda_core.weights.resolve import load_weights

if TYPE_CHECKING:
    from mgcda_core.inference.onnx_backend import Provider
    from mgcda_core.inference.torch_backend import Mode

log = logging.getLogger(__name__)

CHOICES = ("auto", *BACKENDS)
"""What `open_backend` takes as `backend`."""
PRECISIONS = ("auto", *get_args(Precision))
"""What `open_backend` takes as `precision`."""


class Backend(Protocol):
    """A loaded chain on a device.

    On the CPU several threads may `run` at a time: it only reads the weights and keeps nothing of an image, so nothing
    shared is written. On a GPU one thread at a time; callers see to it.
    """

    @property
    def name(self) -> str:
        """Runtime, weights and precision, for logs: `torch lite`, `onnxruntime lite fp32`."""
        ...

    @property
    def device(self) -> str:
        """Where it runs, in words: `cpu`, `cuda:0 NVIDIA Orin`."""
        ...

    @property
    def config(self) -> SegmenterConfig:
        """The chain's configuration, threshold included."""
        ...

    @property
    def sha256(self) -> str:
        """Checksum of the weights file, lower-case hexadecimal; of an exported chain that of its weights."""
        ...

    @property
    def min_size(self) -> tuple[int, int]:
        """Height and width of the smallest frame it takes."""
        ...

    @property
    def max_size(self) -> tuple[int, int]:
        """Height and width of the largest frame it takes."""
        ...

    @property
    def max_batch(self) -> int:
        """Most frames that `run_batch` takes."""
        ...

    def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """One image uint8 [H, W, 3] RGB, at least 2x2 -> (logits float32 [H, W], train ids uint8 [H, W] or None)."""
        ...

    def run_batch(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Several images uint8 [B, H, W, 3] RGB -> (logits float32 [B, H, W], train ids uint8 [B, H, W] or None).

        Raises ValueError for more than an exported chain was made for.
        """
        ...


@dataclass(frozen=True)
class _Request:
    """What is asked for, and the exported chains that may answer it."""

    weights: str | Path
    device: str
    precision: str
    chains: list[Chain]
    threads: int = 0


def open_backend(
    weights: str | Path, device: str = "auto", backend: str = "auto", threads: int = 0, precision: str = "auto"
) -> Backend:
    """Load `weights` onto `device`: "auto", "cpu", "cuda" or "cuda:N", with the runtime `backend`, one of CHOICES.

    `weights` is a shipped name, a path, a url, or an exported chain: NAME.onnx or NAME.engine with its sidecar. Chains
    exported of the weights that lie beside them as `NAME*.onnx` run in their place; one for frames of a single size
    must be named. `auto` takes the first that works of the order in `_best`, logs why others were skipped, and builds
    no engine; tensorrt and tensorrt-rtx, if asked for, build theirs unless it is in the cache, which takes minutes.
    ONNX Runtime takes `threads` CPU threads, 0 for one a core; how many PyTorch takes is set for the whole process.
    `precision`, one of PRECISIONS, is that of the exported chain; `auto` takes fp16, else fp32, on a GPU, and fp32 on
    a CPU. PyTorch runs fp32.
    Raises ValueError or OSError that name the file and the remedy: unknown name, wrong checksum, missing or mis-shaped
    keys, no such device, runtime or precision.
    """
    if backend not in CHOICES:
        raise ConfigError(f"backend is {backend!r}; it must be one of {', '.join(CHOICES)}")
    if precision not in PRECISIONS:
        raise ConfigError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    check_device(device)
    if backend.startswith("torch") and precision not in ("auto", "fp32"):
        raise ValueError(f"backend {backend} runs fp32, not {precision}: leave precision at auto, or backend")
    chains = [] if backend.startswith("torch") else exported_chains(weights)
    request = _Request(weights, device, precision, chains, threads)
    if backend == "auto":
        return _best(request)
    if (lacking := lack(backend, device)) is not None:
        raise ValueError(f"backend {backend} cannot run here: {lacking}")
    return _open(backend, request)


def pending_engine(
    weights: str | Path, device: str = "auto", backend: str = "auto", precision: str = "auto"
) -> CachedEngine | None:
    """The engine that `backend` would run, if it could but is not built yet; `auto` means the first library there is.

    None without TensorRT, without a GPU, without an ONNX artefact, and when the engine lies in the cache.
    """
    try:
        libraries = [name for name in MODULES if backend in ("auto", name) and lack(name, device) is None]
        chains = [chain for chain in exported_chains(weights) if chain.sidecar.format == "onnx"] if libraries else []
        if not chains:
            return None
        chain = _chain_for(libraries[0], _Request(weights, device, precision, chains))
        engine = _cached(libraries[0], chain, device)
        if (reason := engine.refusal()) is not None:
            log.warning("no engine is built: the last one did not load (%s); %s", reason, engine.again)
            return None
        return engine if engine.fault() is not None else None
    except (ValueError, OSError) as error:  # `open_backend` raises it if that backend was asked for
        log.info("no engine is built: %s", error)
        return None


def _best(request: _Request) -> Backend:
    """TensorRT with its engine, ONNX Runtime on a GPU, PyTorch on a GPU, ONNX Runtime on the CPU, PyTorch."""
    weights, device, chains = request.weights, request.device, request.chains
    order = ["tensorrt", "tensorrt-rtx", "onnxruntime-cuda", "onnxruntime"]
    torch = request.precision in ("auto", "fp32")
    if not chains and torch:
        log.info("no exported chain made of %s lies beside it (mgcda export makes one): only torch runs it", weights)
        order = ["torch"]
    elif torch and not is_exported(weights):
        order.insert(3 if gpu_name(device) else 4, "torch")
    elif chains and chains[0].sidecar.format != "onnx":
        order = [chains[0].sidecar.format]
    skipped: list[str] = []
    for name in order:
        place = len(skipped)
        try:
            if (reason := lack(name, device) or _unready(name, request)) is None:
                opened = _open(name, request)
                log.info("backend %s on %s", opened.name, opened.device)
                return opened
        except (ValueError, OSError, RuntimeError) as error:
            if name == "torch":  # then something is wrong with the weights themselves
                raise
            reason, place = str(error), 0  # it can run here: what it says of the file comes first
        log.info("backend %s skipped: %s", name, reason)
        skipped.insert(place, f"{name}: {reason}")
    raise ValueError(f"no backend can run {weights} on device {device}: {'; '.join(skipped)}")


def _open(name: str, request: _Request) -> Backend:
    if name.startswith("torch"):
        return _open_torch(name, request.weights, request.device)
    chain = _chain_for(name, request)
    if name in MODULES:
        return _open_engine(name, chain, request.device)
    from mgcda_core.inference.onnx_backend import OnnxBackend

    provider = cast("Provider", name.partition("-")[2] or "cpu")
    return OnnxBackend(chain.path, provider, request.threads, gpu_number(request.device))


def _open_torch(name: str, weights: str | Path, device: str) -> Backend:
    from mgcda_core.inference.torch_backend import TorchBackend

    if is_exported(weights):
        raise ValueError(f"{weights} is an exported chain, backend {name} runs weights: give their name or file")
    return TorchBackend(load_weights(weights), device, cast("Mode", name.partition("-")[2] or "eager"))


def _open_engine(library: str, chain: Chain, device: str) -> Backend:
    from mgcda_core.inference.tensorrt_backend import TensorRTBackend

    if chain.sidecar.format != "onnx":
        return TensorRTBackend(chain.path, device)
    engine = _cached(library, chain, device)
    path = engine.get()
    try:
        return TensorRTBackend(path, device)
    except EngineError as error:  # whole, of this version and GPU: the next one would be no better
        engine.refuse(str(error))
        raise


def _unready(name: str, request: _Request) -> str | None:
    """Why a backend that this machine can run has nothing to run yet; None if it has."""
    if name not in MODULES or (chain := _chain_for(name, request)).sidecar.format != "onnx":
        return None
    fault = _cached(name, chain, request.device).fault()
    return fault and f"no engine in the cache ({fault}): mgcda build-engine {chain.path} --library {name} makes one"


def _cached(library: str, chain: Chain, device: str) -> CachedEngine:
    return find_engine(chain.path, cast("Library", library), gpu_name(device) or "")


def _chain_for(name: str, request: _Request) -> Chain:
    """The exported chain for a backend: the one that was named, or the best precision of those beside the weights.

    Raises ValueError if there is none.
    """
    weights, precision = request.weights, request.precision
    fits = [chain for chain in request.chains if chain.sidecar.format in ("onnx", name)]
    if precision != "auto":
        fits = [chain for chain in fits if chain.sidecar.precision == precision]
    elif not is_exported(weights):
        precisions = ("fp16", "fp32") if name in ON_GPU_ONLY else ("fp32",)  # a CPU is slower in fp16
        fits = [chain for each in precisions for chain in fits if chain.sidecar.precision == each]
    if fits:
        return fits[0]
    if is_exported(weights):
        own = request.chains[0].sidecar
        if precision not in ("auto", own.precision):
            raise ValueError(f"{weights} is of precision {own.precision}, not {precision}: leave precision at auto")
        raise ValueError(f"{weights} is an engine of {own.format}, backend {name} does not run it")
    asked = "" if precision == "auto" else f" of precision {precision}"
    option = "" if precision == "auto" else f" --precision {precision}"
    raise ValueError(
        f"backend {name} runs an exported chain, and beside {weights} lies none of these weights{asked} for several "
        f"frame sizes: make one with mgcda export --format onnx{option}, and put it there or give it as weights"
    )
