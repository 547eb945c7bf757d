"""Outlier exposure of the segmentation network: what is pasted is labelled, and its softmax becomes flat."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_data import AUGMENT, LOOP, make_data

from mgcda_core.config import AnomalyMixConfig, ConfigError, OutlierConfig, SegmentationTraining, SegmenterConfig
from mgcda_core.data.sample import Scene
from mgcda_core.training import segmentation
from mgcda_core.training.outliers import OUTLIER, Outliers, flatness, known_row
from mgcda_core.training.scenes import load_objects
from mgcda_core.training.segmentation import SegmentationObjective

ALWAYS = AnomalyMixConfig(objects=(1, 2), height=(0.3, 0.5), known=1.0, blend="none", jitter=0, colour_match=(0, 0))


def scene_with_a_car() -> Scene:
    image, label = np.full((60, 90, 3), 100, np.uint8), np.zeros((60, 90), np.uint8)
    image[20:44, 30:56], label[20:44, 30:56], label[:5] = (10, 200, 30), 13, 255
    return Scene(image, label, "car")


def test_the_label_follows_the_pixels(tmp_path: Path) -> None:
    paste = Outliers([[scene_with_a_car()]], load_objects(make_data(tmp_path), "train"), ALWAYS, known_row=19)
    empty = np.full((60, 90, 3), 77, np.uint8), np.zeros((60, 90), np.uint8)
    image, label = paste(*empty, np.random.default_rng(1))
    assert set(np.unique(label)) == {0, 19, OUTLIER}
    assert (image[label == 19] == (10, 200, 30)).all()
    assert (image[label == 0] == 77).all()
    grey = image[label == OUTLIER]
    assert len(grey) > 50
    assert (np.ptp(grey.astype(int), axis=1) == 0).all()  # the balls are grey, neither scene nor car
    again = paste(*empty, np.random.default_rng(1))
    assert (again[0] == image).all()
    assert (empty[1] == 0).all()  # the scene is held in memory: it stays as it is


def test_known_row_holds_people_and_vehicles() -> None:
    assert np.flatnonzero(known_row(np.eye(19, dtype=bool))[0]).tolist() == list(range(11, 19))


def test_flatness_is_the_divergence_from_equal_probabilities() -> None:
    logits = 5 * torch.randn(7, 19, generator=torch.Generator().manual_seed(0))
    expected = (torch.full((7, 19), 1 / 19) * (-math.log(19) - logits.log_softmax(1))).sum(1)
    torch.testing.assert_close(flatness(logits), expected)
    assert flatness(torch.full((1, 19), 8.0)).item() == pytest.approx(0, abs=1e-6)
    assert torch.isfinite(flatness(torch.tensor([[900.0, -900.0]]))).all()


class OneLayer(nn.Conv2d):
    """A network that sees a pixel's colour alone."""

    def training_logits(self, x: Tensor) -> list[Tensor]:
        return [self(x)]


def test_the_entropy_of_outliers_rises_and_no_classes_is_lost(tiny_config: SegmenterConfig, tmp_path: Path) -> None:
    """Two classes, and outliers of the first one's colour but for the blue, in which the classes do not differ."""
    true = np.random.default_rng(0).integers(0, 3, (1, 40, 50))
    image = torch.from_numpy(np.array([[200, 40, 104], [40, 200, 104], [200, 40, 250]])[true]).permute(0, 3, 1, 2)
    found = {}
    for outliers in (None, OutlierConfig()):
        config = SegmentationTraining(make_data(tmp_path), tiny_config, outliers=outliers)
        network = OneLayer(3, 19, 1)
        nn.init.zeros_(network.weight)
        objective = SegmentationObjective(network, torch.eye(19).bool(), torch.ones(19), config)
        optimizer = torch.optim.Adam(network.parameters(), 0.1)
        label = torch.from_numpy(np.where(true == 2, OUTLIER, true))
        for _ in range(200):
            optimizer.zero_grad()
            objective(image, label)["loss"].backward()
            optimizer.step()
        with torch.no_grad():
            probability = network((image.float() - objective.mean) / objective.std).softmax(1)
        known = torch.from_numpy(true < 2)
        assert (probability.argmax(1).numpy() == true)[true < 2].mean() > 0.99
        entropy = -(probability * probability.clamp(min=1e-9).log()).sum(1) / math.log(19)
        found[outliers is None] = (entropy[~known].mean() - entropy[known].mean()).item()
    assert found[False] > 0.5 > found[True] + 0.3


def test_a_training_with_outliers_runs_and_needs_objects(tiny_config: SegmenterConfig, tmp_path: Path) -> None:
    data = make_data(tmp_path)
    config = SegmentationTraining(data, tiny_config, AUGMENT, LOOP, outliers=OutlierConfig(mix=ALWAYS))
    segmentation.train(config, tmp_path / "run")
    header = (tmp_path / "run" / "metrics.csv").read_text().splitlines()[0]
    assert "outlier" in header
    assert (tmp_path / "run" / "weights.safetensors").is_file()
    without = dataclasses.replace(config, data=dataclasses.replace(data, objects=()))
    with pytest.raises(ConfigError, match="no objects to paste"):
        segmentation.train(without, tmp_path / "other")
