"""PEBAL: its losses beside the formulas of spec 7 in NumPy, what it trains, and what it leaves."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from training_data import AUGMENT, LOOP, make_data

from mgcda_core.config import AnomalyMixConfig, ConfigError, DataConfig, PebalTraining, SegmenterConfig
from mgcda_core.export.command import export
from mgcda_core.inference.predictor import load
from mgcda_core.methods.pebal import energy_loss, gambler_loss, pebal_loss
from mgcda_core.training import pebal
from mgcda_core.training.outliers import OUTLIER, Outliers
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import load_objects, load_scenes
from mgcda_core.training.segmentation import set_losses
from mgcda_core.weights.resolve import load_weights, save_weights

ALWAYS = AnomalyMixConfig(objects=(1, 2), height=(0.3, 0.5), known=0, blend="none", jitter=0, colour_match=(0, 0))
CONFIG = PebalTraining(DataConfig(rendered=1), "lite")
CLASSES = 19


@pytest.fixture
def config(tmp_path: Path, tiny_weights: Path) -> PebalTraining:
    loop = dataclasses.replace(LOOP, batch=4, steps=4, checkpoint_every=2)
    return PebalTraining(make_data(tmp_path / "data", scenes=3), str(tiny_weights), ALWAYS, augment=AUGMENT, loop=loop)


def batch(with_outliers: bool = True) -> tuple[torch.Tensor, np.ndarray, np.ndarray, np.ndarray]:
    """Logits [3, 20, 9, 11], the allowed classes [3, 20, 9, 11], known and outlier; image 0 never has outliers."""
    rng = np.random.default_rng(0)
    logits = torch.from_numpy(rng.normal(1, 3, (3, CLASSES + 1, 9, 11)))
    allowed = np.zeros((3, CLASSES + 1, 9, 11), bool)
    first = rng.integers(0, CLASSES - 2, (3, 1, 9, 11))
    np.put_along_axis(allowed, first, True, 1)
    np.put_along_axis(allowed, first + rng.integers(0, 3, first.shape), True, 1)  # one class, or two
    outlier, void = np.zeros((3, 9, 11), bool), np.zeros((3, 9, 11), bool)
    outlier[1, 2:6, 3:7] = outlier[2, :2] = with_outliers
    void[0, 8], void[1, 0] = True, True
    return logits, allowed, ~outlier & ~void, outlier


def numpy_gambler(logits: np.ndarray, allowed: np.ndarray, known: np.ndarray, outlier: np.ndarray) -> float:
    """Spec 7, pixel by pixel."""
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    row = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    kernel = np.outer(row, row) / row.sum() ** 2
    square = np.pad(np.log(np.exp(logits[:, :CLASSES]).sum(1)) ** 2, ((0, 0), (3, 3), (3, 3)), mode="edge")
    gains: dict[bool, list[float]] = {False: [], True: []}
    outliers = []
    for b, y, x in np.ndindex(known.shape):
        share = p[b, CLASSES, y, x] / (kernel * square[b, y : y + 7, x : x + 7]).sum()
        if known[b, y, x]:
            gains[bool(outlier[b].any())].append(np.log(p[b, allowed[b, :, y, x], y, x].sum() + share))
        if outlier[b, y, x]:
            outliers += list(np.log(np.maximum(p[b, :CLASSES, y, x] + share, 1e-7)))
    return -sum(np.mean(values) for values in gains.values() if values) - 0.1 * (np.mean(outliers) if outliers else 0)


def numpy_energy(energy: np.ndarray, known: np.ndarray, outlier: np.ndarray) -> float:
    inside = (np.maximum(energy[known] + 12, 0) ** 2).mean()
    rough = sum((np.diff(energy, axis=axis) ** 2).sum() for axis in (1, 2)) / 2
    if not outlier.any():
        return inside + 3e-6 * rough
    outside = (np.maximum(-6 - energy[outlier], 0) ** 2).mean()
    return 0.5 * (inside + outside) + 5e-4 * np.sqrt((energy[outlier] ** 2).sum()) + 3e-6 * rough


@pytest.mark.parametrize("with_outliers", [True, False])
def test_the_losses_are_those_of_the_paper(with_outliers: bool) -> None:
    logits, allowed, known, outlier = batch(with_outliers)
    likelihood = -set_losses(logits, torch.from_numpy(allowed)).double()
    energy = -torch.logsumexp(logits[:, :CLASSES], 1)
    masks = torch.from_numpy(known), torch.from_numpy(outlier)
    gambler = gambler_loss(logits, likelihood, energy, *masks, weight=0.1).item()
    assert gambler == pytest.approx(numpy_gambler(logits.numpy(), allowed, known, outlier), rel=1e-5)
    margins = energy_loss(energy, *masks, CONFIG).item()
    assert margins == pytest.approx(numpy_energy(energy.numpy(), known, outlier), rel=1e-6)
    total, log = pebal_loss(logits, likelihood, *masks, CONFIG)
    assert total.item() == pytest.approx(gambler + 0.1 * margins, rel=1e-4)
    assert log["energy_known"].item() == pytest.approx(energy.numpy()[known].mean(), rel=1e-4)


def test_extreme_logits_and_an_image_of_outliers_alone_stay_finite() -> None:
    logits = torch.zeros(2, CLASSES + 1, 9, 9)
    logits[0, 3], logits[1] = 500.0, -2.9444389  # logsumexp of 19 equal ones: 0, so that the reward is 0
    logits.requires_grad_()
    allowed = torch.zeros(2, CLASSES + 1, 9, 9, dtype=torch.bool)
    allowed[:, 5] = True
    known = torch.zeros(2, 9, 9, dtype=torch.bool)
    for outlier in (torch.ones_like(known), torch.zeros_like(known)):
        loss, _ = pebal_loss(logits, -set_losses(logits, allowed), known & ~outlier, outlier, CONFIG)
        loss.backward()
        assert loss.isfinite() and logits.grad is not None and logits.grad.isfinite().all()


def test_outliers_end_above_the_known_and_only_the_classifier_moves(config: PebalTraining, tmp_path: Path) -> None:
    loop = dataclasses.replace(config.loop, steps=40, lr=2e-2, ema=0.9, checkpoint_every=40, log_every=20)
    pebal.train(dataclasses.replace(config, loop=loop), tmp_path / "run")
    weights, start = load_weights(tmp_path / "run"), load_weights(config.weights).state
    assert weights.config.score == "energy" and weights.config.segmentation.unknown
    assert {key.split(".")[0] for key in weights.state} == {"segmentation"}
    moved = {key for key, value in weights.state.items()
             if value.shape != start[key].shape or not torch.equal(value, start[key])}  # fmt: skip
    assert moved and all(key.startswith("segmentation.head.") for key in moved)
    assert len(weights.state["segmentation.head.classify.weight"]) == CLASSES + 1

    scenes = load_scenes(config.data, "val")
    paste = Outliers(scenes, load_objects(config.data, "val"), ALWAYS, known_row=0)
    held_out = SceneSamples(scenes, dataclasses.replace(AUGMENT, colour=0, degrade=0), 1, paste)
    predictor = load(tmp_path / "run", backend="torch")
    above = []
    for image, label in (held_out[n] for n in range(6)):
        score = predictor(image.permute(1, 2, 0).numpy()).logits
        above.append(score[label == OUTLIER].mean() - score[label < CLASSES].mean())
    assert np.mean(above) > 1.0

    frames = tmp_path / "frames"
    frames.mkdir()
    image = held_out[0][0].permute(1, 2, 0).numpy()
    cv2.imwrite(str(frames / "a.png"), image[..., ::-1])
    artefact = export(tmp_path / "out", str(tmp_path / "run"), size=image.shape[:2], check=frames)
    again = load(artefact, backend="onnxruntime")(image)
    np.testing.assert_allclose(again.score, predictor(image).score, atol=1e-4)


def test_a_killed_run_goes_on_to_the_same_weights(config: PebalTraining, tmp_path: Path) -> None:
    pebal.train(config, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        forward = pebal.PebalObjective.forward

        def dies(self: pebal.PebalObjective, *batch: torch.Tensor) -> dict[str, torch.Tensor]:
            if self.step == 3:
                raise InterruptedError
            return forward(self, *batch)

        patch.setattr(pebal.PebalObjective, "forward", dies)
        with pytest.raises(InterruptedError):
            pebal.train(config, tmp_path / "broken")
    pebal.train(config, tmp_path / "broken", resume=True)
    whole, broken = (load_weights(tmp_path / name).state for name in ("whole", "broken"))
    assert all(torch.equal(value, broken[key]) for key, value in whole.items())


def test_what_it_cannot_work_with_is_one_sentence(
    config: PebalTraining, tiny_config: SegmenterConfig, tmp_path: Path
) -> None:
    foreign = dataclasses.replace(tiny_config.segmentation, architecture="huggingface")
    save_weights(tmp_path / "hf.safetensors", {}, dataclasses.replace(tiny_config, segmentation=foreign), "hf")
    with pytest.raises(ConfigError, match="a network of Hugging Face, whose classifier is not known"):
        pebal.train(dataclasses.replace(config, weights=str(tmp_path / "hf.safetensors")), tmp_path / "a")
    with pytest.raises(ConfigError, match="no objects to paste"):
        pebal.train(dataclasses.replace(config, data=dataclasses.replace(config.data, objects=())), tmp_path / "b")
    with pytest.raises(ConfigError, match=r"loop\.validate_every"):
        dataclasses.replace(config, loop=dataclasses.replace(LOOP, validate_every=1))
