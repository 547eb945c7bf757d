"""A made data tree for the trainings: CamVid-like scenes with a void box, and bright balls to paste."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np

from mgcda_core.config import (
    AugmentConfig,
    CaclConfig,
    DataConfig,
    DissimilarityTraining,
    LoopConfig,
    MdatConfig,
    PrepareConfig,
)
from mgcda_core.training.prepare import prepare

LOOP = LoopConfig(
    steps=2, batch=2, warmup=1, workers=0, log_every=1, checkpoint_every=1, precision="32-true", device="cpu"
)
AUGMENT = AugmentConfig(size=(64, 128), least_rows=40)


def make_data(root: Path, scenes: int = 2) -> DataConfig:
    """`scenes` scenes a split, each with a void strip at the left edge and a void box on the road; eleven balls."""
    rng = np.random.default_rng(0)
    colours = np.zeros((12, 3), np.uint8)
    colours[0], colours[3], colours[5], colours[11] = (90, 180, 220), (80, 80, 80), (20, 90, 20), (200, 40, 160)
    for split in ("train", "val"):
        for i in range(scenes):
            label = np.zeros((72, 144), np.uint8)
            label[36:], label[20:36, 40:80], label[:, :4] = 3, 5, 11
            label[44:56, 60 + 6 * i : 80 + 6 * i] = 11
            image = colours[label] + rng.integers(0, 9, (*label.shape, 3))
            write_pair(root / "camvid" / split, "images", "labels", f"{split}{i}", image, label)
    yy, xx = np.mgrid[-24:25, -24:25]
    mask = ((yy**2 + xx**2) <= 500).astype(np.uint8) * 255
    for i in range(11):
        write_pair(root / "objects", "images", "masks", str(i), np.full((49, 49, 3), 20 * i + 20), mask)
    return DataConfig(camvid=str(root / "camvid"), objects=(str(root / "objects"),))


def whole_method(root: Path, weights: Path) -> DissimilarityTraining:
    """Two steps of the whole method on caches of both domains that `weights` made, batch 4, never validated."""
    data = make_data(root, scenes=3)
    v = PrepareConfig(data, str(weights), "void_class", copies=2, augment=AUGMENT, device="cpu")
    a = dataclasses.replace(v, domain="anomaly_mix")
    wanted = {"void_class-train": v, "anomaly_mix-train": a, "anomaly_mix-val": dataclasses.replace(a, split="val")}
    void_class, anomaly_mix, val = (str(prepare(config, root / name)) for name, config in wanted.items())
    mdat = MdatConfig(width=0.0625, stride=2, lr=1e-3)
    loop = dataclasses.replace(LOOP, batch=4)
    return DissimilarityTraining(
        str(weights), void_class, anomaly_mix, (val,), crop=(32, 64), mdat=mdat, cacl=CaclConfig(), loop=loop
    )


def write_pair(root: Path, images: str, labels: str, stem: str, image: np.ndarray, label: np.ndarray) -> None:
    for folder, pixels in ((images, image.astype(np.uint8)), (labels, label)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / folder / f"{stem}.png"), pixels)
