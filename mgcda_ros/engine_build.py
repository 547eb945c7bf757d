"""A TensorRT engine built while the node serves with another backend."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable

from mgcda_core.inference.engine_cache import CachedEngine
from mgcda_core.inference.predictor import Predictor

JOIN_TIMEOUT_S = 1.0
_DIES_WITH_NODE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: a node that is killed cannot end its builder
os.execv(sys.argv[1], sys.argv[1:])
"""


def command(engine: CachedEngine, device: str) -> list[str]:
    """What builds `engine` into the cache; anybody may run it ahead."""
    program = [sys.executable, "-m", "mgcda_core.cli", "build-engine", str(engine.onnx)]
    return [*program, "--library", engine.library, "--device", device]


class EngineBuild:
    """Builds an engine in a process of its own, which can be killed and does not slow the frames, then loads it.

    `words` are the program's path and its arguments; made by another thread than the main one, it ends with that.
    `load` opens the finished engine; it and `info`, `error`, which get lines for the log, are called in a thread.
    """

    def __init__(
        self,
        words: list[str],
        load: Callable[[], Predictor],
        info: Callable[[str], object],
        error: Callable[[str], object],
    ) -> None:
        self._load, self._info, self._error = load, info, error
        self._start = time.monotonic()
        self._ready: Predictor | None = None
        self._failure: str | None = None
        self._stopped = self._done = False
        # A session of its own: Ctrl-C in a terminal reaches the node, which then ends it.
        self._process = subprocess.Popen(
            [sys.executable, "-c", _DIES_WITH_NODE, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            encoding="utf-8", errors="replace", start_new_session=True,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._run, name="mgcda-engine", daemon=True)
        self._thread.start()

    @property
    def state(self) -> str:
        """`building 25 s`, `ready`, or `failed: ` and why."""
        if self._failure is not None:
            return f"failed: {self._failure}"
        return "ready" if self._done else f"building {time.monotonic() - self._start:.0f} s"

    def take(self) -> Predictor | None:
        """The predictor that runs the engine, once, as soon as it is there."""
        ready, self._ready = self._ready, None
        return ready

    def stop(self) -> bool:
        """End the process and forget the engine; False if the thread is still busy with loading it."""
        self._stopped = True
        self._process.kill()
        self._thread.join(JOIN_TIMEOUT_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        last = "it said nothing"
        try:
            assert self._process.stdout is not None
            with self._process.stdout as lines:
                for line in filter(None, map(str.strip, lines)):
                    last = line
                    self._info(line)
            code = self._process.wait()
            if self._stopped:
                return
            if code != 0:
                raise RuntimeError(f"{last.removeprefix('error: ')} (exit code {code})")
            predictor = self._load()
            predictor.warm_up()
            self._ready, self._done = predictor, True
        except Exception as error:  # whatever it is, the node has a backend that works
            self._failure = str(error)
            self._error(f"no engine: {error}. The node goes on with the backend it has")
