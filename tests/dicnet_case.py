"""Students of one teacher on drawn streets, distilled with and without a class the teacher knows."""

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
from mgcda_core.data.rendered import render_scene
from mgcda_core.data.sample import Scene
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.training.dicnet import train
from mgcda_core.training.loop import fit
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.segmentation import SegmentationObjective
from mgcda_core.weights.resolve import load_weights, save_weights

SIZE = (64, 128)
BALL = 17
"""Train id of the balls, which nothing else drawn has."""
_STREETS = 12
_AUGMENT = AugmentConfig(size=SIZE, least_rows=64, zoom=(1.0, 1.0), aspect=(2.0, 2.0), colour=0.1, degrade=0.0)
_STEPS = dataclasses.replace(LOOP, batch=4, lr=1e-2, warmup=5, ema=0.9, log_every=5, checkpoint_every=100)


@dataclass(frozen=True)
class Distilled:
    """A run of `mgcda train dicnet`."""

    run: Path
    losses: list[float]
    """Every fifth step's."""


def street(seed: int, *, balls: bool) -> Scene:
    """A drawn street without anomalies at the networks' size, if wanted with three orange balls in it."""
    scene = render_scene(seed, size=SIZE, anomalies=0)
    image, label, rng = scene.image, scene.labels, np.random.default_rng(seed)
    for _ in range(3 if balls else 0):
        place, radius = (int(rng.integers(10, 118)), int(rng.integers(16, 56))), int(rng.integers(9, 17))
        ball = cv2.circle(np.zeros(SIZE, np.uint8), place, radius, 1, -1) > 0
        colour = np.array([230, 120, 20]) * rng.uniform(0.7, 1.1) + rng.normal(0, 6, image.shape)
        image = np.where(ball[..., None], np.clip(colour, 0, 255), image).astype(np.uint8)
        label = np.where(ball, BALL, label).astype(np.uint8)
    return Scene(image, label, str(seed))


def train_teacher(root: Path, tiny_weights: Path) -> Path:
    """60 steps of the segmentation network on twelve streets with balls; its weights file."""
    loaded = load_weights(tiny_weights)
    weights = torch.ones(19)
    weights[BALL] = 3.0  # else so few steps hardly get to them
    torch.manual_seed(0)
    network = build_segmentation(loaded.config.segmentation)
    training = SegmentationTraining(DataConfig(rendered=1), loaded.config)
    samples = SceneSamples([[street(seed, balls=True) for seed in range(_STREETS)]], _AUGMENT, 0)
    objective = SegmentationObjective(network, torch.eye(19).bool(), weights, training)
    trained = fit(objective, samples, dataclasses.replace(_STEPS, steps=60), root / "teacher")
    own = {f"segmentation.{k}": v for k, v in trained.state_dict().items() if not k.startswith("auxiliary_head.")}
    save_weights(root / "teacher.safetensors", own, loaded.config, "teacher")
    return root / "teacher.safetensors"


def distil(root: Path, teacher: Path, *, balls: bool) -> Distilled:
    """140 steps of a student on the teacher's twelve streets, with or without their balls."""
    for seed in range(_STREETS):
        scene = street(seed, balls=balls)
        write(root / "images" / f"{seed}.png", scene.image[..., ::-1])
        write(root / "masks" / f"{seed}.png", scene.label)
    data, loop = DataConfig(cityscapes_train_ids=str(root)), dataclasses.replace(_STEPS, steps=140)
    train(DicnetTraining(data, str(teacher), StudentConfig(width=12), _AUGMENT, loop), root / "run")
    with (root / "run" / "metrics.csv").open(newline="") as file:
        return Distilled(root / "run", [float(row["loss"]) for row in csv.DictReader(file)])


def write_published(root: Path, dataset: str, scenes: list[Scene]) -> None:
    """Streets in the layout of streethazards or bdd_anomaly; the balls are the anomalies."""
    for scene in scenes:
        if dataset == "streethazards":
            image, label = (root / "test" / k / "test" / "t5" / f"{scene.name}.png" for k in ("images", "annotations"))
            anomaly, normal = 14, 2
        else:
            image = root / "seg" / "images" / "val" / f"{scene.name}.jpg"
            label = root / "seg" / "labels" / "val" / f"{scene.name}_train_id.png"
            anomaly, normal = 17, 0
        write(image, scene.image[..., ::-1])
        write(label, np.where(scene.label == BALL, anomaly, normal).astype(np.uint8))


def write(path: Path, pixels: np.ndarray) -> None:
    """One picture, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)
