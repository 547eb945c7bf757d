"""`mgcda bench train` on the smallest maps: what is counted and timed, not how fast this machine is."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from command_line import Run, only_error
from torch import Tensor, nn

from mgcda_core.bench.train import SECTIONS, Clock, network_gmac, write_made_cache, zero_inputs
from mgcda_core.config import PROFILES
from mgcda_core.models.dissimilarity import DissimilarityNet
from mgcda_core.training.cache import CachedDomain
from mgcda_core.training.domain_samples import DomainSamples

SMALL = ("bench", "train", "--size", "[64,128]", "--crop", "[32,64]", "--batch", 2, "--steps", 2, "--workers", 0,
         "--device", "cpu", "--precision", "32-true")  # fmt: skip


def test_the_command_measures_every_section(mgcda: Run, tmp_path: Path) -> None:
    code, out, _ = mgcda(*SMALL, "--json", tmp_path / "new/bench.json")
    assert code == 0
    found = json.loads((tmp_path / "new/bench.json").read_text())
    assert list(found["sections"]) == list(SECTIONS)
    assert all(ms > 0 for ms in found["sections"].values()), found
    assert found["sections"]["forward"] + found["sections"]["backward"] > found["sections"]["optimiser"]
    assert 0.3 * found["step"] < sum(found["sections"].values()) < 3 * found["step"]
    assert found["cost"] == pytest.approx(found["step"] / found["baseline"] - 1)
    assert found["images_per_s"] == pytest.approx(2 / (found["step"] + found["waited"]) * 1000)
    assert 0 < found["data_share"] < 1 and found["peak_mb"] > 100
    assert out.startswith("lite 32x64, 2 images a step, 1 x cpu, 32-true, 0 loading, median of 2 steps\n")
    assert all(f"\n  {name} " in out for name in SECTIONS) and "in compute" in out and "MDAT and CACL cost" in out


def test_made_up_caches_are_read_as_real_ones(mgcda: Run, tmp_path: Path) -> None:
    v, a = (write_made_cache(tmp_path / name, (64, 128), 2, seed) for seed, name in enumerate("VA"))
    assert mgcda(*SMALL, "--void_class", v, "--anomaly_mix", a)[0] == 0
    samples = DomainSamples([CachedDomain(path, "made up") for path in (v, a)], (32, 64), 0.5, 0)
    one, other = samples[0], samples[1]
    assert [tuple(part.shape) for part in one[:5]] == [(3, 64, 128), (3, 64, 128), (32, 64), (3, 32, 64), (32, 64)]
    assert (int(one[5]), int(other[5])) == (0, 1) and not torch.equal(one[0], other[0])
    assert all((samples[n][4] == 1).any() and (samples[n][4] == 0).any() for n in range(32))  # CACL has its pixels


@pytest.mark.parametrize("profile", ["lite", "reference"])
def test_multiply_accumulates_are_those_of_the_convolutions(profile: str) -> None:
    config, counted = PROFILES[profile].dissimilarity, [0]

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = layer.get_parameter("weight")
        area = inputs[0] if isinstance(layer, nn.ConvTranspose2d) else output
        counted[0] += weight.numel() * area.numel() // area.shape[1]

    network = DissimilarityNet(config)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        network(*zero_inputs(network, 64))
    rest = network_gmac(config, (64, 64)) * 1e9 - counted[0]
    assert abs(rest) < 0.01 * counted[0]  # the correlation's products are left
    assert network_gmac(config, (128, 64)) == pytest.approx(2 * network_gmac(config, (64, 64)))


def test_the_second_backward_pass_is_the_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(torch.device("cpu"))
    monkeypatch.setattr(clock, "now", itertools.accumulate(itertools.count()).__next__)  # 0, 1, 3, 6, 10, 15, ...
    backward, step = clock._timed("backward", lambda loss: loss), clock._timed("D", lambda: None)
    clock.begin(on=False)
    assert backward(7) == 7
    assert clock.spent == []
    clock.begin(on=True)
    backward(1)  # 0 to 1
    backward(2)  # 3 to 6
    step()  # 10 to 15
    assert clock.spent == [dict.fromkeys(SECTIONS, 0.0) | {"backward": 1, "D": 8}]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--steps", 0), "measure at least one"),
        (("--void_class", "x"), "give void_class and anomaly_mix, or neither"),
        (("--batch", 3), "must be a multiple of 2"),
        (("--crop", "[128,128]"), "larger than the maps"),
    ],
)
def test_wrong_use_is_named(mgcda: Run, flags: tuple[object, ...], text: str) -> None:
    assert text in only_error(mgcda(*SMALL, *flags), code=2)
