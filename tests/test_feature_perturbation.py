"""Pointwise perturbation: how far it moves what, who gets which gradient, and what a defence is worth."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import ConfigError, PerturbationConfig
from mgcda_core.methods.feature_perturbation import Perturbation, perturb, running_statistics
from mgcda_core.methods.mdat import confusion, truth

IN_V = torch.tensor([True, True, False, False])
ALL = torch.ones(4, dtype=torch.bool)


def scene(seed: int = 0, domains: float = 0.2) -> tuple[Tensor, Tensor]:
    """Features [4, 6, 8, 8] and labels [4, 8, 8] of three classes, each with a centre, in two shifted domains."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(0, 3, (4, 8, 8), generator=generator)
    features = torch.cat([F.one_hot(label, 3).permute(0, 3, 1, 2).float(), torch.zeros(4, 3, 8, 8)], 1)
    features[IN_V, 3:] += domains
    features[~IN_V, 3:] -= domains
    return features + 0.3 * torch.randn(features.shape, generator=generator), label


def classifier(channels: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 16, 1), nn.ReLU(), nn.Conv2d(16, 3, 1))


def learnt(network: nn.Module, domain: nn.Module, steps: int = 80) -> None:
    """Classes and domains of `scene`, well."""
    optimizer = torch.optim.Adam([*network.parameters(), *domain.parameters()], 1e-2)
    for seed in range(steps):
        features, label = scene(seed)
        optimizer.zero_grad()
        (F.cross_entropy(network(features), label) + truth(domain(features), IN_V, 1.0)).backward()
        optimizer.step()


def method(**changes: Any) -> Perturbation:
    torch.manual_seed(1)
    return Perturbation(6, PerturbationConfig(**changes))


def test_a_position_is_moved_as_far_whatever_the_area_of_its_object_and_of_the_others() -> None:
    features, network, config = scene()[0], classifier(), PerturbationConfig(steps=1)
    moved, normalised = [], []
    for side in (1, 7):  # beside an object of one position, one of 1 or 49
        label = torch.full((4, 8, 8), 255)
        label[:, 1 : 1 + side, 1 : 1 + side], label[:, 0, 0] = 1, 0

        def loss(x: Tensor, label: Tensor = label) -> Tensor:
            return F.cross_entropy(network(x), label, ignore_index=255)

        x = features.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x), x)
        normalised.append((gradient / gradient.norm())[:, :, 0, 0].norm().item())
        delta = perturb(features, lambda x: 0.0 * x.sum(), loss, config)
        expected = config.task_step * features.std((0, 2, 3))
        for row, column in ((0, 0), (side, side)):  # the one position, and the far corner of the other object
            torch.testing.assert_close(delta[:, :, row, column].abs(), expected.expand(4, 6))
        moved.append(delta[:, :, 0, 0].norm().item())
    assert moved[0] == pytest.approx(moved[1])
    assert normalised[0] > 4 * normalised[1]  # normalised as a whole, the larger object takes the smaller one's share


def test_the_attack_misleads_the_classifier_and_the_domain_classifier_and_touches_neither() -> None:
    network, attack = classifier(), method()
    learnt(network, attack.domain)
    before = [p.clone() for p in (*network.parameters(), *attack.domain.parameters())]
    for p in (*network.parameters(), *attack.domain.parameters()):
        p.grad = None
    features, label = scene(999)

    def task_loss(x: Tensor) -> Tensor:
        return F.cross_entropy(network(x), label)

    def attacked(**changes: float) -> Tensor:
        config = dataclasses.replace(attack.config, **changes)
        return features + perturb(features, lambda x: confusion(attack.domain(x), IN_V, 1.0), task_loss, config)

    both, task, domain = attacked(), attacked(domain_step=0.0), attacked(task_step=0.0)
    assert not both.requires_grad
    after = (*network.parameters(), *attack.domain.parameters())
    assert all(p.grad is None and torch.equal(p, b) for p, b in zip(after, before, strict=True))
    with torch.no_grad():
        for wrong in (task, both):
            assert task_loss(wrong) > 1.3 * task_loss(features)
        clean = attack.domain(features)
        for moved in (attack.domain(domain), attack.domain(both)):
            assert moved[IN_V].mean() < clean[IN_V].mean() - 0.02  # V's label is 1, the other domain's 0
            assert moved[~IN_V].mean() > clean[~IN_V].mean() + 0.02
    for x, step in ((task, 0.05), (domain, 0.05), (both, 0.1)):
        assert ((x - features).abs() <= 3 * step * features.std((0, 2, 3), keepdim=True) * 1.001).all()


