"""mgcda_core.models.loading: strict state-dict loading."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mgcda_core.models.loading import StateDictError, load_strict, load_widened


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_bare_and_data_parallel_keys_load() -> None:
    source, bare, prefixed = _net(), _net(), _net()
    nn.init.normal_(source[1].get_parameter("weight"))
    load_strict(bare, source.state_dict(), "bare.pth")
    load_strict(prefixed, {f"module.{k}": v for k, v in source.state_dict().items()}, "prefixed.pth")
    for key, value in source.state_dict().items():
        assert torch.equal(bare.state_dict()[key], value)
        assert torch.equal(prefixed.state_dict()[key], value)


def test_every_misfit_is_in_one_error_and_nothing_is_loaded() -> None:
    net = _net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    state = {k: torch.full_like(v, 7) for k, v in net.state_dict().items()}
    del state["0.bias"], state["1.running_var"]
    state["0.weight"] = torch.zeros(4, 5, 1, 1)
    state["head.weight"] = torch.zeros(1)
    with pytest.raises(StateDictError) as error:
        load_strict(net, state, "some/file.pth")
    for part in ("some/file.pth", "0.bias", "1.running_var", "(4, 5, 1, 1)", "(4, 3, 1, 1)", "head.weight"):
        assert part in str(error.value)
    assert isinstance(error.value, ValueError)
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


def test_ignored_prefixes_and_missing_counters_are_accepted() -> None:
    net = _net()
    state = {**net.state_dict(), "auxiliary_head.weight": torch.zeros(1)}
    del state["1.num_batches_tracked"]
    load_strict(net, state, "x.pth", ignore=("auxiliary_head.",))
    with pytest.raises(StateDictError, match="auxiliary_head"):
        load_strict(net, state, "x.pth")


def test_one_output_more_keeps_its_own_values_and_the_others_are_loaded() -> None:
    narrow, wide = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1)
    fresh = {key: value.clone() for key, value in wide.state_dict().items()}
    load_widened(wide, narrow.state_dict(), "narrow.pth")
    for key, value in wide.state_dict().items():
        assert torch.equal(value[:4], narrow.state_dict()[key])
        assert torch.equal(value[4:], fresh[key][4:])
    with pytest.raises(StateDictError, match=r"\(4, 3, 1, 1\), the network needs \(6, 3, 1, 1\)"):
        load_widened(nn.Conv2d(3, 6, 1), narrow.state_dict(), "narrow.pth")
