"""The network in use, and what takes its place: a built engine, another backend when it fails, a fresh one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from mgcda_core.inference.backend import pending_engine
from mgcda_core.inference.predictor import Predictor, load
from mgcda_ros.engine_build import EngineBuild, command

FAILURES = 2
"""Runs that fail one after the other before another backend takes over."""
FIRST_RETRY_S = 10.0
LAST_RETRY_S = 300.0
"""A backend that failed is tried again after 10 s, 20 s, 40 s ... 300 s; what comes back and fails goes on there."""
STAND_INS = ("onnxruntime", "torch")
"""What runs on the CPU, in this order, while the chosen backend does not."""
JOIN_TIMEOUT_S = 1.0


class Log(Protocol):
    """What a node's logger offers."""

    def info(self, message: str) -> object: ...

    def warning(self, message: str) -> object: ...

    def error(self, message: str) -> object: ...


@dataclass(frozen=True)
class Choice:
    """What the parameters ask for."""

    weights: str
    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"
    size: tuple[int, int] | None = None
    """Height and width that frames are resized to first; None leaves that to the network."""

    def open(self, device: str | None = None, backend: str | None = None) -> Predictor:
        """A predictor that has run once. Raises what `load` raises, RuntimeError if the network cannot run."""
        elsewhere = backend is not None  # then any precision will do
        predictor = load(
            self.weights, device or self.device, backend=backend or self.backend,
            precision="auto" if elsewhere else self.precision,
        )  # fmt: skip
        predictor.size = self.size
        predictor.warm_up()
        return predictor


