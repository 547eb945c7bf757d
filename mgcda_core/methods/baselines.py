"""Anomaly scores of a closed-set segmentation network alone: what the chain has to beat (spec 7).

Every function takes logits float [B, C, h, w] and returns float32 [B, h, w]; higher is more anomalous.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def msp(logits: Tensor) -> Tensor:
    """1 - the largest softmax probability, in [0, 1 - 1/C] (Hendrycks & Gimpel, 2017).

    Computed from the other classes' probabilities, so that confident pixels keep their order where 1 - p would round
    to 0.
    """
    logits = logits.float()
    top, index = logits.max(dim=1, keepdim=True)
    rest = (logits - top).exp_().scatter_(1, index, 0.0).sum(dim=1)
    return rest / (1.0 + rest)


def maxlogit(logits: Tensor) -> Tensor:
    """Minus the largest logit, unbounded (Hendrycks et al., 2022)."""
    return -logits.float().amax(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Softmax entropy -sum p ln p / ln C, in [0, 1]."""
    log_p = logits.float().log_softmax(dim=1)
    return -(log_p.exp() * log_p).sum(dim=1).clamp_(max=0.0) / math.log(logits.shape[1])


def energy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Free energy -T logsumexp(logits / T), unbounded (Liu et al., 2020)."""
    return -temperature * torch.logsumexp(logits.float() / temperature, dim=1)


BASELINES: dict[str, Callable[[Tensor], Tensor]] = {
    "msp": msp,
    "maxlogit": maxlogit,
    "entropy": entropy,
    "energy": energy,
}
