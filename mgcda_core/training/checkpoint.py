"""Atomic checkpoints: weights (safetensors), optimiser (tensors only) and state (JSON) in one folder per step."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

FORMAT = 1


def save_checkpoint(run: Path, step: int, weights: dict[str, Tensor], optimizer: dict[str, Any]) -> Path:
    """Write RUN/checkpoint-STEP: written beside, synced, then renamed, so that a kill never leaves half of one.

    The older checkpoints go once the new one stands. Returns its folder.
    """
    final, temporary = run / f"checkpoint-{step:07d}", run / ".checkpoint-writing"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file({k: v.detach().cpu().contiguous() for k, v in weights.items()}, temporary / "weights.safetensors")
    rng = {
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    torch.save({"optimizer": optimizer, **rng}, temporary / "optimizer.pt")
    (temporary / "state.json").write_text(json.dumps({"format": FORMAT, "step": step}))
    for path in temporary.iterdir():
        _sync(path)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _sync(run)
    for old in run.glob("checkpoint-*"):
        if old != final:
            shutil.rmtree(old)
    return final


def load_checkpoint(run: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """(step, weights, optimiser state) of the newest checkpoint of a run, or None; restores torch's generators.

    Raises ValueError for a checkpoint of an unknown format.
    """
    found = sorted(run.glob("checkpoint-*"))
    if not found:
        return None
    state = json.loads((found[-1] / "state.json").read_text())
    if state.get("format") != FORMAT:
        raise ValueError(f"{found[-1]} has format {state.get('format')}; this version reads format {FORMAT}")
    rest = torch.load(found[-1] / "optimizer.pt", weights_only=True, map_location="cpu")
    torch.set_rng_state(rest["rng"])
    if torch.cuda.is_available() and rest["cuda_rng"]:
        torch.cuda.set_rng_state_all(rest["cuda_rng"])
    return state["step"], load_file(found[-1] / "weights.safetensors"), rest["optimizer"]


def weights_file(run_or_file: str) -> Path | str:
    """The weights of a finished run when given its folder; anything else is left to `load_weights`."""
    path = Path(run_or_file)
    return path / "weights.safetensors" if path.is_dir() else run_or_file


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
