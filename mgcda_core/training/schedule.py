"""Learning-rate schedule."""

from __future__ import annotations


def warmup_poly(step: int, steps: int, warmup: int, power: float) -> float:
    """Factor on the peak learning rate at `step` of `steps`: linear up over `warmup`, then (1 - progress) ** power."""
    if step < warmup:
        return (step + 1) / warmup
    return (1 - step / steps) ** power
