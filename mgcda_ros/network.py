"""The network in use, and what takes its place: a built engine, another backend when it fails, a fresh one."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from mgcda_core.inference.backend import pending_engine
from mgcda_core.inference.predictor import Predictor, Scale, load
from mgcda_ros.engine_build import EngineBuild, command
from mgcda_ros.loading import Loading

FAILURES = 2
"""Runs that fail one after the other before another backend takes over."""
FIRST_RETRY_S = 10.0
LAST_RETRY_S = 300.0
"""A backend that failed is tried again after 10 s, 20 s, 40 s ... 300 s; what comes back and fails goes on there."""
STAND_INS = ("onnxruntime", "torch")
"""What runs on the CPU, in this order, while the chosen backend does not."""
SOON_S = 180.0
"""A network that is opened while none runs is abandoned after it; then a stand-in takes the place."""
LATE_S = 900.0
"""One that is opened while another runs may take so long; so may a first run, of a backend that compiles for it."""
COMPILING = ("torch-compile", "onnxruntime-tensorrt", "tensorrt-rtx")
"""Backends that compile at the first run of each number and size of frames."""


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


@dataclass(frozen=True)
class View:
    """What a camera sends, and what of it is looked at."""

    size: tuple[int, int]
    """Height and width of its frames."""
    crop_top: float = 0.0
    scale: Scale = "input"


class Network:
    """Holds the predictor of a node; `poll` is called by a timer, `failed` and `worked` by the thread that runs it."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self.predictor: Predictor | None = None
        self.choice: Choice | None = None
        self.standing_in: str | None = None
        """Why another backend than the chosen one runs, or is to; None while the chosen one does."""
        self.failure: str | None = None
        """Why nothing runs, and nothing else can be opened; None while something does or may."""
        self.stuck = False
        """True once a thread that opens a backend outlasted its timeout."""
        self._log = log
        self._clock = clock
        self._build: EngineBuild | None = None
        self._engine: Predictor | None = None
        self._loading: Loading | None = None
        self._purpose, self._loading_since = "", 0.0
        self._seen: tuple[Predictor | None, set[tuple[int, ...]]] = (None, set())
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
    def problem(self) -> str | None:
        """What runs instead of the chosen backend, or is being opened, and why; None if that runs."""
        if self.standing_in is not None:
            runs = "another backend stands in" if self.predictor is not None else "a stand-in is loaded"
            return f"{runs} for the chosen one: {self.standing_in}"
        hung = self.predictor is None and self._loading is not None
        return "a run hung; a fresh backend is loaded" if hung else None

    @property
    def loading(self) -> bool:
        """True while another predictor is opened."""
        return self._loading is not None

    def reload(self) -> Loading:
        """Open the chosen weights anew while the present ones serve. Raises RuntimeError if that cannot be now."""
        if self.choice is None:
            raise RuntimeError("nothing is loaded: configure the node, or if it is active deactivate and activate it")
        if self._loading is not None:
            raise RuntimeError("a network is being loaded already: wait until it is there")
        return self._load("reload", self.choice.open)

    def abandon(self) -> None:
        """Let the predictor go, in which a thread hangs, and open a fresh one."""
        self.predictor = None
        self.stuck = True
        if self.choice is not None and self._loading is None:
            self._load("fresh start", self.choice.open)

    def grace_s(self, predictor: Predictor, shape: tuple[int, int, int]) -> float:
        """Seconds by which a run of this shape (frames, height, width) may be longer than others: it may compile first.

        For the thread that runs `predictor`.
        """
        if predictor.backend.name.split()[0] not in COMPILING:
            return 0.0
        if self._seen[0] is not predictor:
            self._seen = (predictor, set())
        known = shape in self._seen[1]
        self._seen[1].add(shape)
        return 0.0 if known else LATE_S

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
        self._retry_later()

    def _retry_later(self) -> None:
        self._retry_at = self._clock() + self._retry_s
        self._retry_s = min(2 * self._retry_s, LAST_RETRY_S)

    def poll(self, views: Sequence[View] = ()) -> None:
        """Take over what is ready; an engine if it takes the `views` of all cameras that sent a frame, once one has."""
        self._take_engine(views)
        self._take_loaded()
        if self._loading is not None or self.choice is None:
            return
        left = self._stand_ins_left()
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
        self._build = self._engine = self._loading = self.predictor = None
        self.choice = self.standing_in = self.failure = None
        self._seen = (None, set())
        self._failures, self._retry_s, self._retry_at = 0, FIRST_RETRY_S, float("inf")

    def _load(self, purpose: str, opened: Callable[[], Predictor]) -> Loading:
        self._purpose = purpose
        self._loading, self._loading_since = Loading(opened), self._clock()
        return self._loading

    def _stand_ins_left(self) -> list[str]:
        return [name for name in STAND_INS if name not in self._tried]

    def _take_engine(self, views: Sequence[View]) -> None:
        if self._build is not None:
            self._engine = self._build.take() or self._engine
        if (engine := self._engine) is None or not views or self._loading is not None:
            return
        self._engine = None
        (least_h, least_w), (most_h, most_w) = engine.backend.min_size, engine.backend.max_size
        for view in views:
            engine.scale, engine.crop_top = view.scale, view.crop_top
            height, width = engine.seen_size(view.size)
            if not (least_h <= height <= most_h and least_w <= width <= most_w):
                self._log.error(
                    f"{engine.backend.name} is not used: it takes frames of {least_h}x{least_w} to {most_h}x{most_w}, "
                    f"what it would see of a camera's is {height}x{width}. Export a chain of that size (mgcda export "
                    "--size), or set the parameter size"
                )
                return
        self.standing_in, self._retry_at = None, float("inf")
        self._take(engine)

    def _take_loaded(self) -> None:
        loading = self._loading
        if loading is None or not (loading.done or self._expired(loading)):
            return
        self._loading = None
        if loading.predictor is not None:
            if self._purpose != "stand-in":
                self.standing_in, self._retry_at = None, float("inf")
            self._take(loading.predictor)
            return
        self._log.warning(f"{self._purpose} failed: {loading.error}")
        if self._purpose == "recovery":
            self._retry_later()
        if self.predictor is None and loading.error is not None:
            self._call_stand_in(loading.error)
        if loading.abandoned and self._purpose != "stand-in":  # it would hang again, and leave another thread behind
            self._retry_at = float("inf")

    def _expired(self, loading: Loading) -> bool:
        """Whether it takes too long, and is abandoned."""
        limit = SOON_S if self.predictor is None else LATE_S
        if self._clock() - self._loading_since <= limit:
            return False
        self.stuck = loading.abandoned = True
        loading.error = TimeoutError(f"it took more than {limit:.0f} s and is abandoned")
        return True

    def _call_stand_in(self, error: Exception) -> None:
        """Nothing runs: have `poll` load a stand-in, or say that there is none left."""
        if self.standing_in is None:
            self._replace(error)
        self._failures = FAILURES
        if not self._stand_ins_left():
            self.failure = f"no backend runs ({self.standing_in}): deactivate and activate the node to try once more"
            self._log.error(self.failure)

    def _take(self, predictor: Predictor) -> None:
        self.predictor = predictor  # the worker looks it up once a run: it changes between two
        self._failures, self.failure = 0, None
        self._log.info(f"from now on {predictor.backend.name} on {predictor.backend.device}")
