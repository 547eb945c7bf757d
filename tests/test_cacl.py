"""mgcda_core.methods.cacl: every rule of the sampler, eq. 3 in numbers, and the batch without anomalies."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_core.config import CaclConfig
from mgcda_core.methods.cacl import (
    ANCHOR,
    NEGATIVE,
    POSITIVE,
    Cacl,
    ImageSets,
    Projector,
    contrastive_loss,
    generator_for,
    sample,
)


def _image(ah: int, ae: int, nh: int, ne: int, ignored: int = 50) -> tuple[Tensor, Tensor]:
    """Label and prediction of one image with pools of these sizes, shuffled; ignored pixels are predicted both ways."""
    sizes = (ah, ae, nh, ne, ignored, ignored)
    label = torch.tensor([1, 1, 0, 0, 255, 255]).repeat_interleave(torch.tensor(sizes))
    prediction = torch.tensor([0, 1, 1, 0, 1, 0]).bool().repeat_interleave(torch.tensor(sizes))
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(0))
    return label[order].view(1, -1), prediction[order].view(1, -1)


def _draw(*pools: int, number: int = 0, any_positive: bool = False, **changes: Any) -> tuple[ImageSets, Tensor, Tensor]:
    label, prediction = _image(*pools)
    sets = sample(label, prediction, CaclConfig(**changes), generator_for(0, 0, number), any_positive)
    return sets, label.flatten(), prediction.flatten()


@pytest.mark.parametrize(
    ("pools", "hard_anchors", "easy_anchors", "positives", "hard_negatives", "easy_negatives"),
    [
        ((999, 999, 999, 999), 25, 25, 100, 100, 300),
        ((10, 999, 999, 999), 10, 40, 100, 100, 300),
        ((999, 0, 999, 999), 50, 0, 0, 100, 300),
        ((0, 0, 999, 999), 0, 0, 0, 100, 300),
        ((0, 1, 999, 999), 0, 0, 1, 100, 300),
        ((0, 130, 999, 999), 0, 43, 87, 100, 300),
        ((999, 1, 999, 999), 50, 0, 1, 100, 300),
        ((999, 60, 999, 999), 38, 12, 48, 100, 300),
        ((30, 60, 999, 999), 30, 12, 48, 100, 300),
        ((999, 124, 999, 999), 26, 24, 100, 100, 300),
        ((999, 999, 7, 999), 25, 25, 100, 7, 300),
        ((999, 999, 0, 11), 25, 25, 100, 0, 11),
        ((999, 999, 0, 0), 25, 25, 100, 0, 0),
    ],
)
def test_counts(
    pools: tuple[int, ...],
    hard_anchors: int,
    easy_anchors: int,
    positives: int,
    hard_negatives: int,
    easy_negatives: int,
) -> None:
    sets, label, called = _draw(*pools)
    assert sets.pools == dict(zip(("AH", "AE", "NH", "NE"), pools, strict=True))
    assert (label[torch.cat([sets.anchors, sets.positives])] == 1).all()
    assert (label[sets.negatives] == 0).all()
    assert called[sets.positives].all()
    assert ((~called[sets.anchors]).sum(), called[sets.anchors].sum()) == (hard_anchors, easy_anchors)
    assert len(sets.positives) == positives
    assert (called[sets.negatives].sum(), (~called[sets.negatives]).sum()) == (hard_negatives, easy_negatives)
    everything = torch.cat([sets.anchors, sets.positives, sets.negatives])
    assert everything.dtype == torch.int64
    assert len(everything.unique()) == len(everything)


def test_missing_hard_negatives_may_be_topped_up() -> None:
    sets, _, called = _draw(0, 0, 7, 999, top_up=True)
    assert (len(sets.negatives), called[sets.negatives].sum()) == (400, 7)
    assert len(_draw(0, 0, 7, 200, top_up=True)[0].negatives) == 207


@pytest.mark.parametrize("sampler", ["random_same_domain", "random_cross_domain"])
def test_random_samplers_ignore_hard_and_easy(sampler: str) -> None:
    sets, label, called = _draw(900, 300, 300, 900, sampler=sampler)
    assert (len(sets.anchors), len(sets.positives), len(sets.negatives)) == (50, 100, 400)
    assert (label[sets.anchors] == 1).all()
    assert (label[sets.negatives] == 0).all()
    assert not set(sets.anchors.tolist()) & set(sets.positives.tolist())
    assert (~called[sets.positives]).float().mean() == pytest.approx(0.75, abs=0.2)  # hard ones may be positives
    assert called[sets.negatives].float().mean() == pytest.approx(0.25, abs=0.1)
    assert sets.pools == {"AH": 900, "AE": 300, "NH": 300, "NE": 900}
    scarce = _draw(130, 0, 0, 10, sampler=sampler)[0]
    assert (len(scarce.anchors), len(scarce.positives), len(scarce.negatives)) == (43, 87, 10)


def test_early_on_missed_anomalies_serve_as_positives() -> None:
    sets, label, called = _draw(300, 0, 999, 999, any_positive=True)
    assert (len(sets.anchors), len(sets.positives), len(sets.negatives)) == (50, 100, 400)
    assert (label[sets.positives] == 1).all() and not called[sets.positives].any()
    assert called[sets.negatives].sum() == 100  # hard and easy negatives stay apart
    assert sets.pools == {"AH": 300, "AE": 0, "NH": 999, "NE": 999}


@pytest.mark.parametrize(("step", "active"), [(0, 1), (4, 1), (5, 0)])
def test_early_ends_at_the_step_of_the_configuration(step: int, active: int) -> None:
    batch = _batch([True] * 4)
    batch["logits"][:, 1] = -9
    _, log = Cacl(12, CaclConfig(any_positive_until=5))(**batch, step=step)
    assert int(log["cacl_active"]) == active


def test_every_pixel_of_a_pool_is_drawn_equally_often() -> None:
    label, prediction = _image(0, 6, 0, 2, 0)
    config = CaclConfig(anchors=1, positives=2, hard_negatives=0, easy_negatives=1)
    rounds, counts = 2000, torch.zeros(3, 8)
    for number in range(rounds):
        sets = sample(label, prediction, config, generator_for(3, 0, number))
        for role, drawn in enumerate((sets.anchors, sets.positives, sets.negatives)):
            counts[role, drawn] += 1
    anomalous = label.flatten() == 1
    for role, pool, share in ((0, anomalous, 1 / 6), (1, anomalous, 2 / 6), (2, ~anomalous, 1 / 2)):
        spread = math.sqrt(rounds * share * (1 - share))
        assert (counts[role, pool] - rounds * share).abs().max() < 4.5 * spread
        assert (counts[role, ~pool] == 0).all()


def test_draws_depend_on_seed_step_and_sample_only() -> None:
    def draw(*key: int) -> list[int]:
        label, prediction = _image(500, 500, 500, 500)
        return sample(label, prediction, CaclConfig(), generator_for(*key)).negatives.tolist()

    first = draw(1, 2, 3)
    torch.manual_seed(99)
    assert draw(1, 2, 3) == first
    assert all(draw(*other) != first for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4), (3, 2, 1)))


def _orthogonal(*rows: tuple[int, int, bool]) -> tuple[Tensor, Tensor, Tensor]:
    """Orthogonal unit embeddings with (role, repetitions, domain V)."""
    role = torch.tensor([role for role, n, _ in rows for _ in range(n)])
    in_v = torch.tensor([v for _, n, v in rows for _ in range(n)])
    return torch.eye(len(role)).requires_grad_(), role, in_v


TRIPLE_V = ((ANCHOR, 1, True), (POSITIVE, 1, True), (NEGATIVE, 1, True))
TRIPLE_A = ((ANCHOR, 1, False), (POSITIVE, 1, False), (NEGATIVE, 1, False))


@pytest.mark.parametrize(("form", "per_domain"), [("log", math.log(2)), ("printed", -0.5)])
def test_loss_of_indifferent_embeddings(form: Any, per_domain: float) -> None:
    config = CaclConfig(form=form)
    loss, terms = contrastive_loss(*_orthogonal(*TRIPLE_V, *TRIPLE_A), config)
    assert (loss.item(), terms) == (pytest.approx(2 * per_domain), 2)
    loss, terms = contrastive_loss(*_orthogonal(*TRIPLE_V), config)
    assert (loss.item(), terms) == (pytest.approx(per_domain), 1)
    many, _ = contrastive_loss(*_orthogonal((ANCHOR, 2, True), (POSITIVE, 3, True), (NEGATIVE, 4, True)), config)
    assert many.item() == pytest.approx(math.log(5) if form == "log" else -0.2)


def test_loss_against_the_formula_in_full() -> None:
    z = F.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), dim=1).double()
    role, in_v = torch.arange(60) % 3, torch.arange(60) % 2 == 0
    total = 0.0
    for domain in (in_v, ~in_v):
        terms = []
        for a in z[domain & (role == ANCHOR)]:
            rest = sum(math.exp(a @ n / 0.2) for n in z[domain & (role == NEGATIVE)])
            terms += [math.exp(a @ p / 0.2) / (math.exp(a @ p / 0.2) + rest) for p in z[role == POSITIVE]]
        total -= sum(math.log(q) for q in terms) / len(terms)
    assert contrastive_loss(z, role, in_v, CaclConfig(temperature=0.2))[0].item() == pytest.approx(total, rel=1e-9)


@pytest.mark.parametrize("missing", [ANCHOR, NEGATIVE])
def test_a_domain_without_anchors_or_negatives_has_no_term(missing: int) -> None:
    kept = tuple(row for row in TRIPLE_A if row[0] != missing)
    loss, terms = contrastive_loss(*_orthogonal(*TRIPLE_V, *kept), CaclConfig())
    assert (loss.item(), terms) == (pytest.approx(math.log(2)), 1)


def test_positives_cross_the_domains_except_in_pcl() -> None:
    no_positives_in_a = (*TRIPLE_V, TRIPLE_A[0], TRIPLE_A[2])
    for sampler, expected in (("random_same_domain", 1), ("random_cross_domain", 2), ("anomaly_aware", 2)):
        _, terms = contrastive_loss(*_orthogonal(*no_positives_in_a), CaclConfig(sampler=sampler))  # type: ignore[arg-type]
        assert terms == expected


def test_printed_form_stays_in_its_range_and_log_form_stays_finite() -> None:
    z, role, in_v = _orthogonal(*TRIPLE_V, *TRIPLE_A)
    close = z.detach().clone()
    close[1], close[4] = close[0], close[3]  # positives on their anchors
    far = -1e4 * close
    for embeddings in (close, far, 1e4 * close):
        embeddings.requires_grad_()
        printed, _ = contrastive_loss(embeddings, role, in_v, CaclConfig(form="printed", sampler="random_same_domain"))
        assert -2 <= printed.item() <= 0
        logarithmic, _ = contrastive_loss(embeddings, role, in_v, CaclConfig())
        assert math.isfinite(logarithmic.item())
        assert logarithmic.item() >= 0
        assert torch.autograd.grad(logarithmic + printed, embeddings)[0].isfinite().all()


def test_the_printed_form_is_nearly_without_gradient() -> None:
    z = F.normalize(torch.randn(2600, 128, generator=torch.Generator().manual_seed(0)), dim=1).requires_grad_()
    role = torch.tensor([ANCHOR, POSITIVE, NEGATIVE]).repeat_interleave(torch.tensor([200, 800, 1600]))
    in_v, size = torch.ones(2600, dtype=torch.bool), {}
    for form, expected in (("printed", -0.00062), ("log", 7.76)):
        loss, _ = contrastive_loss(z, role, in_v, CaclConfig(form=form))  # type: ignore[arg-type]
        assert loss.item() == pytest.approx(expected, rel=0.02)
        size[form] = torch.autograd.grad(loss, z)[0].norm().item()
    assert 600 < size["log"] / size["printed"] < 2500  # spec 4.5: about 1260


def test_projecting_gathered_pixels_equals_gathering_the_projected_map() -> None:
    torch.manual_seed(0)
    projector, feature = Projector(64, CaclConfig()), torch.randn(2, 64, 9, 7)
    assert sum(p.numel() for p in projector.parameters()) == 12_480
    dense = feature
    for k in (0, 2):
        linear = projector.layers[k]
        assert isinstance(linear, torch.nn.Linear)
        dense = F.conv2d(dense if k == 0 else dense.relu(), linear.weight[:, :, None, None], linear.bias)
    dense = F.normalize(dense, dim=1)
    image, pixel = torch.tensor([0, 1, 1]), torch.tensor([5, 0, 62])
    projected = projector(feature.flatten(2)[image, :, pixel])
    torch.testing.assert_close(projected, dense.flatten(2)[image, :, pixel], rtol=0, atol=1e-6)
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(3))
    assert Projector(64, CaclConfig(normalise=False))(100 * torch.randn(3, 64)).norm(dim=1).min() > 2


def _batch(anomalous: list[bool], size: tuple[int, int] = (40, 60)) -> dict[str, Any]:
    """Random maps, the top ignored, an anomaly of 600 pixels where asked; what is predicted is random too."""
    torch.manual_seed(0)
    n = len(anomalous)
    label = torch.zeros(n, *size, dtype=torch.long)
    label[:, :5] = 255
    label[torch.tensor(anomalous), 10:30, 10:40] = 1
    logits = torch.randn(n, 2, *size)
    return {
        "decoder_feature": torch.randn(n, 12, *size, requires_grad=True),
        "logits": logits,
        "label": label,
        "in_v": torch.arange(n) < n // 2,
        "generators": [generator_for(0, 0, k) for k in range(n)],
    }


def test_full_pools_give_the_paper_s_counts() -> None:
    torch.manual_seed(0)
    loss, log = Cacl(12, CaclConfig())(**_batch([True] * 8))
    assert [int(log[k]) for k in ("anchors", "positives", "negatives")] == [400, 800, 3200]
    assert int(log["AH"] + log["AE"]) == 8 * 600
    assert int(log["NH"] + log["NE"]) == 8 * (35 * 60 - 600)
    assert log["cacl_active"].item() == 1
    assert log["L_CAC"].item() == loss.item() > 5


def test_gradient_reaches_the_sampled_pixels_only_and_never_ignored_ones() -> None:
    batch, cacl = _batch([True] * 4), Cacl(12, CaclConfig())
    cacl(**batch)[0].backward()
    touched = batch["decoder_feature"].grad.abs().sum(1) > 0
    assert not touched[batch["label"] == 255].any()
    assert touched.sum() == 4 * 550
    assert batch["logits"].grad is None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in cacl.parameters())


@pytest.mark.parametrize("everywhere", [0, 255])
def test_no_anomaly_in_the_batch_gives_a_zero_on_the_graph(everywhere: int) -> None:
    batch, cacl = _batch([True] * 4), Cacl(12, CaclConfig())
    batch["label"][:] = everywhere
    loss, log = cacl(**batch)
    assert (loss.item(), log["cacl_active"].item()) == (0, 0)
    loss.backward()
    for parameter in (batch["decoder_feature"], *cacl.parameters()):
        assert parameter.grad is not None
        assert (parameter.grad == 0).all()


def test_all_anomalies_missed_gives_zero_although_there_are_anchors() -> None:
    batch = _batch([True] * 4)
    batch["logits"][:, 1] = -9
    loss, log = Cacl(12, CaclConfig())(**batch)
    assert (loss.item(), int(log["AE"]), int(log["anchors"])) == (0, 0, 200)


def test_anomalies_in_one_domain_leave_one_term() -> None:
    torch.manual_seed(1)
    cacl, batch = Cacl(12, CaclConfig()), _batch([True, True, False, False])
    loss, log = cacl(**batch)
    first = {k: v[:2] for k, v in batch.items()} | {"generators": [generator_for(0, 0, k) for k in range(2)]}
    assert log["cacl_active"].item() == 1
    torch.testing.assert_close(loss, cacl(**first)[0])
    assert loss.item() > 1


def test_autocast_does_not_reach_the_loss() -> None:
    torch.manual_seed(0)
    cacl = Cacl(12, CaclConfig())
    plain, _ = cacl(**_batch([True] * 4))
    with torch.autocast("cpu", torch.bfloat16):
        mixed, _ = cacl(**_batch([True] * 4))
    assert mixed.dtype == torch.float32
    assert torch.equal(plain, mixed)


def test_sizes_must_agree() -> None:
    batch = _batch([True] * 2)
    with pytest.raises(ValueError, match="of one size"):
        Cacl(12, CaclConfig())(**{**batch, "label": batch["label"][:, ::2]})
