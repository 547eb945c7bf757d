"""mgcda_core.methods.mdat: eq. 1 and 2 in numbers, who gets which gradient, and its direction in closed form."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mgcda_core.config import ConfigError, MdatConfig
from mgcda_core.methods.mdat import (
    FeatureClassifier,
    Mdat,
    OutputClassifier,
    confusion,
    encoder_features,
    tau,
    truth,
)

IN_V = torch.tensor([True, True, False, False])


def _parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _mdat(channels: tuple[int, ...] = (16,), **changes: Any) -> Mdat:
    torch.manual_seed(0)
    return Mdat(channels, MdatConfig(**{"width": 0.25, **changes}))


def _maps(channels: tuple[int, ...] = (16,)) -> tuple[Tensor, list[Tensor]]:
    torch.manual_seed(1)
    logits = torch.randn(4, 2, 16, 32, requires_grad=True)
    return logits, [torch.randn(4, c, 8, 8, requires_grad=True) for c in channels]


def test_tau_falls_linearly_or_stays() -> None:
    assert [tau(i, 1000, MdatConfig()) for i in (0, 500, 1000)] == [1.0, 0.75, 0.5]
    values = [tau(i, 37, MdatConfig()) for i in range(37)]
    assert values == sorted(values, reverse=True)
    assert values[-1] > 0.5
    assert tau(500, 1000, MdatConfig(dynamic=False, tau_start=0.9)) == 0.9
    assert tau(5, 10, MdatConfig(tau_start=0.9, tau_end=0.7)) == pytest.approx(0.8)


def test_confusion_is_cross_assigned() -> None:
    maps = IN_V.float()[:, None, None, None].expand(4, 1, 3, 5)
    assert (confusion(maps, IN_V, 1.0).item(), truth(maps, IN_V, 1.0).item()) == (2, 0)
    assert (confusion(1 - maps, IN_V, 1.0).item(), truth(1 - maps, IN_V, 1.0).item()) == (0, 1)


def test_domains_count_the_same_whatever_their_share_of_the_batch() -> None:
    in_v = torch.tensor([True, False, False, False])
    maps = torch.zeros(4, 1, 2, 2)
    assert truth(maps, in_v, 0.9).item() == pytest.approx(0.5 * (0.81 + 0.01))


def test_published_sizes() -> None:
    assert _parameters(FeatureClassifier(512)) == 1_549_313
    assert _parameters(FeatureClassifier(96, 0.25)) == sum(
        9 * i * o + o for i, o in ((96, 12), (12, 8), (8, 8), (8, 1))
    )
    assert _parameters(OutputClassifier(2)) == 390_433
    assert _parameters(OutputClassifier(1)) == 390_145
    whole = Mdat([512], MdatConfig())
    assert _parameters(whole) == 1_549_313 + 390_433


def test_map_sizes_and_linear_output() -> None:
    assert FeatureClassifier(513, 0.25)(torch.randn(1, 513, 4, 8)).shape == (1, 1, 4, 8)
    assert OutputClassifier(2, 0.25)(torch.randn(1, 2, 32, 48)).shape == (1, 1, 32, 48)
    assert OutputClassifier(2, 0.25, 2)(torch.randn(1, 2, 32, 48)).shape == (1, 1, 2, 3)
    classifier = FeatureClassifier(16)
    assert classifier(1e3 * torch.randn(1, 16, 8, 8)).abs().max() > 1.5


@pytest.mark.parametrize("mode", ["alternate", "grl", "joint_literal"])
def test_each_loss_reaches_its_own_side_only(mode: str) -> None:
    mdat = _mdat(mode=mode)
    logits, features = _maps()
    losses = mdat(logits, features, IN_V, 0.9)
    losses.network.backward()
    assert all(p.grad is None for p in mdat.parameters())
    assert logits.grad is not None
    assert features[0].grad is not None
    assert logits.grad.abs().sum() > 0
    assert features[0].grad.abs().sum() > 0
    logits.grad = features[0].grad = None
    losses.classifiers.backward()
    assert logits.grad is None
    assert features[0].grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in mdat.parameters())
    assert all(p.requires_grad for p in mdat.parameters())


class _BestClassifier(nn.Module):
    """The optimal answer between N(m, 1) and N(-m, 1) for the labels `of_v` and 1 - `of_v`."""

    def __init__(self, m: float, of_v: float) -> None:
        super().__init__()
        self.m, self.of_v = m, of_v

    def forward(self, x: Tensor) -> Tensor:
        return (1 - self.of_v) + (2 * self.of_v - 1) * torch.sigmoid(2 * self.m * x)


@pytest.mark.parametrize(
    ("mode", "slope", "value"),
    [
        ("alternate", 0.583, lambda o: 2 - 3 * o),
        ("grl", 0.158, lambda o: -o / 2),
        ("joint_literal", -0.317, lambda o: o),
    ],
)
@pytest.mark.parametrize("label", [1.0, 0.75, 0.5])
def test_direction_in_closed_form(mode: str, slope: float, value: Any, label: float) -> None:
    """Two Gaussians at +m and -m: a positive slope of the loss in m pulls the domains together (spec 4.4)."""
    mdat = Mdat([1], MdatConfig(mode=mode, output=False, lambda_f=1.0))  # type: ignore[arg-type]
    mdat.features[0] = _BestClassifier(1.0, 1 - label if mode == "joint_literal" else label)
    m = torch.tensor(1.0, dtype=torch.float32, requires_grad=True)
    points = 20_000  # equal-weight quadrature: the middles of equal shares of a standard normal
    normal = torch.special.ndtri((torch.arange(points, dtype=torch.float64) + 0.5) / points).float()
    x = torch.stack([m + normal, -m + normal])[:, None, None]
    loss = mdat(torch.zeros(2, 2, 1, 1), [x], torch.tensor([True, False]), label).network
    (found,) = torch.autograd.grad(loss, m)
    scale = (2 * label - 1) ** 2
    assert found.item() == pytest.approx(scale * slope, abs=1e-3)
    overlap = torch.sigmoid(-2 * (1 + normal)).mean()  # integral p_V p_A / (p_V + p_A) = E_V[p_A / (p_V + p_A)]
    assert loss.item() == pytest.approx(scale * value(overlap).item(), abs=1e-3)


def test_reversed_features_gain_nothing_beyond_the_bound() -> None:
    mdat = Mdat([1], MdatConfig(mode="grl", output=False))
    mdat.features[0] = nn.Identity()
    x = torch.tensor([0.5, -7.0, 0.5, 9.0]).view(4, 1, 1, 1).requires_grad_()
    mdat(torch.zeros(4, 2, 1, 1), [x], IN_V, 1.0).network.backward()
    assert x.grad is not None
    assert x.grad.flatten().ne(0).tolist() == [True, False, True, False]


def test_at_unit_scale_the_size_of_a_feature_gains_nothing() -> None:
    logits, (feature,) = _maps()
    size = torch.tensor(3.0, requires_grad=True)
    free, unit = (_mdat(output=False, unit_scale=u)(logits, [size * feature], IN_V, 0.9) for u in (False, True))
    (pull,) = torch.autograd.grad(free.network, size, retain_graph=True)
    (none,) = torch.autograd.grad(unit.network, size, retain_graph=True)
    assert abs(pull) > 1e-4
    assert abs(none) < 1e-3 * abs(pull)
    larger = _mdat(output=False, unit_scale=True)(logits, [1e6 * feature], IN_V, 0.9)
    torch.testing.assert_close(larger.network, unit.network)
    unit.network.backward()
    assert feature.grad is not None
    assert feature.grad.abs().sum() > 0


def test_hard_labels_are_the_classifiers_alone() -> None:
    maps = _maps()
    smooth, hard = (_mdat(labels=labels)(*maps, IN_V, 0.6) for labels in ("smooth", "hard"))
    torch.testing.assert_close(smooth.network, hard.network)
    one = _mdat()(*maps, IN_V, 1.0)
    torch.testing.assert_close(hard.classifiers, one.classifiers)
    assert not torch.isclose(smooth.classifiers, hard.classifiers)


def test_weights_and_switches() -> None:
    maps = _maps()
    both = _mdat(lambda_f=0.3, lambda_o=0.7)(*maps, IN_V, 0.9)
    expected = 0.3 * both.log["L_conf_f"] + 0.7 * both.log["L_conf_o"]
    torch.testing.assert_close(both.network.detach(), expected)
    torch.testing.assert_close(both.classifiers.detach(), both.log["L_D_f"] + both.log["L_D_o"])
    assert set(both.log) == {
        *("L_conf_f", "L_conf_o", "L_D_f", "L_D_o", "D_accuracy_f", "D_accuracy_o", "tau", "P_V", "P_A")
    }
    assert all(v.ndim == 0 and not v.requires_grad for v in both.log.values())
    assert not {"L_D_f", "D_accuracy_f"} & set(_mdat(feature=False)(*maps, IN_V, 0.9).log)
    assert not {"L_D_o", "D_accuracy_o"} & set(_mdat(output=False)(*maps, IN_V, 0.9).log)
    with pytest.raises(ConfigError, match="both off"):
        _mdat(feature=False, output=False)
    with pytest.raises(ConfigError, match="no encoder feature"):
        _mdat(())


def test_accuracy_and_probabilities_are_those_of_the_domains() -> None:
    mdat = _mdat(output=False)
    mdat.features[0] = nn.Identity()
    feature = torch.tensor([0.9, 0.1, 0.2, 0.3]).view(4, 1, 1, 1)
    logits = torch.zeros(4, 2, 2, 2)
    logits[:2, 1] = 50
    log = mdat(logits, [feature], IN_V, 1.0).log
    assert (log["D_accuracy_f"].item(), log["P_V"].item(), log["P_A"].item()) == (0.75, 1.0, 0.5)


def test_one_output_channel_is_the_anomaly() -> None:
    mdat = _mdat(feature=False, output_channels=1)
    seen: list[Tensor] = []
    assert mdat.output is not None
    mdat.output.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    logits, _ = _maps()
    mdat(logits, [], IN_V, 0.9)
    torch.testing.assert_close(seen[0], logits.softmax(1)[:, 1:])


def test_levels_become_features() -> None:
    levels = [(torch.zeros(4, 1, s, s), torch.ones(4, c, s, s)) for c, s in ((2, 16), (4, 8), (8, 4), (16, 2))]
    bare = [(None, fused) for _, fused in levels]
    for number, level in enumerate(("1", "2", "3", "4")):
        (feature,) = encoder_features(bare, MdatConfig(level=level))  # type: ignore[arg-type]
        assert feature is levels[number][1]
    multi = encoder_features(levels, MdatConfig(level="multi", with_correlation=True))
    assert [f.shape[1] for f in multi] == [3, 5, 9, 17]
    assert all(f[:, 0].eq(0).all() and f[:, 1:].eq(1).all() for f in multi)
    with pytest.raises(ConfigError, match="with_correlation"):
        encoder_features(bare, MdatConfig(with_correlation=True))


def test_multi_averages_the_levels() -> None:
    logits, features = _maps((8, 16))
    mdat = _mdat((8, 16), output=False, level="multi", lambda_f=1.0)
    both = mdat(logits, features, IN_V, 0.9)
    single = [confusion(d(f), IN_V, 0.9) for d, f in zip(mdat.features, features, strict=True)]
    torch.testing.assert_close(both.network, (single[0] + single[1]) / 2)
    with pytest.raises(ValueError, match="zip"):
        mdat(logits, features[:1], IN_V, 0.9)


@pytest.mark.parametrize("in_v", [[True] * 4, [False] * 4])
def test_a_batch_of_one_domain_is_refused(in_v: list[bool]) -> None:
    with pytest.raises(ValueError, match="both domains"):
        _mdat()(*_maps(), torch.tensor(in_v), 0.9)


def test_autocast_does_not_reach_the_losses() -> None:
    mdat, (logits, features) = _mdat(), _maps()
    plain = mdat(logits, features, IN_V, 0.9)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mdat(logits, features, IN_V, 0.9)
        half = mdat(logits.bfloat16(), [f.bfloat16() for f in features], IN_V, 0.9)
    assert mixed.network.dtype == half.network.dtype == torch.float32
    assert torch.equal(mixed.network, plain.network)
    assert torch.equal(mixed.classifiers, plain.classifiers)
    torch.testing.assert_close(half.network, plain.network, rtol=0.02, atol=1e-3)


def test_playing_alternately_the_classifiers_learn_the_domains_and_joint_literal_their_exchange() -> None:
    features = [torch.cat([torch.ones(2, 16, 4, 4), -torch.ones(2, 16, 4, 4)])]
    for mode, expected in (("alternate", 1.0), ("grl", 1.0), ("joint_literal", 0.0)):
        mdat = _mdat(mode=mode, output=False, width=1.0)
        optimizer = torch.optim.Adam(mdat.parameters(), lr=3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            mdat(torch.zeros(4, 2, 4, 4), features, IN_V, 1.0).classifiers.backward()
            optimizer.step()
        assert mdat(torch.zeros(4, 2, 4, 4), features, IN_V, 1.0).log["D_accuracy_f"].item() == expected
