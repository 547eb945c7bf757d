"""The training loop's own settings, shared by every training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mgcda_core.config.chain import ConfigError


@dataclass(frozen=True)
class LoopConfig:
    """The training loop's own settings."""

    steps: int = 4000
    """Optimiser steps."""
    batch: int = 16
    """Images a step, over all processes."""
    lr: float = 1e-3
    """Peak learning rate of AdamW (Adam, where `weight_decay` is 0)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay rates of its two moments."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    schedule: Literal["poly", "plateau"] = "poly"
    """Learning rate: warm-up and poly decay, or halved when the validation loss has not improved for ten validations
    (as SynBoost, which validates once an epoch)."""
    warmup: int = 100
    """Steps of linear warm-up; then poly decay with power `power`."""
    power: float = 0.9
    """Power of the poly decay to zero."""
    clip: float = 5.0
    """Largest gradient norm; 0 = no limit."""
    ema: float = 0.998
    """Decay of the exponential moving average of the weights, which is what gets exported; 0 = none."""
    workers: int = 2
    """Processes that load data."""
    seed: int = 0
    """Seeds initialisation, sampling and augmentation."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    """Arithmetic of the forward and backward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes the GPU if there is one."""
    log_every: int = 20
    """Steps between lines of metrics.csv."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    validate_every: int = 0
    """Steps between validations; the weights of the best one are exported. 0 = the last weights, never validated
    before."""
    pictures_every: int = 0
    """Steps between sample pictures (RUN/pictures/); 0 = none."""
    minutes: float = 0.0
    """Stop after this many minutes, with a checkpoint to resume from and the weights of that moment; 0 = no limit."""

    def __post_init__(self) -> None:
        if self.schedule == "plateau" and not self.validate_every:
            raise ConfigError("loop.schedule plateau needs loop.validate_every")
        for name in ("batch", "log_every", "checkpoint_every", "lr"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"loop.{name} is {getattr(self, name)}: it must be above 0")
