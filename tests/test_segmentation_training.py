"""Label spaces as sets of train ids: the loss, its weights, the scenes, the teacher, and the training itself."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import (
    AugmentConfig,
    ConfigError,
    DataConfig,
    LoopConfig,
    SegmentationConfig,
    SegmentationTraining,
    SegmenterConfig,
)
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.training import scenes, segmentation
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.segmentation import SegmentationObjective, hardest_mean, set_losses
from mgcda_core.weights.resolve import load_weights

AUGMENT = AugmentConfig(size=(64, 128), least_rows=20)
LOOP = LoopConfig(
    steps=2, batch=2, warmup=1, workers=0, log_every=1, checkpoint_every=2, precision="32-true", device="cpu"
)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """A scene of every class of CamVid and of IDD-Lite, and a void strip; the same one for train and val."""
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        _write(tmp_path / f"camvid/{split}/images/a.png", tmp_path / f"camvid/{split}/labels/a.png", 12, rng)
        _write(tmp_path / f"idd/images/{split}_a.png", tmp_path / f"idd/masks/{split}_a.png", 7, rng)
    return DataConfig(camvid=str(tmp_path / "camvid"), idd_lite=str(tmp_path / "idd"))


def _write(image: Path, label: Path, classes: int, rng: np.random.Generator) -> None:
    ids = np.repeat(np.arange(classes, dtype=np.uint8), 8)[None].repeat(48, 0)
    ids[:4] = 255
    for path, pixels in ((image, rng.integers(0, 256, (*ids.shape, 3), np.uint8)), (label, ids)):
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels)


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A random ENet, and a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    torch.manual_seed(0)
    network = build_segmentation(SegmentationConfig(architecture="enet", width=16, normalise="unit"))
    torch.save(network.state_dict(), tmp_path / "teacher.pth")
    return str(tmp_path / "teacher.pth")


def pixels(*sets: tuple[int, ...], classes: int = 4) -> Tensor:
    """bool [1, classes, 1, n]: the allowed classes of n pixels."""
    allowed = torch.zeros(1, classes, 1, len(sets), dtype=torch.bool)
    for i, members in enumerate(sets):
        allowed[0, list(members), 0, i] = True
    return allowed


def test_sets_of_one_are_cross_entropy() -> None:
    logits = 9 * torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0))
    label = torch.randint(0, 5, (2, 6, 7), generator=torch.Generator().manual_seed(1))
    found = set_losses(logits, F.one_hot(label, 5).bool().permute(0, 3, 1, 2))
    torch.testing.assert_close(found, F.cross_entropy(logits, label, reduction="none"))


def test_a_set_trains_the_sum_of_its_classes() -> None:
    probability = torch.tensor([0.1, 0.2, 0.3, 0.4])
    logits = (probability.log() + 5).view(1, 4, 1, 1).requires_grad_()
    loss = set_losses(logits, pixels((1, 2)))
    assert loss.item() == pytest.approx(-math.log(0.5), abs=1e-6)
    loss.sum().backward()
    assert logits.grad is not None
    # d/dz_k = p_k - p_k / 0.5 inside the set, p_k outside: the members rise in proportion to what they have.
    torch.testing.assert_close(logits.grad.flatten(), torch.tensor([0.1, 0.2 - 0.4, 0.3 - 0.6, 0.4]))
    equal = torch.zeros(1, 4, 1, 1, requires_grad=True)
    set_losses(equal, pixels((0, 3))).sum().backward()
    assert equal.grad is not None
    torch.testing.assert_close(equal.grad.flatten(), torch.tensor([-0.25, 0.25, 0.25, -0.25]))


def test_a_label_that_allows_all_classes_teaches_nothing_and_extremes_stay_finite() -> None:
    logits = torch.tensor([[300.0, -300.0, 0.0, 20.0]]).view(1, 4, 1, 1).repeat(1, 1, 1, 2).requires_grad_()
    losses = set_losses(logits, pixels((0, 1, 2, 3), (1,)))
    losses.sum().backward()
    assert logits.grad is not None
    assert losses[0, 0, 0] == 0
    assert (logits.grad[..., 0] == 0).all()
    assert losses[0, 0, 1].item() == pytest.approx(600)
    assert logits.grad.isfinite().all()


def test_hardest_mean_keeps_the_hard_and_at_least_the_share() -> None:
    easy, hard = [0.01, 0.02, 0.03, 0.04, 0.05, 0.06], [2.0, 4.0]  # probability 0.7 is a loss of 0.357
    losses = torch.tensor([*easy, *hard], requires_grad=True)
    kept = hardest_mean(losses, 0.7, 1 / 8)
    assert kept.item() == pytest.approx(3.0)
    kept.backward()
    assert losses.grad is not None
    assert losses.grad.tolist() == [0] * 6 + [0.5] * 2
    assert hardest_mean(losses, 0.7, 0.5).item() == pytest.approx((0.05 + 0.06 + 2 + 4) / 4)
    assert hardest_mean(torch.tensor(easy), 0.7, 0.01).item() == pytest.approx(0.06)
    assert hardest_mean(losses, 0.7, 1.0).item() == pytest.approx(sum(easy + hard) / 8)
    assert hardest_mean(torch.zeros(0), 0.7, 0.1).item() == 0


def test_coarse_labels_teach_the_fine_classes(tiny_config: SegmenterConfig) -> None:
    """Three kinds of pixels; one in twenty of the last two is told apart, the rest is labelled "1 or 2"."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 3, (1, 40, 50))
    centres = np.array([[200, 40, 40], [40, 200, 40], [40, 90, 160]])
    image = torch.from_numpy(np.clip(centres[true] + rng.normal(0, 25, (1, 40, 50, 3)), 0, 255)).permute(0, 3, 1, 2)
    label = np.where((true > 0) & (rng.random(true.shape) > 0.05), 19, true)
    label[:, :2] = 255

    class OneLayer(nn.Conv2d):
        def training_logits(self, x: Tensor) -> list[Tensor]:
            return [self(x)]

    torch.manual_seed(0)
    table = torch.eye(20, 19).bool()
    table[19, 1:3] = True
    network = OneLayer(3, 19, 1)
    config = SegmentationTraining(DataConfig(rendered=1), tiny_config)
    objective = SegmentationObjective(network, table, torch.ones(20), config)
    optimizer = torch.optim.Adam(network.parameters(), 0.1)
    figures = {}
    for _ in range(150):
        figures = objective(image, torch.from_numpy(label))
        optimizer.zero_grad()
        figures["loss"].backward()
        optimizer.step()
    assert figures["accuracy"] > 0.97
    predicted = network((image.float() - objective.mean) / objective.std).argmax(1).numpy()
    assert (predicted == true).mean() > 0.97  # a hard label for the coarse pixels would get a third of them wrong


