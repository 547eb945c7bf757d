"""Fixtures every test may use: a tiny chain with seeded random weights, and drawn frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mgcda_core.config import DissimilarityConfig, SegmentationConfig, SegmenterConfig, SynthesisConfig

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
