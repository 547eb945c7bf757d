"""The parent's end of `mgcda bench`: every chain that is timed lives in a process of its own.

So its memory is its own, no runtime's idle threads spin beside another's, and another checkout's code can take part.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import mgcda_core
from mgcda_core.bench import answering
from mgcda_core.config import ConfigError

RANDOM = "random:"
PUBLISHED = "published"


@dataclass(frozen=True)
class Side:
    """What is timed, as the command line names it."""

    weights: str
    """Shipped name, path, exported chain, or `random:PROFILE`."""
    backend: str
    """As of `open_backend`, or `published`."""
    device: str
    precision: str
    """Of PyTorch's autocast: fp32 (none), bf16, fp16."""
    size: tuple[int, int]
    batch: int
    threads: int
    """Cores it may use; 0 for all."""
    stages: bool = True
    """Note the stages of every frame."""
    checkout: str = ""
    """Folder of another checkout whose package runs it; empty for this one."""

    @property
    def cores(self) -> int:
        """CPU cores of its chain and of the machine's limits beside it, whatever OMP_NUM_THREADS says."""
        return self.threads or len(os.sched_getaffinity(0))


class Child:
    """A process that holds the chain of a `Side`; ends with the `with` block.

    Raises ConfigError for wrong use, ValueError for what else the chain's opening refuses, OSError if it dies.
    """

    def __init__(self, side: Side) -> None:
        self.side = side
        root = Path(side.checkout or Path(mgcda_core.__file__).parents[1]).resolve()
        program = ["-c", Path(answering.__file__).read_text()] if side.checkout else ["-m", answering.__name__]
        path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))  # ROS 2 lies on it
        # A relative path of weights is the parent's.
        weights = str(Path(side.weights).resolve()) if Path(side.weights).exists() else side.weights
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by __exit__)
        self._process = subprocess.Popen(
            [sys.executable, *program], cwd=root, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(side.cores), "PYTHONPATH": path},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, preexec_fn=lambda: _pin(side.threads),
        )  # fmt: skip
        self._send(json.dumps({**asdict(side), "weights": weights}))

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def ask(self, method: str) -> Any:
        """What a method of the child's chain answers: `frame`, `memory`, `about`, `stages`, `operators`."""
        self._send(method)
        return self.wait()

    def wait(self) -> Any:
        """The next answer; the first one comes, without a question, once the chain is open."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._dead()
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise (ConfigError if answer["wrong_use"] else ValueError)(answer["error"])
        return answer

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._dead() from None

    def _dead(self) -> OSError:
        code = self._process.wait()
        self._log.seek(0)
        last = (self._log.read().strip().splitlines() or ["no message"])[-1]
        return OSError(f"the process timing {self.side.weights} ended with {code}: {last}")


def _pin(threads: int) -> None:
    """Keep to the first cores: some runtimes start a thread for every core they may use."""
    if threads and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
