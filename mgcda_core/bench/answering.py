"""The child's end of `mgcda bench`: holds one chain and times a frame whenever the parent asks.

A line of JSON on standard input opens the chain, every further line names a method, and its answer is a line of JSON.
The parent asks one child at a time, so chains that are compared take turns and never run together. Of another checkout
only what its public API was from the first commit on is used; this file then runs in it as `python -c`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np

DIFFERENT_FRAMES = 4


def made_frames(size: tuple[int, int]) -> list[np.ndarray]:
    """Pictures uint8 [H, W, 3] of sky, road, blocks and noise, the same ones for the same size (height, width)."""
    rng, (height, width) = np.random.default_rng(0), size
    frames = []
    for _ in range(DIFFERENT_FRAMES):
        frame = np.full((height, width, 3), (90, 90, 95), np.float32)
        frame[: height // 2] = (150, 180, 220)
        for _ in range(12):
            y, x = rng.integers(0, height), rng.integers(0, width)
            frame[y : y + height // 5 + 1, x : x + width // 8 + 1] = rng.integers(0, 256, 3)
        frames.append(np.clip(frame + rng.normal(0, 6, frame.shape), 0, 255).astype(np.uint8))
    return frames


class CheckoutChain:
    """`mgcda_core.load` of the checkout this process runs in."""

    def __init__(self, side: dict[str, Any]) -> None:
        import mgcda_core

        self._package = mgcda_core
        self._predictor = mgcda_core.load(side["weights"], side["device"])
        self._frames, self._count = made_frames(tuple(side["size"])), 0

    def about(self) -> dict[str, Any]:
        """What runs."""
        backend = self._predictor.backend
        return {"name": f"{backend.name} of {os.path.dirname(os.path.dirname(self._package.__file__))}",  # noqa: PTH120
                "device": backend.device, "precision": "fp32", "sha256": backend.sha256,
                "config": None, "message": "only of this checkout"}  # fmt: skip

    def memory(self) -> dict[str, float | None]:
        """As `Subject.memory`; not measured."""
        return dict.fromkeys(("opening_mb", "running_mb", "cuda_mb"))

    def stages(self) -> None:
        """Not measured."""

    def operators(self) -> None:
        """Not measured."""

    def frame(self) -> dict[str, float | None]:
        """Seconds of one frame from numpy to mask: by the wall, and of all cores; the others as `Subject.frame`."""
        image = self._frames[self._count % DIFFERENT_FRAMES]
        self._count += 1
        started, cpu = time.perf_counter(), time.process_time()
        prediction = self._predictor(image)
        chain = time.perf_counter()
        _ = prediction.mask
        ended = time.perf_counter()
        return {"chain": chain - started, "frame": ended - started, "message": None,
                "cpu": time.process_time() - cpu}  # fmt: skip


def main() -> None:
    """Answer until standard input ends."""
    # Libraries print too: what they print goes to stderr, the answers to where stdout was.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    chain: Any = None
    for line in sys.stdin:
        answer: Any = None
        try:
            if chain is None:
                chain = _opened(json.loads(line))
            else:
                answer = getattr(chain, line.strip())()
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            answer = {"error": str(error), "wrong_use": type(error).__name__ == "ConfigError"}
        answers.write(json.dumps(answer) + "\n")


def _opened(side: dict[str, Any]) -> Any:
    if side["checkout"]:
        return CheckoutChain(side)
    from mgcda_core.bench.subject import Subject

    return Subject(side)


if __name__ == "__main__":
    main()
