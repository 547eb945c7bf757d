"""Learning-rate schedules: factors on the peak rate."""

from __future__ import annotations

import math
from dataclasses import dataclass

PATIENCE = 10
"""Validations without improvement before the rate is halved (SynBoost: epochs; spec 2.4)."""


def warmup_poly(step: int, steps: int, warmup: int, power: float) -> float:
    """Factor on the peak learning rate at `step` of `steps`: linear up over `warmup`, then (1 - progress) ** power."""
    if step < warmup:
        return (step + 1) / warmup
    return (1 - step / steps) ** power


@dataclass
class Plateau:
    """Halves the rate when the loss has not fallen by a ten-thousandth for more than ten validations."""

    factor: float = 1.0
    best: float = math.inf
    bad: int = 0

    def see(self, loss: float) -> None:
        """Take note of one validation loss."""
        if loss < self.best * (1 - 1e-4):
            self.best, self.bad = loss, 0
            return
        self.bad += 1
        if self.bad > PATIENCE:
            self.factor, self.bad = self.factor / 2, 0
