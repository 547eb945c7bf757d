"""A student distilled on drawn streets whose vehicles are painted out, by the command itself."""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from training_data import LOOP

from mgcda_core.config import AugmentConfig, DataConfig, DicnetTraining, SegmentationTraining, StudentConfig
from mgcda_core.data.rendered import RenderedScene, render_scene
from mgcda_core.data.sample import Scene
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.training.dicnet import train
from mgcda_core.training.loop import fit
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.segmentation import SegmentationObjective
from mgcda_core.weights.resolve import load_weights, save_weights

SIZE = (64, 128)
VEHICLES = (13, 14, 15)
_AUGMENT = AugmentConfig(size=SIZE, least_rows=64, zoom=(1.0, 1.0), aspect=(2.0, 2.0), colour=0.1, degrade=0.0)
_STEPS = dataclasses.replace(LOOP, batch=4, lr=1e-2, warmup=5, ema=0.9, log_every=5, checkpoint_every=100)


@dataclass(frozen=True)
class Distilled:
    """A run of `mgcda train dicnet`."""

    run: Path
    teacher: Path
    """A whole chain whose segmentation network knows vehicles; the other networks are random."""
    losses: list[float]
    """Every fifth step's."""


def distil(root: Path, tiny_weights: Path) -> Distilled:
    """80 steps on twelve scenes without vehicles; the teacher has 60 on the same scenes with them."""
    streets = [drawn(seed) for seed in range(12)]
    teacher = _teacher(streets, tiny_weights, root)
    for number, street in enumerate(streets):
        write(root / "images" / f"{number}.png", without_vehicles(street)[..., ::-1])
        write(root / "masks" / f"{number}.png", street.labels)
    data, loop = DataConfig(cityscapes_train_ids=str(root)), dataclasses.replace(_STEPS, steps=80)
    train(DicnetTraining(data, str(teacher), StudentConfig(width=8), _AUGMENT, loop), root / "run")
    with (root / "run" / "metrics.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    return Distilled(root / "run", teacher, losses)


def drawn(seed: int) -> RenderedScene:
    """A street without anomalies, at the networks' size."""
    return render_scene(seed, size=SIZE, anomalies=0)


def vehicles(street: RenderedScene) -> np.ndarray:
    """bool [H, W]"""
    return np.isin(street.labels, VEHICLES)


def without_vehicles(street: RenderedScene) -> np.ndarray:
    """uint8 [H, W, 3] RGB with the vehicles' pixels filled from around them."""
    hole = cv2.dilate(vehicles(street).astype(np.uint8), np.ones((5, 5), np.uint8))
    return cv2.inpaint(street.image, hole, 3, cv2.INPAINT_TELEA)


def write(path: Path, pixels: np.ndarray) -> None:
    """One picture, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def write_published(root: Path, dataset: str, seeds: range) -> None:
    """Streets in the layout of streethazards or bdd_anomaly; vehicles are the anomalies."""
    for seed in seeds:
        street = drawn(seed)
        if dataset == "streethazards":
            image, label = (root / "test" / kind / "test" / "t5" / f"{seed}.png" for kind in ("images", "annotations"))
            anomaly, normal = 14, 2
        else:
            image = root / "seg" / "images" / "val" / f"{seed}.jpg"
            label = root / "seg" / "labels" / "val" / f"{seed}_train_id.png"
            anomaly, normal = 17, 0
        write(image, street.image[..., ::-1])
        write(label, np.where(vehicles(street), anomaly, normal).astype(np.uint8))


def _teacher(streets: list[RenderedScene], tiny_weights: Path, root: Path) -> Path:
    chain = load_weights(tiny_weights)
    scenes = [Scene(street.image, street.labels, str(number)) for number, street in enumerate(streets)]
    weights = torch.ones(19)
    weights[list(VEHICLES)] = 5.0  # else some seeds never get to know them in so few steps
    torch.manual_seed(0)
    network = build_segmentation(chain.config.segmentation)
    training = SegmentationTraining(DataConfig(rendered=1), chain.config)
    objective = SegmentationObjective(network, torch.eye(19).bool(), weights, training)
    loop = dataclasses.replace(_STEPS, steps=60)
    trained = fit(objective, SceneSamples([scenes], _AUGMENT, 0), loop, root / "teacher")
    own = {f"segmentation.{k}": v for k, v in trained.state_dict().items() if not k.startswith("auxiliary_head.")}
    save_weights(root / "teacher.safetensors", chain.state | own, chain.config, "teacher")
    return root / "teacher.safetensors"
