"""One chain of this checkout under the clock: opening, frames from numpy and from a ROS message, memory, stages."""

from __future__ import annotations

import contextlib
import importlib
import time
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from mgcda_core.bench.answering import DIFFERENT_FRAMES, made_frames
from mgcda_core.bench.sides import PUBLISHED, RANDOM
from mgcda_core.config import PROFILES, ConfigError
from mgcda_core.inference import encodings
from mgcda_core.inference.artefact import ExportedBackend, bounds, is_exported
from mgcda_core.inference.backend import Backend, open_backend
from mgcda_core.inference.onnx_backend import OnnxBackend
from mgcda_core.inference.predictor import Predictor

if TYPE_CHECKING:
    from mgcda_core.bench.stages import Timeline
    from mgcda_core.inference.torch_backend import Mode
    from mgcda_core.weights.resolve import Weights


class Subject:
    """What a child of `mgcda bench` holds; `side` has the fields of `sides.Side`."""

    def __init__(self, side: dict[str, Any]) -> None:
        self._batch, self._precision, self._threads = side["batch"], side["precision"], side["threads"]
        self._backend = open_side(side["weights"], side["backend"], side["device"], self._threads)
        if not self._in_torch() and self._precision != "fp32":
            raise ConfigError(f"precision {self._precision} is PyTorch's autocast; {self._backend.name} has its own: "
                              "leave --precision out, or give --backend torch")  # fmt: skip
        _check_batch(self._backend, self._batch, side["weights"])
        self._predictor = Predictor(self._backend)
        self._frames, self._count = made_frames(tuple(side["size"])), 0
        self._messages: list[Any] | None = None
        self._wanted = side["stages"]
        self._watching = ExitStack()  # kept open as long as this lives
        self._timeline, self._spent = self._clock() if self._wanted else None, []
        self._opening_mb, self._peak_reset = _peak_mb(), _reset_peak()

    def about(self) -> dict[str, Any]:
        """What runs; `message` says why frames as ROS messages are not timed, "" if they are."""
        return {"name": self._backend.name, "device": self._backend.device, "sha256": self._backend.sha256,
                "precision": self._precision if self._in_torch() else self._backend.name.split()[-1],
                "config": self._backend.config.to_json(), "message": self._as_messages()}  # fmt: skip

    def frame(self) -> dict[str, float | None]:
        """Seconds of one frame (or batch): the chain alone, from picture to mask, from message to mask, of all cores.

        With a batch only the chain is timed: the predictor takes one frame at a time.
        """
        self._count += 1
        number = self._count % DIFFERENT_FRAMES
        if self._timeline is not None:
            self._timeline.start()
        started, cpu = time.perf_counter(), time.process_time()
        with self._autocast():
            answer = self._run_batch() if self._batch > 1 else self._run(number)
        answer |= {"cpu": time.process_time() - cpu}
        if answer["message"] is not None:
            answer["message"] = time.perf_counter() - started
        if self._timeline is not None:
            self._spent.append(self._timeline.spent())
        return answer

    def memory(self) -> dict[str, float | None]:
        """Peaks in MB (2**20 bytes): of the process until the chain was open, and since; of PyTorch's on a GPU.

        Called before ROS is imported, so that the figures are the chain's.
        """
        return {"opening_mb": self._opening_mb, "running_mb": _peak_mb() if self._peak_reset else None,
                "cuda_mb": self._cuda_mb()}  # fmt: skip

    def stages(self) -> dict[str, float] | None:
        """Median seconds of each stage over all frames but the first; None where one cannot look between them."""
        if self._timeline is None:
            return None
        return {stage: median(spent[stage] for spent in self._spent[1:]) for stage in self._spent[0]}

    def operators(self) -> dict[str, Any] | None:
        """Milliseconds a frame by operator type and by stage, of ONNX Runtime on the CPU; None for other runtimes."""
        if not (self._wanted and isinstance(self._backend, OnnxBackend) and self._backend.device == "cpu"):
            return None
        from mgcda_core.bench.stages import profiled_session

        return profiled_session(self._backend.artefact, np.stack(self._frames[:1] * self._batch), self._threads)

    def _in_torch(self) -> bool:
        return self._backend.name.startswith(("torch", PUBLISHED))

    def _run(self, number: int) -> dict[str, float | None]:
        image = _to_rgb()(self._messages[number]) if self._messages else self._frames[number]
        decoded = time.perf_counter()
        prediction = self._predictor(image)
        _ = prediction.mask
        return {"chain": prediction.timings_ms["inference"] / 1000, "frame": time.perf_counter() - decoded,
                "message": 0.0 if self._messages else None}  # fmt: skip

    def _run_batch(self) -> dict[str, float | None]:
        images = np.stack([self._frames[k % DIFFERENT_FRAMES] for k in range(self._batch)])
        started = time.perf_counter()
        self._backend.run_batch(images)
        return {"chain": time.perf_counter() - started, "frame": None, "message": None}

    def _clock(self) -> Timeline | None:
        if not self._in_torch():
            return None  # PyTorch is not imported for the others: their memory is their own
        from mgcda_core.bench.stages import watched_backend

        return watched_backend(self._backend, self._watching)

    def _as_messages(self) -> str:
        """Make the frames bgr8 messages, as cameras send them; says what hinders it."""
        if self._batch > 1:
            return "a batch has no message"
        try:
            messages = importlib.import_module("mgcda_ros.messages")  # not a static import: the core knows no ROS
            header = importlib.import_module("std_msgs.msg").Header()
        except ImportError as error:
            return f"no ROS 2 here: {error}"
        self._messages = []
        for frame in self._frames:
            self._messages.append(
                messages.to_image(header, frame.shape[:2], "bgr8", *encodings.from_rgb(frame, "bgr8"))
            )
        return ""

    def _autocast(self) -> AbstractContextManager[Any]:
        if self._precision == "fp32":
            return contextlib.nullcontext()
        import torch

        kind = "cuda" if self._backend.device.startswith("cuda") else "cpu"
        return torch.autocast(kind, {"bf16": torch.bfloat16, "fp16": torch.float16}[self._precision])

    def _cuda_mb(self) -> float | None:
        if not self._backend.device.startswith("cuda") or not self._in_torch():
            return None
        import torch

        return torch.cuda.max_memory_allocated(self._backend.device.split()[0]) / 2**20


