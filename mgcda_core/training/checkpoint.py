"""Atomic checkpoints: weights (safetensors), optimisers (tensors only) and state (JSON) in one folder per step."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 2


@dataclass(frozen=True)
class State:
    """All that a run needs to go on. Its samples need no state of their own: sample n is a function of n alone."""

    step: int
    """Steps done."""
    weights: dict[str, Tensor]
    optimizers: list[dict[str, Any]]
    rng: list[Tensor]
    """`generator_state` of each process."""
    progress: dict[str, Any]
    """Plain numbers: best validation, schedule."""


def save_checkpoint(run: Path, state: State) -> Path:
    """Write RUN/checkpoint-STEP: written beside, synced, then renamed, so that a kill never leaves half of one.

    The older checkpoints go once the new one stands. Returns its folder.
    """
    final, temporary = run / f"checkpoint-{state.step:07d}", run / ".checkpoint-writing"
    if final.is_dir():  # complete, and of this very step
        return final
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(
        {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.weights.items()},
        temporary / "weights.safetensors",
    )
    torch.save({"optimizers": state.optimizers, "rng": state.rng}, temporary / "optimizer.pt")
    (temporary / "state.json").write_text(
        json.dumps({"format": FORMAT, "step": state.step, "next_batch": state.step, "progress": state.progress})
    )
    for path in (*temporary.iterdir(), temporary):
        _sync(path)
    temporary.rename(final)
    _sync(run)
    for old in run.glob("checkpoint-*"):
        if old != final:
            _remove(old)
    return final


def load_checkpoint(run: Path) -> State | None:
    """The newest checkpoint of a run, or None. Raises ValueError for one of an unknown format."""
    found = sorted(run.glob("checkpoint-*"))
    if not found:
        return None
    state = json.loads((found[-1] / "state.json").read_text())
    if state.get("format") != FORMAT:
        raise ValueError(f"{found[-1]} has format {state.get('format')}; this version reads format {FORMAT}: "
                         "finish the run with the version that started it, or start a new one")  # fmt: skip
    rest = torch.load(found[-1] / "optimizer.pt", weights_only=True, map_location="cpu")
    weights = load_file(found[-1] / "weights.safetensors")
    return State(state["step"], weights, rest["optimizers"], rest["rng"], state["progress"])


def generator_state(device: torch.device) -> Tensor:
    """State of torch's generators in this process, uint8: the CPU's, then the GPU's if `device` is one."""
    cpu = torch.get_rng_state()
    return torch.cat([cpu, torch.cuda.get_rng_state(device)]) if device.type == "cuda" else cpu


def set_generator_state(state: Tensor, device: torch.device) -> None:
    """Inverse of `generator_state`; a state of another kind of device restores the CPU's alone."""
    cpu, gpu = state.tensor_split([len(torch.get_rng_state())])
    torch.set_rng_state(cpu.clone())  # of a view that does not begin its storage PyTorch 2.13 reads beyond the end
    if device.type == "cuda" and len(gpu):
        torch.cuda.set_rng_state(gpu.clone(), device)


def _remove(checkpoint: Path) -> None:
    """Out of sight first: a kill in between must not leave half a checkpoint under a name that is read."""
    gone = checkpoint.with_name(".checkpoint-old")
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.rename(gone)
    shutil.rmtree(gone)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