class Loading:
    """A predictor that is opened in a thread of its own."""

    def __init__(self, open_predictor: Callable[[], Predictor]) -> None:
        self.predictor: Predictor | None = None
        self.error: Exception | None = None
        self.abandoned = False
        """True once nobody waits for it: what it opens is let go."""
        self._open = open_predictor
        self._thread = threading.Thread(target=self._run, name="mgcda-load", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        """True once `predictor` or `error` is there."""
        return self.predictor is not None or self.error is not None

    def stop(self) -> bool:
        """Forget it; False if its thread is still at work."""
        self.abandoned = True
        self._thread.join(JOIN_TIMEOUT_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            predictor = self._open()
            if not self.abandoned:
                self.predictor = predictor
        except Exception as error:  # whatever it is, the node has another predictor or says so
            self.error = error


class Network:
    """Holds the predictor of a node; `poll` is called by a timer, `failed` and `worked` by the thread that runs it."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self.predictor: Predictor | None = None
        self.choice: Choice | None = None
        self.standing_in: str | None = None
        """Why another backend than the chosen one runs; None while the chosen one does."""
        self.stuck = False
        """True once a thread that opens a backend outlasted its timeout."""
        self._log = log
        self._clock = clock
        self._build: EngineBuild | None = None
        self._loading: Loading | None = None
        self._purpose = ""
        self._failures = 0
        self._tried: list[str] = []
        self._retry_s, self._retry_at = FIRST_RETRY_S, float("inf")

    def open(self, choice: Choice) -> None:
        """Load what is chosen, unless it is loaded, and begin to build its engine. Raises as `Choice.open`."""
        if self.predictor is not None and self.choice == choice and self.standing_in is None:
            return
        self.close()
        start = self._clock()
        engine = pending_engine(choice.weights, choice.device, choice.backend, choice.precision)
        self.predictor = choice.open(backend="auto") if engine else choice.open()
        self.choice = choice
        self._log.info(
            f"weights {choice.weights} on {self.predictor.backend.device}, ready in {self._clock() - start:.1f} s"
        )
        if engine is not None:
            opened = partial(Choice(str(engine.onnx), choice.device, engine.library, size=choice.size).open)
            words = command(engine, choice.device)
            self._build = EngineBuild(words, opened, self._log.info, self._log.error)

    @property
    def engine(self) -> str:
        """How the building of an engine stands: `building 25 s`, `ready`, `failed: why`; empty if none is built."""
        return self._build.state if self._build is not None else ""

    @property
    def loading(self) -> bool:
        """True while another predictor is opened."""
        return self._loading is not None

    def reload(self) -> Loading:
        """Open the chosen weights anew while the present ones serve. Raises RuntimeError if that cannot be now."""
        if self.choice is None:
            raise RuntimeError("nothing is loaded: configure the node first")
        if self._loading is not None:
            raise RuntimeError("a network is being loaded already: wait until it is there")
        return self._load("reload", self.choice.open)

    def abandon(self) -> None:
        """Let the predictor go, in which a thread hangs, and open a fresh one."""
        self.predictor = None
        self.stuck = True
        if self.choice is not None and self._loading is None:
            self._load("fresh start", self.choice.open)

    def worked(self) -> None:
        """Note that a run came to its end."""
        self._failures = 0

    def failed(self, error: Exception) -> None:
        """Note that a run failed for a reason that is not its image's; the second in a row calls a stand-in."""
        failures = self._failures + 1
        if failures == FAILURES and self.standing_in is None:
            self._replace(error)
        self._failures = failures

    def _replace(self, error: Exception) -> None:
        """Have `poll` load a stand-in and, later, the chosen backend again."""
        self.standing_in = str(error) or type(error).__name__
        self._tried = [self.predictor.backend.name.split()[0]] if self.predictor else []
        self._retry_at = self._clock() + self._retry_s
        self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)

    def poll(self, frame: tuple[int, int] = (0, 0)) -> None:
        """Take over what is ready; `frame` is the height and width of the camera's frames, 0 if unknown."""
        self._take_engine(frame)
        self._take_loaded()
        if self._loading is not None or self.choice is None:
            return
        left = [name for name in STAND_INS if name not in self._tried]
        if self._failures >= FAILURES and left:
            self._tried.append(left[0])
            self._log.warning(f"the network fails ({self.standing_in}): {left[0]} on the CPU is loaded to stand in")
            self._load("stand-in", partial(self.choice.open, "cpu", left[0]))
        elif self._clock() >= self._retry_at:
            self._load("recovery", self.choice.open)

    def close(self) -> None:
        """Let everything go; `stuck` says if a thread does not end."""
        for open_work in (self._build, self._loading):
            if open_work is not None and not open_work.stop():
                self.stuck = True
        self._build = self._loading = self.predictor = self.choice = self.standing_in = None
        self._failures, self._retry_s, self._retry_at = 0, FIRST_RETRY_S, float("inf")

    def _load(self, purpose: str, opened: Callable[[], Predictor]) -> Loading:
        self._purpose = purpose
        self._loading = Loading(opened)
        return self._loading

    def _take_engine(self, frame: tuple[int, int]) -> None:
        if self._build is None or (predictor := self._build.take()) is None:
            return
        backend = predictor.backend
        size = predictor.size or frame
        if any(side > most for side, most in zip(size, backend.max_size, strict=True)):
            self._log.error(
                f"{backend.name} is not used: it takes frames up to {backend.max_size[0]}x{backend.max_size[1]}, the "
                f"camera's are {size[0]}x{size[1]}. Export a chain of that size (mgcda export --size), or set the "
                "parameter size"
            )
            return
        self._take(predictor)

    def _take_loaded(self) -> None:
        if self._loading is None or not self._loading.done:
            return
        loading, self._loading = self._loading, None
        if loading.predictor is None:
            self._log.warning(f"{self._purpose} failed: {loading.error}")
            if self._purpose == "recovery":
                self._retry_at = self._clock() + self._retry_s
                self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)
            elif self.predictor is None and self._purpose != "stand-in" and loading.error is not None:  # a fresh start
                self._replace(loading.error)
                self._failures = FAILURES
            return
        if self._purpose != "stand-in":
            self.standing_in, self._retry_at = None, float("inf")
        self._take(loading.predictor)

    def _take(self, predictor: Predictor) -> None:
        self.predictor = predictor  # the worker looks it up once a run: it changes between two
        self._failures = 0
        self._log.info(f"from now on {predictor.backend.name} on {predictor.backend.device}")
