"""The folder of a run: its configuration, its log, and what is kept when it fails."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from mgcda_core.config import ConfigError, LoopConfig

MAY_CHANGE = ("minutes", "workers", "device", "log_every", "checkpoint_every", "pictures_every")
"""Fields of `loop` a resumed run may change: they do not change what is computed."""


def is_first_process() -> bool:
    """Whether this process is the only one, or the first of those `torchrun` started."""
    return int(os.environ.get("RANK", "0")) == 0


def start_run(run: Path, config: Any, *, resume: bool) -> None:
    """Make the run folder with config.yaml and environment.json.

    Raises ValueError if it holds a run and `resume` is off, ConfigError if a resumed run's configuration differs.
    """
    if resume and not (run / "config.yaml").is_file() and is_first_process():
        print(f"{run} holds no run to go on with: starting one", flush=True)
    if not resume and any(run.glob("checkpoint-*")):
        raise ValueError(f"{run} holds a run already: give another --run, or --resume to go on with it")
    cv2.setNumThreads(0)  # before any worker is forked: OpenCV's own threads do not survive a fork and would hang it
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    if resume and (run / "config.yaml").is_file():
        _same_config(yaml.safe_load((run / "config.yaml").read_text()), plain, run)
    if not is_first_process():
        return
    run.mkdir(parents=True, exist_ok=True)
    _write(run / "config.yaml", yaml.safe_dump(plain, sort_keys=False))
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "command": sys.argv,
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor(),
    }
    _write(run / "environment.json", json.dumps(environment, indent=1))


def _same_config(stored: dict[str, Any], given: dict[str, Any], run: Path) -> None:
    fixed = [{**c, "loop": {k: v for k, v in c["loop"].items() if k not in MAY_CHANGE}} for c in (stored, given)]
    for name in fixed[1]:
        if fixed[0].get(name) != fixed[1][name]:
            raise ConfigError(f"{run} was started with another {name}: resume with its config.yaml, or start a new run")


def _write(path: Path, text: str) -> None:
    """All or nothing, so that a kill leaves the old file or the new one."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)


def save_failure(
    run: Path, step: int, names: list[str], batch: list[Tensor], weights: dict[str, Tensor], rank: int
) -> str:
    """Keep what made the loss not finite in RUN/failed: the batch, its samples' names, the weights before the step.

    Returns the sentence for the error.
    """
    folder = run / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"{i}": part.detach().cpu().contiguous() for i, part in enumerate(batch)}
    save_file(tensors, folder / f"batch-{rank}.safetensors", {"step": str(step), "samples": json.dumps(names)})
    if rank == 0:
        state = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in weights.items()}
        save_file(state, folder / "weights.safetensors", {"step": str(step)})
    kept = "the last checkpoint is good" if any(run.glob("checkpoint-*")) else "there is no checkpoint yet"
    return (f"the loss or its gradient is not finite at step {step + 1} on {', '.join(names)}: the batch and the "
            f"weights before it are in {folder}, {kept}; lower loop.lr or look at these samples")  # fmt: skip


class RunLog:
    """metrics.csv, validation.csv, TensorBoard events and one printed line each time.

    A resumed run drops the rows after its checkpoint. Only the `active` process writes.
    """

    def __init__(self, run: Path, config: LoopConfig, first: int, *, active: bool) -> None:
        self.run, self.config, self.active = run, config, active
        self.rows = {name: _rows(run / f"{name}.csv", first) for name in ("metrics", "validation")}
        self.time, self.step, self.waiting = time.monotonic(), first, 0.0
        self.board = None
        if active:
            from tensorboardX import SummaryWriter

            self.board = SummaryWriter(str(run / "tensorboard"), purge_step=first)

    def waited(self, seconds: float) -> None:
        """Take note of the time a step waited for its batch."""
        self.waiting += seconds

    def write(self, step: int, figures: dict[str, float]) -> None:
        """One line of the training's figures, with its speed and the share of time spent waiting for data."""
        now = time.monotonic()
        rate = (step - self.step) * self.config.batch / max(now - self.time, 1e-9)
        speed = {"images_per_s": rate, "data_share": self.waiting / max(now - self.time, 1e-9)}
        self.time, self.step, self.waiting = now, step, 0.0
        left = (self.config.steps - step) * self.config.batch / max(rate, 1e-9) / 60
        self._add("metrics", step, figures | speed)
        self._say(f"step {step}/{self.config.steps}", figures, f"{rate:.1f} images/s  {left:.1f} min left")

    def validation(self, step: int, figures: dict[str, float]) -> None:
        """One line of validation figures."""
        self._add("validation", step, figures)
        self._say(f"step {step} held-out", figures, "")
        self.time = time.monotonic()

    def close(self) -> None:
        """Write out what TensorBoard still holds."""
        if self.board is not None:
            self.board.close()

    def _add(self, name: str, step: int, figures: dict[str, float]) -> None:
        if self.board is None:
            return
        rows = self.rows[name]
        rows.append({"step": step, **figures})
        part = self.run / f".{name}.csv.part"
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[-1]), extrasaction="ignore", restval="")
            writer.writeheader()
            writer.writerows(rows)
        part.replace(self.run / f"{name}.csv")
        for key, value in figures.items():
            self.board.add_scalar(f"{name}/{key}", value, step)

    def _say(self, head: str, figures: dict[str, float], tail: str) -> None:
        if self.active:
            shown = "  ".join(f"{k} {v:.3g}" for k, v in figures.items())
            print(f"{head}  {shown}  {tail}".rstrip(), flush=True)


def _rows(path: Path, first: int) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if int(row["step"]) <= first]