def test_void_alone_gives_no_loss_and_no_nan(tiny_config: SegmenterConfig) -> None:
    for loss in ("weighted", "ohem"):
        config = SegmentationTraining(DataConfig(rendered=1), tiny_config, loss=loss)
        network = build_segmentation(tiny_config.segmentation)
        objective = SegmentationObjective(network, torch.eye(19).bool(), torch.ones(19), config)
        figures = objective(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.full((2, 64, 64), 255))
        figures["loss"].backward()
        assert figures["loss"] == 0
        assert figures["accuracy"] == 0


def test_labels_of_all_sets_index_one_table(data: DataConfig) -> None:
    table = scenes.label_sets(data, "train")
    assert (table[:19] == np.eye(19, dtype=bool)).all()
    assert table.sum(1)[19:].min() > 1
    assert len(np.unique(table, axis=0)) == len(table)
    read = scenes.load_scenes(data, "train")
    for own, found in zip(scenes.scene_sets(data, "train"), read, strict=True):
        allowed = own.train_id_table()[own[0].label]
        label = found[0].label
        assert ((label == 255) == ~allowed.any(-1)).all()
        assert (table[label[label != 255]] == allowed[label != 255]).all()


def test_a_set_too_large_for_memory_gives_the_same_samples(data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    held = SceneSamples(scenes.load_scenes(data, "train"), AUGMENT, 3)
    monkeypatch.setattr(scenes, "IN_MEMORY", 0)
    read = SceneSamples(scenes.load_scenes(data, "train"), AUGMENT, 3)
    assert not any(s.held for s in read.sets if isinstance(s, scenes.LabelledScenes))
    for number in (5, 2, 9):
        assert all(torch.equal(a, b) for a, b in zip(held[number], read[number], strict=True))
        assert held.name(number) == read.name(number)
    assert {held.name(n) for n in range(20)} == {"camvid/a", "idd-lite/train_a"}


def test_class_weights_share_a_coarse_pixel_equally(data: DataConfig) -> None:
    table = np.zeros((20, 19), bool)
    table[range(19), range(19)] = True
    table[19, [0, 4]] = True
    label = np.array([[0, 0, 19, 19], [4, 255, 255, 9]], np.uint8)
    weights = segmentation.class_weights([[scenes.Scene(np.zeros((2, 4, 3), np.uint8), label, "")]], table)
    assert weights[0].item() == pytest.approx(1 / math.log(1.1 + 3 / 6))
    assert weights[4].item() == pytest.approx(1 / math.log(1.1 + 2 / 6))
    assert weights[1].item() == pytest.approx(1 / math.log(1.1))
    own = segmentation.label_weights(weights, table)
    assert own[9] == weights[9]
    assert own[19].item() == pytest.approx((weights[0].item() + weights[4].item()) / 2)


def test_the_teacher_labels_void_and_picks_within_a_coarse_label(data: DataConfig, teacher: str) -> None:
    plain = [s[0].label for s in scenes.load_scenes(data, "train")]
    filled = [s[0].label for s in scenes.load_scenes(data, "train", teacher, 0.0)]
    unsure = [s[0].label for s in scenes.load_scenes(data, "train", teacher, 1.0)]
    picked = [s[0].label for s in scenes.load_scenes(data, "train", teacher, 1.0, "teacher")]
    table = scenes.label_sets(data, "train")
    for own, full, same, fine in zip(plain, filled, unsure, picked, strict=True):
        assert (full[own != 255] == own[own != 255]).all()
        assert full[own == 255].max() < 19
        assert (same == own).all()
        assert ((fine == 255) == (own == 255)).all()
        assert fine[fine != 255].max() < 19
        assert table[own[own != 255], fine[own != 255]].all()


def test_the_teacher_is_asked_once_for_a_scene(data: DataConfig, teacher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = scenes.load_scenes(data, "train", teacher, 0.2)

    def refuse(*_: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(scenes.Teacher, "_judge", refuse)
    again = scenes.load_scenes(data, "train", teacher, 0.2)
    assert all((a[0].label == b[0].label).all() for a, b in zip(first, again, strict=True))
    with pytest.raises(AssertionError, match="asked again"):
        scenes.load_scenes(data, "train", teacher, 0.3)
    with pytest.raises(ConfigError, match="coarse: teacher needs a teacher"):
        SegmentationTraining(data, coarse="teacher")


def test_training_goes_on_from_weights_and_keeps_the_best(
    data: DataConfig, tiny_config: SegmenterConfig, tmp_path: Path
) -> None:
    config = SegmentationTraining(data, tiny_config, AUGMENT, LOOP, loss="ohem")
    segmentation.train(config, tmp_path / "first")
    still = dataclasses.replace(LOOP, lr=1e-12, validate_every=1)
    segmentation.train(
        dataclasses.replace(config, initial=str(tmp_path / "first"), loss="weighted", loop=still), tmp_path / "second"
    )
    first, second = (load_weights(tmp_path / run / "weights.safetensors") for run in ("first", "second"))
    assert first.state.keys() == second.state.keys()
    assert not any("auxiliary_head" in key for key in first.state)
    matrices = [key for key, value in first.state.items() if value.ndim == 4]
    assert all(torch.allclose(first.state[key], second.state[key], atol=1e-6) for key in matrices)
    rows = (tmp_path / "second/validation.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "1", "2"]
    assert {"camvid", "idd-lite"} <= set(rows[0].split(","))
