"""Strict loading of state dicts: every key that does not fit is named in one error."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class StateDictError(ValueError):
    """A state dict does not fit its network; the message lists every missing, unexpected and mis-shaped key."""


def load_strict(
    module: nn.Module, state_dict: Mapping[str, Tensor], source: str, *, ignore: tuple[str, ...] = ()
) -> None:
    """Load `state_dict` into `module`, all keys or none.

    A `module.` prefix that every key carries (DataParallel checkpoints) is stripped; keys that start with one of
    `ignore` are dropped first; `num_batches_tracked` may be absent, since nothing here reads it. Raises
    StateDictError, which names `source` (the file) and every missing, unexpected and mis-shaped key.
    """
    state = {key: value for key, value in strip_prefix(state_dict).items() if not key.startswith(ignore)}
    own = module.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in own]
    mis_shaped = [
        f"{key} is {tuple(state[key].shape)}, the network needs {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", mis_shaped))
    problems = [f"{len(keys)} {kind}: {', '.join(keys)}" for kind, keys in kinds if keys]
    if problems:
        raise StateDictError(f"{source} does not fit {type(module).__name__}: " + "; ".join(problems))
    module.load_state_dict(state, strict=False)


def load_widened(module: nn.Module, state_dict: Mapping[str, Tensor], source: str) -> None:
    """`load_strict` into a network that may have one output more: what the state lacks of it keeps its own values.

    Outputs are the first dimension of a weight or bias, as in a convolution. Raises StateDictError as `load_strict`.
    """
    own, state = module.state_dict(), dict(state_dict)
    for key, value in state.items():
        wanted = own[key].shape if key in own else value.shape
        if value.ndim and value.shape[1:] == wanted[1:] and value.shape[0] == wanted[0] - 1:
            state[key] = torch.cat([value, own[key][-1:].to(value.dtype)])
    load_strict(module, state, source)


def strip_prefix(state_dict: Mapping[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    """The same entries without `prefix`, if every key carries it; otherwise a plain copy."""
    if state_dict and all(key.startswith(prefix) for key in state_dict):
        return {key[len(prefix) :]: value for key, value in state_dict.items()}
    return dict(state_dict)