def open_side(weights: str, backend: str, device: str, threads: int) -> Backend:
    """The chain that a side's words mean; raises as `open_backend`, ConfigError for a profile that is not there."""
    if backend != PUBLISHED and not weights.startswith(RANDOM):
        return open_backend(weights, device, backend, threads)
    from mgcda_core.bench.published import PublishedChain
    from mgcda_core.inference.torch_backend import TorchBackend
    from mgcda_core.weights.resolve import load_weights

    loaded = random_weights(weights.removeprefix(RANDOM)) if weights.startswith(RANDOM) else load_weights(weights)
    if backend == PUBLISHED:
        return PublishedChain(loaded, device)
    if backend not in ("auto", "torch", "torch-compile", "torch-cudagraph"):
        raise ConfigError(f"{weights} runs in PyTorch only, backend is {backend}: export weights of a file for others")
    return TorchBackend(loaded, device, cast("Mode", backend.partition("-")[2] or "eager"))


def random_weights(profile: str) -> Weights:
    """Seeded random weights of a profile of `config.PROFILES`: for speed, which does not depend on their values."""
    if profile not in PROFILES:
        raise ConfigError(f"there is no profile {profile!r} for random weights; choose from {', '.join(PROFILES)}")
    import torch

    from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
    from mgcda_core.weights.resolve import Weights

    torch.manual_seed(0)
    state = AnomalySegmenter(PROFILES[profile]).state_dict()
    return Weights(state, PROFILES[profile], f"random {profile}", "", Path(f"{RANDOM}{profile}"), {})


def _check_batch(backend: Backend, batch: int, weights: str) -> None:
    if not isinstance(backend, ExportedBackend) or batch <= (most := bounds(backend.sidecar.input.shape[0])[1]):
        return
    remedy = "" if is_exported(weights) else "give --backend torch, which takes any number, or "
    raise ConfigError(f"batch is {batch}, {backend.artefact} takes up to {most} at a time: {remedy}export one with "
                      f"mgcda export --max_batch {batch}")  # fmt: skip


def _to_rgb() -> Any:
    return importlib.import_module("mgcda_ros.conversion").to_rgb


def _peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status does not state VmHWM, the peak of the resident memory")


def _reset_peak() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:  # not every container lets a process do that
        return False
    return True
