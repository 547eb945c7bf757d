"""mgcda_core.weights.spectral_norm: published generator checkpoints to plain weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mgcda_core.weights.spectral_norm import DEAD_GENERATOR_KEYS, drop_dead_generator_keys, fold_spectral_norm


def test_folding_gives_the_weight_torch_uses_in_evaluation() -> None:
    torch.manual_seed(0)
    conv = nn.utils.spectral_norm(nn.Conv2d(5, 7, 3, bias=False))
    for _ in range(3):
        conv(torch.randn(1, 5, 8, 8))
    conv.eval()
    x = torch.randn(1, 5, 8, 8)
    folded = fold_spectral_norm({f"a.0.{k}": v for k, v in conv.state_dict().items()} | {"fc.bias": torch.ones(2)})
    assert set(folded) == {"a.0.weight", "fc.bias"}
    torch.testing.assert_close(nn.functional.conv2d(x, folded["a.0.weight"]), conv(x))


@pytest.mark.parametrize(
    ("state", "named"),
    [
        ({"a.weight_orig": torch.ones(2, 2), "a.weight_u": torch.ones(2)}, "a.weight_v"),
        ({"a.weight_v": torch.ones(2)}, "a.weight_orig"),
        ({"a.weight_orig": torch.zeros(2, 2), "a.weight_u": torch.ones(2), "a.weight_v": torch.ones(2)}, "damaged"),
    ],
)
def test_incomplete_checkpoints_are_named(state: dict[str, torch.Tensor], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        fold_spectral_norm(state)


def test_dead_keys_are_dropped_by_name_only() -> None:
    assert len(DEAD_GENERATOR_KEYS) == len(set(DEAD_GENERATOR_KEYS)) == 7 * 3 * 5
    kept = {"head_0.norm_1.weight": torch.ones(1), "other.norm_0.weight": torch.ones(1)}
    state = {**kept, **{key: torch.ones(1) for key in DEAD_GENERATOR_KEYS}}
    assert set(drop_dead_generator_keys(state)) == set(kept)
