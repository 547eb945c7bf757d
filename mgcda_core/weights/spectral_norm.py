"""Published CC-FPSE checkpoints to plain weights: spectral norm folded, keys nothing reads dropped (spec 1.5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_BLOCKS = ("head_0", "G_middle_0", "G_middle_1", "up_0", "up_1", "up_2", "up_3")
_NORM_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

DEAD_GENERATOR_KEYS: tuple[str, ...] = tuple(
    f"{block}.{norm}.{leaf}"
    for block in _BLOCKS
    for norm in ("norm_0", "conv_0.norm_layer", "conv_2.norm_layer")
    for leaf in _NORM_LEAVES
)
"""Keys of the published generator that its forward pass never reads."""


def fold_spectral_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace every `X.weight_orig`, `X.weight_u`, `X.weight_v` by `X.weight` = weight_orig / (u' W v).

    W is weight_orig as [out, -1]; u and v are taken as stored, since evaluation runs no power iteration. Other entries
    stay as they are, in order. Raises ValueError naming a `weight_orig` without its u and v, a stray u or v, or a
    sigma that is not positive.
    """
    folded: dict[str, Tensor] = {}
    for key, value in state.items():
        stem, _, leaf = key.rpartition(".")
        if leaf in ("weight_u", "weight_v"):
            if f"{stem}.weight_orig" not in state:
                raise ValueError(f"{key} has no {stem}.weight_orig beside it: not a spectral-norm checkpoint")
        elif leaf == "weight_orig":
            folded[f"{stem}.weight"] = _folded(state, stem)
        else:
            folded[key] = value
    return folded


def drop_dead_generator_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same entries without `DEAD_GENERATOR_KEYS`; anything else unknown stays for the strict loader to name."""
    dead = frozenset(DEAD_GENERATOR_KEYS)
    return {key: value for key, value in state.items() if key not in dead}


def _folded(state: Mapping[str, Tensor], stem: str) -> Tensor:
    weight = state[f"{stem}.weight_orig"].float()
    try:
        u, v = state[f"{stem}.weight_u"].float(), state[f"{stem}.weight_v"].float()
    except KeyError as error:
        raise ValueError(f"{stem}.weight_orig has no {error.args[0]} beside it: the checkpoint is incomplete") from None
    sigma = torch.dot(u, weight.flatten(1).mv(v))
    if not sigma > 0:
        raise ValueError(f"{stem}: u' W v is {float(sigma)}, it must be positive: the checkpoint is damaged")
    return weight / sigma