def test_an_image_without_labels_is_attacked_where_its_answer_is() -> None:
    network, attack = classifier(), method(domain_step=0.0)
    learnt(network, attack.domain)
    features, label = scene(999)
    seen: list[Tensor] = []

    def decode(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return network(x)

    def cross_entropy(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits[IN_V], label[IN_V])

    attack(features, decode, cross_entropy, IN_V, IN_V)
    first, last = network(seen[0]).softmax(1), network(seen[-1]).softmax(1)
    answer = first.argmax(1, keepdim=True)
    fell = last.gather(1, answer) < first.gather(1, answer)
    assert fell[~IN_V].float().mean() > 0.95


def test_the_defended_classifier_loses_less_under_attack() -> None:
    found = {}
    for weight in (0.0, 1.0):
        network, defence = classifier(), method(weight=weight, consistency=weight, domain_step=0.1, task_step=0.2)
        trained = torch.optim.Adam(network.parameters(), 2e-2)
        against = torch.optim.Adam(defence.domain.parameters(), 5e-3)
        for seed in range(60):
            features, label = scene(seed)
            loss = F.cross_entropy(network(features), label)
            found_ = defence(features, network, lambda z, y=label: F.cross_entropy(z, y), IN_V, ALL)
            for optimizer, value in ((trained, loss + found_.network), (against, found_.classifier)):
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
        attacked = [defence(x, network, lambda z, y=y: F.cross_entropy(z, y), IN_V, ALL).log
                    for x, y in (scene(seed) for seed in range(900, 908))]  # fmt: skip
        found[weight] = {name: sum(log[name].item() for log in attacked) / 8 for name in ("L_P", "L_inv")}
    assert found[1.0]["L_P"] < 0.9 * found[0.0]["L_P"]
    assert found[1.0]["L_inv"] < found[0.0]["L_inv"]


def test_defence_and_domain_classifier_never_share_a_gradient() -> None:
    for encoder in (False, True):
        network, defence = classifier(), method(encoder=encoder)
        features, label = scene()
        features.requires_grad_()
        losses = defence(features, network, lambda z, y=label: F.cross_entropy(z, y), IN_V, ALL)
        losses.network.backward()
        assert all(p.grad is None for p in defence.domain.parameters())
        assert all(p.grad is not None for p in network.parameters())
        assert (features.grad is not None) == encoder
        kept = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        losses.classifier.backward()
        assert all(p.grad is not None for p in defence.domain.parameters())
        assert all(torch.equal(p.grad, k) for p, k in zip(network.parameters(), kept, strict=True))  # type: ignore[arg-type]
        assert all(v.ndim == 0 and not v.requires_grad for v in losses.log.values())


def test_without_steps_nothing_changes() -> None:
    network, (features, label) = classifier(), scene()
    losses = method(steps=0, weight=0.5)(features, network, lambda z: F.cross_entropy(z, label), IN_V, ALL)
    assert losses.log["L_inv"] == 0 and losses.log["D_attacked"] == losses.log["D_accuracy_p"]
    torch.testing.assert_close(losses.network, 0.5 * F.cross_entropy(network(features), label))


def test_batch_statistics_neither_tie_positions_together_nor_move() -> None:
    network = nn.Sequential(nn.BatchNorm2d(6), nn.Conv2d(6, 3, 1)).train()
    features, label = scene()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with running_statistics(network):
        assert not network[0].training and network[1].training
        method()(features, network, lambda z: F.cross_entropy(z, label), IN_V, ALL)
        alone, together = network(features[:1]), network(features)[:1]
    torch.testing.assert_close(alone, together)
    assert network[0].training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


@pytest.mark.parametrize(
    ("change", "text"), [({"steps": -1}, "steps is -1"), ({"lr": 0.0}, "lr is 0"), ({"task_step": -0.1}, "task_step")]
)
def test_a_configuration_that_cannot_work_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=rf"perturbation\.{text}"):
        PerturbationConfig(**change)
