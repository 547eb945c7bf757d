"""`mgcda bench metrics`: what pooling the pixel metrics of a whole benchmark costs, beside scikit-learn's.

Both sides run in processes of their own, without PyTorch, so that the memory is what the metrics need. The frames are
made up and their making is not timed: noise that is shifted from frame to frame, with an anomalous box and an ignored
border. Real scores vary less from pixel to pixel, which is kinder to the caches.
"""

from __future__ import annotations

import json as json_format
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from mgcda_core.evaluation.pixel_metrics import PixelMetrics
from mgcda_core.labels import ANOMALY, IGNORE


@dataclass(frozen=True)
class Pooled:
    """One side's cost and results; metrics are fractions."""

    frames: int
    pixels: int
    """Counted ones."""
    seconds: float
    peak_mb: float
    """Most resident memory of the process: interpreter, libraries, frames, metrics."""
    ap: float
    auroc: float
    """Over the frames that scikit-learn gets too."""

    @property
    def pixels_per_s(self) -> float:
        return self.pixels / self.seconds


def bench_metrics(
    frames: int = 1000, size: tuple[int, int] = (1024, 2048), sklearn_frames: int = 5, json: Path | None = None
) -> None:
    """Measure the pooled pixel metrics: time a frame, memory, pixels a second beside scikit-learn's.

    Args:
        frames: how many frames are pooled.
        size: height and width of a frame in pixels.
        sklearn_frames: how many of them scikit-learn gets (about 50 bytes a pixel); 0 leaves it out.
        json: file for the figures.

    Raises ValueError for figures that make no run, or if scikit-learn is missing.
    """
    if not 0 <= sklearn_frames <= frames or frames < 1 or min(size) < 16:
        raise ValueError(
            f"frames is {frames}, sklearn_frames {sklearn_frames}, size {size}: take at least one frame of 16x16, and "
            "no more of them for scikit-learn"
        )
    if sklearn_frames and find_spec("sklearn") is None:
        raise ValueError("scikit-learn is not installed: install it, or leave it out with --sklearn_frames 0")
    ours = _in_own_process("ours", frames, size, sklearn_frames or frames)
    figures: dict[str, object] = {"mgcda": asdict(ours)}
    print(
        f"mgcda         {1000 * ours.seconds / frames:8.2f} ms a frame of {size[1]}x{size[0]}, "
        f"{ours.pixels_per_s / 1e6:.1f} Mpixel/s, peak {ours.peak_mb:.0f} MB over {frames} frames"
    )
    if sklearn_frames:
        theirs = _in_own_process("sklearn", sklearn_frames, size, sklearn_frames)
        figures["scikit-learn"] = asdict(theirs)
        print(
            f"scikit-learn  {1000 * theirs.seconds / sklearn_frames:8.2f} ms a frame, "
            f"{theirs.pixels_per_s / 1e6:.1f} Mpixel/s, peak {theirs.peak_mb:.0f} MB over {sklearn_frames} frames\n"
            f"a pixel costs scikit-learn {ours.pixels_per_s / theirs.pixels_per_s:.1f} times as much; on its "
            f"{sklearn_frames} frames AP differs by {abs(ours.ap - theirs.ap):.1e}, AUROC by "
            f"{abs(ours.auroc - theirs.auroc):.1e}"
        )
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_format.dumps(figures, indent=1) + "\n")


def made_frames(frames: int, size: tuple[int, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(score float32, label uint8) of each frame, both [H, W]; the same ones for the same arguments."""
    height, width = size
    noise = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    label = np.zeros(size, np.uint8)
    label[: height // 16] = IGNORE
    label[height // 2 : height // 2 + height // 8, width // 4 : width // 4 + width // 8] = ANOMALY
    shift = 2.0 * (label == ANOMALY) - 4.0
    for number in range(frames):
        yield np.roll(noise, 9973 * number) * np.float32(1 + number % 7 / 10) + shift.astype(np.float32), label


def pool(frames: int, size: tuple[int, int], compared: int) -> Pooled:
    """This project's metrics of the made frames; ap and auroc are those after `compared` frames."""
    metrics, seconds, scores = PixelMetrics("logits"), 0.0, None
    for number, (score, label) in enumerate(made_frames(frames, size), start=1):
        started = time.perf_counter()
        metrics.update(score, label)
        seconds += time.perf_counter() - started
        if number == compared:
            scores = metrics.compute()
    started = time.perf_counter()
    pixels = metrics.compute()["pixels"]
    seconds += time.perf_counter() - started
    assert scores is not None
    return Pooled(frames, pixels, seconds, _peak_mb(), scores["ap"], scores["auroc"])


def pool_with_sklearn(frames: int, size: tuple[int, int]) -> Pooled:
    """scikit-learn's metrics of the same; collecting the pixels is not timed."""
    from sklearn.metrics import auc, average_precision_score, roc_curve

    counted = [(score[label != IGNORE], label[label != IGNORE]) for score, label in made_frames(frames, size)]
    score, label = (np.concatenate(part) for part in zip(*counted, strict=True))
    started = time.perf_counter()
    ap = float(average_precision_score(label, score))
    false_positive_rate, recall, _ = roc_curve(label, score)
    auroc = float(auc(false_positive_rate, recall))
    return Pooled(frames, label.size, time.perf_counter() - started, _peak_mb(), ap, auroc)


def _in_own_process(side: str, frames: int, size: tuple[int, int], compared: int) -> Pooled:
    command = [sys.executable, "-m", "mgcda_core.bench.metrics", side, *map(str, (frames, *size, compared))]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        last = (run.stderr.strip().splitlines() or ["no message"])[-1]
        raise OSError(f"the process measuring {side} ended with {run.returncode}: {last}")
    return Pooled(**json_format.loads(run.stdout))


def _peak_mb() -> float:
    """Of this program: getrusage would count what its parent held when it started it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/status does not state VmHWM, the peak of the resident memory")


if __name__ == "__main__":
    n, height, width, compared_frames = map(int, sys.argv[2:])
    side_of = {"ours": lambda: pool(n, (height, width), compared_frames),
               "sklearn": lambda: pool_with_sklearn(n, (height, width))}  # fmt: skip
    print(json_format.dumps(asdict(side_of[sys.argv[1]]())))
