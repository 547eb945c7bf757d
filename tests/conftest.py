"""Fixtures every test may use: a tiny chain with seeded random weights, drawn frames, the commands."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from command_line import Run
from training_data import AUGMENT, LOOP, make_data

from mgcda_core import cli
from mgcda_core.config import (
    CaclConfig,
    DissimilarityConfig,
    DissimilarityTraining,
    MdatConfig,
    PrepareConfig,
    SegmentationConfig,
    SegmenterConfig,
    SynthesisConfig,
)

torch.set_num_threads(1)  # tiny networks gain nothing from more, and lose much where the cores are shared

TINY = SegmenterConfig(
    segmentation=SegmentationConfig(architecture="ddrnet23_slim", width=8, size=(64, 128)),
    synthesis=SynthesisConfig(ngf=4, hidden=4, z_dim=8, encoder_width=4, size=(64, 128)),
    dissimilarity=DissimilarityConfig(width=0.0625, size=(64, 128)),
)
"""The lite chain at the smallest widths: for mechanics, never for figures."""


@pytest.fixture(scope="session")
def tiny_config() -> SegmenterConfig:
    return TINY


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Path of a weights file of the tiny chain, seeded random values."""
    from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
    from mgcda_core.weights.resolve import save_weights

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, AnomalySegmenter(TINY).state_dict(), TINY, "tiny", {"licence": "none"})
    return path


@pytest.fixture(scope="session")
def domain_caches(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> dict[str, str]:
    """Folder of a cache of the tiny chain, by DOMAIN/SPLIT."""
    root = tmp_path_factory.mktemp("caches")
    data = make_data(root, scenes=3)
    from mgcda_core.training.prepare import prepare

    made = {}
    for domain in ("void_class", "anomaly_mix"):
        for split in ("train", "val"):
            config = PrepareConfig(data, str(tiny_weights), domain, split, copies=2, augment=AUGMENT, device="cpu")
            made[f"{domain}/{split}"] = str(prepare(config, root / domain / split))
    return made


@pytest.fixture
def whole_method(
    domain_caches: dict[str, str], tiny_weights: Path, tiny_config: SegmenterConfig
) -> DissimilarityTraining:
    """Three steps of MGCDA on these caches, with everything on."""
    return DissimilarityTraining(
        str(tiny_weights), domain_caches["void_class/train"], domain_caches["anomaly_mix/train"],
        (domain_caches["void_class/val"], domain_caches["anomaly_mix/val"]), tiny_config.dissimilarity, crop=(32, 64),
        mdat=MdatConfig(width=0.0625, stride=2, lr=1e-3),
        cacl=CaclConfig(), loop=dataclasses.replace(LOOP, batch=4, steps=3, validate_every=2, pictures_every=3),
    )  # fmt: skip


@pytest.fixture()
def frames() -> list[np.ndarray]:
    """Four uint8 [64, 96, 3] RGB pictures with a horizon and a block on the road."""
    rng = np.random.default_rng(0)
    pictures = []
    for i in range(4):
        image = np.full((64, 96, 3), (90, 90, 95), np.uint8)
        image[:30] = (150, 180, 220)
        image[40 : 40 + 8 + i, 30 + 8 * i : 46 + 8 * i] = (200, 80, 30)
        pictures.append(np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8))
    return pictures


@pytest.fixture
def mgcda(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process: (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(word) for word in words])
        output = capsys.readouterr()
        return int(exit_.value.code or 0), output.out, output.err

    return run


@pytest.fixture
def drive(tmp_path: Path, frames: list[np.ndarray]) -> Path:
    """images/*.png and masks/*.png of four frames, 2 = anomaly."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / "images" / f"f{number}.png"), frame[..., ::-1])
        mask = np.zeros(frame.shape[:2], np.uint8)
        mask[40:50, 30:50], mask[:2] = 2, 255
        cv2.imwrite(str(tmp_path / "masks" / f"f{number}.png"), mask)
    return tmp_path
