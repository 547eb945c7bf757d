"""The training loop, in the open: one step after the other on lightning-fabric."""

from __future__ import annotations

import csv
import dataclasses
import json
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from mgcda_core.config import ConfigError, LoopConfig
from mgcda_core.training.checkpoint import load_checkpoint, save_checkpoint
from mgcda_core.training.schedule import warmup_poly


class Objective(nn.Module):
    """What a training minimises: frozen networks, one trained network, and the loss of a batch.

    Subclasses set `trained` and define `forward(*batch) -> {"loss": scalar, name: scalar for the log, ...}`.
    """

    trained: nn.Module

    def train(self, mode: bool = True) -> Objective:
        """Only the trained network ever leaves evaluation mode."""
        super().train(False)
        self.trained.train(mode)
        return self


def fit(
    objective: Objective, dataset: Dataset[Any], config: LoopConfig, run: Path, *, resume: bool = False
) -> nn.Module:
    """Train `objective.trained` for `config.steps` steps; returns its moving average in evaluation mode.

    Sample n of the data set is a function of n alone and step i uses samples i*batch .. (i+1)*batch - 1, so a resumed
    run sees what an unbroken one would. Raises ValueError if the run exists already and `resume` is off, RuntimeError
    if the loss stops being finite.
    """
    fabric = Fabric(accelerator=config.device, devices=1, precision=config.precision)
    trained = objective.trained
    average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
    optimizer = torch.optim.AdamW(_groups(trained, config.weight_decay), lr=config.lr)
    objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    average.to(fabric.device)
    model, stepper = fabric.setup(objective, optimizer)
    first = _restore(run, resume, trained, average, optimizer)  # once the parameters are where they train
    model.train()
    started, log = time.monotonic(), _Log(run, first)
    for step, batch in enumerate(_batches(dataset, config, first), first):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * warmup_poly(step, config.steps, config.warmup, config.power)
        losses: dict[str, Tensor] = model(*(fabric.to_device(part) for part in batch))
        fabric.backward(losses["loss"])
        norm = torch.nn.utils.clip_grad_norm_(trained.parameters(), config.clip)
        stepper.step()
        optimizer.zero_grad(set_to_none=True)
        average.update_parameters(trained)
        done = step + 1
        if done % config.log_every == 0 or done == config.steps:
            log.write(done, config, {k: float(v.detach()) for k, v in losses.items()}, float(norm))
        out_of_time = config.minutes > 0 and time.monotonic() - started > 60 * config.minutes
        if done % config.checkpoint_every == 0 or done == config.steps or out_of_time:
            save_checkpoint(run, done, _both(trained, average), optimizer.state_dict())
        if out_of_time:
            break
    return average.module.eval()


MAY_CHANGE = ("minutes", "workers", "device", "log_every", "checkpoint_every")
"""Fields of `loop` a resumed run may change: they do not change what is computed."""


def start_run(run: Path, config: Any, *, resume: bool) -> None:
    """Make the run folder with config.yaml and environment.json.

    Raises ValueError if it holds a run and `resume` is off, ConfigError if a resumed run's configuration differs.
    """
    if not resume and any(run.glob("checkpoint-*")):
        raise ValueError(f"{run} holds a run already: give another --run, or --resume to go on with it")
    cv2.setNumThreads(0)  # before any worker is forked: OpenCV's own threads do not survive a fork and would hang it
    run.mkdir(parents=True, exist_ok=True)
    plain = json.loads(json.dumps(dataclasses.asdict(config)))
    if resume and (run / "config.yaml").is_file():
        _same_config(yaml.safe_load((run / "config.yaml").read_text()), plain, run)
    (run / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor()
    environment = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "command": sys.argv,
        "device": device,
    }
    (run / "environment.json").write_text(json.dumps(environment, indent=1))


def _same_config(stored: dict[str, Any], given: dict[str, Any], run: Path) -> None:
    fixed = [{**c, "loop": {k: v for k, v in c["loop"].items() if k not in MAY_CHANGE}} for c in (stored, given)]
    for name in fixed[1]:
        if fixed[0].get(name) != fixed[1][name]:
            raise ConfigError(f"{run} was started with another {name}: resume with its config.yaml, or start a new run")


def _groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Norms and biases are not decayed."""
    matrices = [p for p in network.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in network.parameters() if p.requires_grad and p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _batches(dataset: Dataset[Any], config: LoopConfig, first: int) -> Iterator[Any]:
    numbers = [list(range(i * config.batch, (i + 1) * config.batch)) for i in range(first, config.steps)]
    loader = DataLoader(
        dataset,
        batch_sampler=numbers,
        num_workers=config.workers,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # else it draws from the generator of dropout and noise, which resuming restores
    )
    return iter(loader)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _both(trained: nn.Module, average: AveragedModel) -> dict[str, Tensor]:
    return {**{f"trained.{k}": v for k, v in trained.state_dict().items()},
            **{f"average.{k}": v for k, v in average.state_dict().items()}}  # fmt: skip


def _restore(run: Path, resume: bool, trained: nn.Module, average: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    found = load_checkpoint(run) if resume else None
    if found is None:
        return 0
    step, weights, optimizer_state = found
    for prefix, module in (("trained.", trained), ("average.", average)):
        module.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
    optimizer.load_state_dict(optimizer_state)
    return step


class _Log:
    """metrics.csv and one printed line each time; a resumed run drops the rows after its checkpoint."""

    def __init__(self, run: Path, first: int) -> None:
        self.path, self.rows = run / "metrics.csv", []
        if self.path.is_file():
            with self.path.open(newline="") as file:
                self.rows = [row for row in csv.DictReader(file) if int(row["step"]) <= first]
        self.time, self.step = time.monotonic(), first

    def write(self, step: int, config: LoopConfig, losses: dict[str, float], norm: float) -> None:
        if not np.isfinite(losses["loss"]):
            raise RuntimeError(f"the loss is {losses['loss']} at step {step}: lower loop.lr or look at the data; the "
                               f"last checkpoint in {self.path.parent} is good")  # fmt: skip
        now = time.monotonic()
        rate = (step - self.step) * config.batch / max(now - self.time, 1e-9)
        self.time, self.step = now, step
        lr = config.lr * warmup_poly(step - 1, config.steps, config.warmup, config.power)
        row: dict[str, Any] = {"step": step, **losses, "gradient_norm": norm, "lr": lr, "images_per_s": rate}
        self.rows.append(row)
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
            writer.writerows(self.rows)
        values = "  ".join(f"{k} {v:.4f}" for k, v in losses.items())
        left = (config.steps - step) * config.batch / max(rate, 1e-9) / 60
        print(
            f"step {step}/{config.steps}  {values}  lr {lr:.2e}  {rate:.1f} images/s  {left:.1f} min left", flush=True
        )
