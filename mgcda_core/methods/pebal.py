"""PEBAL: pixel-wise energy-biased abstention learning (Tian et al., ECCV 2022; spec 7).

A network of the classes and one output more, abstention, is told to abstain on outliers; what abstaining is worth, and
the score, come from the free energy of the classes, which is pushed below one margin on known pixels and above another
on outliers. Two things are ours: a coarse label's probability is the sum of its classes', and the smoothed reward
repeats the border (published: mirrored).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_core.config import PebalTraining
from mgcda_core.models.direct_segmenter import ENERGY_MARGINS, blurred

_LEAST_PROBABILITY = 1e-7
_LEAST_REWARD = 1e-12  # of a pixel whose free energy is 0: abstention over it stays finite


def pebal_loss(
    logits: Tensor, likelihood: Tensor, known: Tensor, outlier: Tensor, config: PebalTraining
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total of a batch, a scalar, and its parts for the log: gambler, energy, and the mean energies of both kinds.

    logits [B, C + 1, h, w], abstention last; likelihood float32 [B, h, w], log of the probability of the pixel's label
    under the softmax of all outputs; known, outlier bool [B, h, w], void pixels being neither.
    """
    with torch.autocast(logits.device.type, enabled=False):  # bfloat16 would round the blur's sums to two digits
        logits = logits.float()
        energy = -torch.logsumexp(logits[:, :-1], 1)
        gambler = gambler_loss(logits, likelihood, energy, known, outlier, config.outlier)
        margins = energy_loss(energy, known, outlier, config)
    log = {"gambler": gambler, "energy": margins, "energy_known": _mean(energy.detach()[known]),
           "energy_outlier": _mean(energy.detach()[outlier])}  # fmt: skip
    return gambler + config.energy * margins, log


def gambler_loss(
    logits: Tensor, likelihood: Tensor, energy: Tensor, known: Tensor, outlier: Tensor, weight: float
) -> Tensor:
    """- mean log(p_y + a / g) of images without outliers, plus that of images with them and their outliers' own term.

    a is the abstention's probability, g the squared energy smoothed by `blurred`. Of an outlier every class counts:
    - weight * mean over its pixels and classes of log max(p_c + a / g, 1e-7). Shapes as in `pebal_loss`; energy
    [B, h, w]. In logarithms, so that no probability underflows.
    """
    total = torch.logaddexp(-energy, logits[:, -1])  # logsumexp of all outputs: one over the channels is enough
    reward = blurred(energy.square()[:, None])[:, 0].clamp(min=_LEAST_REWARD)
    abstaining = logits[:, -1] - total - reward.log()
    gain = torch.logaddexp(likelihood, abstaining)
    mixed = outlier.any(2).any(1)[:, None, None]
    classes = logits.permute(0, 2, 3, 1)[outlier][:, :-1] - total[outlier][:, None]
    of_outliers = torch.logaddexp(classes, abstaining[outlier][:, None]).clamp(min=math.log(_LEAST_PROBABILITY))
    return -(_mean(gain[known & ~mixed]) + _mean(gain[known & mixed]) + weight * _mean(of_outliers))


def energy_loss(energy: Tensor, known: Tensor, outlier: Tensor, config: PebalTraining) -> Tensor:
    """Squared excess over the margins, the norm of the outliers' energies, and smoothness; of energy [B, h, w].

    A batch without outliers has the known pixels' excess alone, at twice the weight, and the smoothness.
    """
    below, above = ENERGY_MARGINS
    loss = _mean(F.relu(energy[known] - below).square())
    if outlier.any():
        loss = 0.5 * (loss + _mean(F.relu(above - energy[outlier]).square()))
        loss = loss + config.sparsity * torch.linalg.vector_norm(energy[outlier])
    steps = energy.diff(dim=1).square().sum() + energy.diff(dim=2).square().sum()
    return loss + config.smoothness * steps / 2


def _mean(values: Tensor) -> Tensor:
    """0, which still hangs on the graph, without any value."""
    return values.sum() / max(1, values.numel())
