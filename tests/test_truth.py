"""`PrepareConfig.truth`: what lies behind the pasted anomalies, in composites, caches and a training on them."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import pytest
import torch
from command_line import Run
from composite_case import SCENE, ball
from training_data import AUGMENT, LOOP, make_data

from mgcda_core.bench.parts import parts
from mgcda_core.config import AnomalyMixConfig, AugmentConfig, ConfigError, DissimilarityTraining, PrepareConfig
from mgcda_core.data import anomaly_mix
from mgcda_core.training.cache import CachedDomain, Manifest, StaleCacheError
from mgcda_core.training.dissimilarity import train
from mgcda_core.training.domains import Domain
from mgcda_core.training.prepare import load_frozen, prepare
from mgcda_core.training.truth import Truth, best_of, uncovered

What = Literal["semantics", "background"]
HARD = AnomalyMixConfig(objects=(3, 3), height=(0.3, 0.6), blend="none")
TABLE = np.zeros((256, 19), bool)
TABLE[0, 0] = TABLE[1, 8] = TABLE[1, 9] = True  # 0 road, 1 vegetation or terrain


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> PrepareConfig:
    """Hard edges and no blur, noise or JPEG, so that a pixel off the objects keeps its value."""
    data = make_data(tmp_path_factory.mktemp("data"), scenes=3)
    sharp = dataclasses.replace(AUGMENT, degrade=0)
    return PrepareConfig(data, str(tiny_weights), augment=sharp, mix=HARD, device="cpu")


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory, config: PrepareConfig) -> dict[tuple[What, ...], Path]:
    root = tmp_path_factory.mktemp("caches")
    asked: list[tuple[What, ...]] = [(), ("semantics",), ("background",), ("semantics", "background")]
    return {truth: prepare(dataclasses.replace(config, truth=truth), root / "-".join(("a", *truth))) for truth in asked}


def behind(seed: int, augment: AugmentConfig) -> tuple[anomaly_mix.Composite, Truth, np.ndarray]:
    """A composite with anomalies over a known object, what it covers, and where a known object lies."""
    label = np.ones((80, 160), np.uint8)
    label[40:], label[:, :8] = 0, 255
    train_ids = np.array([0, 8], np.uint8)[label.clip(max=1)]
    known = [ball("known", 30)]
    made = anomaly_mix.compose(SCENE, train_ids, [ball()], known, HARD, np.random.default_rng(seed))
    first = anomaly_mix.replay(SCENE, train_ids, {"pastes": made.provenance["pastes"][:1]}, {}, {"known": known[0]})
    facts = {**made.provenance, "photometry_seed": 7}
    return made, uncovered(SCENE, train_ids, label, TABLE, known, facts, augment), first.pasted


@pytest.mark.parametrize("seed", range(4))
def test_the_background_is_the_scene_off_and_under_the_anomalies(seed: int) -> None:
    made, truth, known = behind(seed, AugmentConfig(size=(80, 160), colour=0, degrade=0))
    anomalous = made.label == 1
    assert anomalous.any() and known.any()
    assert np.array_equal(truth.image[~anomalous], made.image[~anomalous])
    assert np.array_equal(truth.image[~known], SCENE[~known])
    assert truth.classes[known].all()
    assert truth.classes[:, :8].all()
    labelled = ~known
    labelled[:, :8] = False
    assert np.array_equal(truth.classes[:40][labelled[:40]], np.broadcast_to(TABLE[1], (labelled[:40].sum(), 19)))
    assert np.array_equal(truth.classes[40:][labelled[40:]], np.broadcast_to(TABLE[0], (labelled[40:].sum(), 19)))


def test_the_background_has_the_colours_of_the_composite_and_noise_of_its_own(config: PrepareConfig) -> None:
    noisy = dataclasses.replace(config, truth=("background",), augment=dataclasses.replace(AUGMENT, degrade=1))
    for degrade, low, high in ((0, 0, 0), (1, 0.5, 12)):
        augment = dataclasses.replace(AUGMENT, degrade=degrade)
        made = Domain(dataclasses.replace(noisy, augment=augment))[1]
        assert made.truth is not None
        difference = np.abs(made.image.astype(float) - made.truth.image).mean(-1)
        off = cv2.dilate((made.label == 1).astype(np.uint8), np.ones((7, 7))) == 0  # resizing blurs their outlines
        assert low <= difference[off].mean() <= high
        assert difference[made.label == 1].mean() > 12


def test_a_choice_among_the_classes_a_pixel_may_be() -> None:
    logits = torch.tensor([3.0, 1.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    classes = torch.tensor([[[1, 0], [0, 1]], [[0, 1], [1, 1]], [[0, 0], [1, 1]]], dtype=torch.bool)[None]
    assert best_of(logits, classes).tolist() == [[[0, 1], [2, 0]]]
    assert best_of(logits, classes.repeat_interleave(4, 2).repeat_interleave(4, 3)).tolist() == [[[0, 1], [2, 0]]]


def test_the_question_changes_no_composite_and_no_older_cache(
    config: PrepareConfig, caches: dict[tuple[What, ...], Path]
) -> None:
    plain, asked = Domain(config), Domain(dataclasses.replace(config, truth=("semantics",)))
    for number in range(3):
        one, two = plain[number], asked[number]
        assert np.array_equal(one.image, two.image) and np.array_equal(one.label, two.label)
        assert one.provenance == two.provenance
        assert one.truth is None and two.truth is not None
    without = Manifest.of(config, "sum", 3)
    assert "truth" not in without.config
    assert Manifest.of(dataclasses.replace(config, truth=("semantics",)), "sum", 3).config_sha256 != \
        without.config_sha256  # fmt: skip
    for made, asking in itertools.permutations(caches, 2):
        with pytest.raises(StaleCacheError, match="made with another truth"):
            prepare(dataclasses.replace(config, truth=asking), caches[made])
    with pytest.raises(ConfigError, match="truth needs domain anomaly_mix"):
        dataclasses.replace(config, domain="void_class", truth=("background",))


def test_the_frozen_networks_are_told(config: PrepareConfig, caches: dict[tuple[What, ...], Path]) -> None:
    domain = Domain(dataclasses.replace(config, truth=("semantics",)))
    digest = load_frozen(config.weights)[1]
    cached = {truth: CachedDomain(path, digest) for truth, path in caches.items()}
    for number in range(len(domain)):
        truth = domain[number].truth
        assert truth is not None
        none, semantics, background, both = (cached[t][number] for t in cached)
        exact = torch.from_numpy((truth.classes.sum(-1) == 1) & (none["label"].numpy() == 1))
        classes = torch.from_numpy(truth.classes.argmax(-1))
        assert exact.any()
        assert torch.equal(semantics["semantic"][exact].long(), classes[exact])
        assert not torch.equal(none["semantic"], semantics["semantic"])
        assert not torch.equal(none["synthesis"], semantics["synthesis"])  # painted from the true classes
        assert torch.equal(background["synthesis"], torch.from_numpy(truth.image).permute(2, 0, 1))
        assert torch.equal(background["semantic"], none["semantic"])
        assert torch.equal(both["semantic"], semantics["semantic"])
        assert torch.equal(both["synthesis"], background["synthesis"])
        for told in (semantics, background, both):
            assert torch.equal(told["image"], none["image"])
            assert torch.equal(told["prior"][[0, 2]], none["prior"][[0, 2]])  # entropy and distance stay


def test_a_perfect_background_shows_the_anomalies(caches: dict[tuple[What, ...], Path]) -> None:
    """Off the objects the two pictures are equal up to blurred outlines, so the difference is the objects."""
    plain, background = parts(caches[()]), parts(caches["background",])
    assert background.fidelity < 1 < plain.fidelity
    assert background.scores["RGB"]["ap"] > 0.95 > plain.scores["RGB"]["ap"]
    assert background.scores["perceptual"]["ap"] > plain.scores["perceptual"]["ap"] + 0.2
    assert background.scores["entropy"] == plain.scores["entropy"]


def test_a_training_on_told_caches_gives_the_ceiling(
    mgcda: Run, config: PrepareConfig, caches: dict[tuple[What, ...], Path], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code, _, errors = mgcda(
        "prepare", "--data.camvid", config.data.camvid, "--data.objects", f"[{config.data.objects[0]}]", "--weights",
        config.weights, "--split", "val", "--truth", "[semantics,background]", "--augment.size", "[64,128]", "--device",
        "cpu", "--augment.least_rows", "40", "--out", tmp_path / "val",
    )  # fmt: skip
    assert code == 0, errors
    told = DissimilarityTraining(config.weights, anomaly_mix=str(caches["semantics", "background"]),
                                 validation=(str(tmp_path / "val"),), crop=(32, 64), loop=LOOP)  # fmt: skip
    train(told, tmp_path / "run")
    assert re.search(r"held-out composites: entropy weight 0\.?\d*  ap 0\.\d+ ", capsys.readouterr().out)
