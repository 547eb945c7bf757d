"""`mgcda eval`: the chain, or a baseline of its segmentation network, on a labelled folder."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from mgcda_core.config import ScoreName
from mgcda_core.data.folder import LabelledFolder
from mgcda_core.evaluation.pixel_metrics import ExactMetrics, PixelMetrics, PixelScores
from mgcda_core.evaluation.scorers import Scorer, open_scorer
from mgcda_core.inference.predictor import check_image

_IN_UNIT_RANGE = ("msp", "entropy")
_EXACT_PIXELS = 80_000_000
"""Sets up to this size are measured exactly (4 bytes a pixel, twice while sorting), larger ones in 16 MiB."""


@dataclass(frozen=True)
class Report:
    """Pooled metrics of one score on one set, as fractions; the fields are the keys of the JSON file."""

    dataset: str
    images: int
    pixels: int
    """Counted pixels, those with label 0 or 1."""
    anomaly_fraction: float
    ap: float | None
    fpr95: float | None
    auroc: float | None
    """None where the set has no positives or no negatives."""
    weights_sha256: str
    score: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def line(self) -> str:
        """One line in percent, the convention named."""
        missing = "n/a (only anomalous pixels)" if self.anomaly_fraction else "n/a (no anomalous pixel)"
        values = {"ap": self.ap, "fpr95": self.fpr95, "auroc": self.auroc}
        percent = {name: missing if v is None else f"{100 * v:.2f}" for name, v in values.items()}
        return (
            f"{self.dataset}: score={self.score} images={self.images} AP={percent['ap']} FPR95={percent['fpr95']} "
            f"AUROC={percent['auroc']} (percent, pooled over {self.pixels} pixels, {100 * self.anomaly_fraction:.2f} % "
            f"anomalous; FPR at the first recall >= 95 %) in {self.seconds:.1f} s"
        )


def write_report(report: Report, path: Path) -> None:
    """Write the report as JSON, all or nothing; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(report.to_json(), indent=1) + "\n")
    part.replace(path)


def evaluate(
    images: str | Path,
    masks: str | Path,
    weights: str | Path = "lite",
    score: ScoreName = "model",
    anomaly_values: tuple[int, ...] = (1,),
    ignore_values: tuple[int, ...] = (255,),
    normal_values: tuple[int, ...] = (0,),
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score every image at its own resolution and pool all pixels: exactly up to 80 M of them, then bucketed (spec 5).

    `score` is "model" (the whole chain) or a baseline of its segmentation network, whose logits are resized
    bilinearly to the image first. `progress(done, total)` is called after each image of this process. Of the N
    processes of `torchrun` each scores every N-th image, and all return the report of one process. Raises ValueError or
    OSError naming the file at fault.
    """
    started = time.perf_counter()
    data = LabelledFolder(images, masks, anomaly_values, ignore_values, normal_values)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    scorer, sha256 = open_scorer(weights, score, _own_device(device))
    share = range(rank, len(data), world)
    metrics = PixelMetrics("unit" if score in _IN_UNIT_RANGE else "logits")
    kept: ExactMetrics | None = ExactMetrics()
    for number, (path, values, label) in enumerate(_scored(data, share, scorer), 1):
        try:
            metrics.update(values, label)
            if kept is not None:
                kept.update(values, label)
                kept = kept if kept.pixels <= _EXACT_PIXELS else None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if progress is not None:
            progress(number, len(share))
    result = _pooled(metrics, kept) if world > 1 else (kept or metrics).compute()
    nothing = result["reason"] is not None
    return Report(
        dataset="folder",
        images=len(data),
        pixels=result["pixels"],
        anomaly_fraction=result["positives"] / max(result["pixels"], 1),
        ap=None if nothing else result["ap"],
        fpr95=None if nothing else result["fpr95"],
        auroc=None if nothing else result["auroc"],
        weights_sha256=sha256,
        score=score,
        seconds=time.perf_counter() - started,
    )


def _own_device(device: str) -> str:
    """The GPU of this process, if `torchrun` started one a GPU and the caller named none."""
    import torch

    if "LOCAL_RANK" not in os.environ or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{os.environ['LOCAL_RANK']}"


def _pooled(metrics: PixelMetrics, kept: ExactMetrics | None) -> PixelScores:
    """What one process that saw all images would compute, on every process.

    Histograms add up and sorted scores have no order, so the result is the same to the last bit: exact if all scores
    together are few enough, which they cannot be if those of one process are too many.
    """
    import torch.distributed as dist

    started = not dist.is_initialized()
    if started:
        dist.init_process_group("gloo")
    group = dist.new_group(backend="gloo")  # arrays in main memory, whatever a training in this process uses
    assert isinstance(group, dist.ProcessGroup)
    parts: list[tuple[PixelMetrics, ExactMetrics | None]] | None = None
    if dist.get_rank() == 0:
        parts = [(metrics, kept)] * dist.get_world_size()
    dist.gather_object((metrics, kept), parts, group=group)
    pooled: list[PixelScores | None] = [None]
    if parts:
        for others, scores in parts[1:]:
            metrics.merge(others)
            if kept is not None and scores is not None and kept.pixels + scores.pixels <= _EXACT_PIXELS:
                kept.merge(scores)
            else:
                kept = None
        pooled = [(kept or metrics).compute()]
    dist.broadcast_object_list(pooled, group=group)
    if started:
        dist.destroy_process_group()
    assert pooled[0] is not None
    return pooled[0]


def _scored(data: LabelledFolder, share: range, scorer: Scorer) -> Iterator[tuple[Path, np.ndarray, np.ndarray]]:
    """(image path, score, label) of this process's share of the pairs in order, a few images ahead of the consumer."""
    lock = nullcontext() if scorer.parallel else Lock()

    def work(index: int) -> tuple[Path, np.ndarray, np.ndarray]:
        sample, path = data[index], data.pairs[index][0]
        try:
            check_image(sample.image)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        with lock:
            return path, scorer(sample.image), sample.label

    workers = min(4, os.cpu_count() or 1) if scorer.parallel else 2  # the second one decodes while the first computes
    with ThreadPoolExecutor(workers, initializer=scorer.prepare_thread) as pool:
        waiting = deque(pool.submit(work, i) for i in share[: workers + 1])
        try:
            for index in range(len(share)):
                yield waiting.popleft().result()
                if (following := index + workers + 1) < len(share):
                    waiting.append(pool.submit(work, share[following]))
        finally:
            for future in waiting:
                future.cancel()
