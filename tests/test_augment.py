"""Crops that keep image and label together, and photometry."""

from __future__ import annotations

import numpy as np
import pytest

from mgcda_core.config import AugmentConfig
from mgcda_core.data import augment


@pytest.mark.parametrize("seed", range(10))
def test_crop_keeps_image_and_label_together(seed: int) -> None:
    """The image carries its own label in the red channel, so any misalignment shows."""
    label = np.random.default_rng(seed).integers(0, 19, (90, 140)).astype(np.uint8)
    image = np.dstack([label, label * 0, label * 0])
    config = AugmentConfig(size=(48, 96), least_rows=30)
    cropped, cropped_label = augment.crop(image, label, config, np.random.default_rng(seed))
    assert np.array_equal(cropped[..., 0], cropped_label)
    resized, resized_label = augment.resize(cropped, cropped_label, config.size)
    assert resized.shape == (48, 96, 3)
    assert set(np.unique(resized_label)) <= set(np.unique(label))


def test_photometric_changes_the_image_but_not_its_form() -> None:
    image = np.random.default_rng(0).integers(0, 255, (48, 96, 3)).astype(np.uint8)
    changed = augment.photometric(image, AugmentConfig(degrade=1.0), np.random.default_rng(0))
    assert changed.shape == image.shape
    assert changed.dtype == np.uint8
    assert (changed != image).any()
    assert augment.photometric(image, AugmentConfig(colour=0, degrade=0), np.random.default_rng(0)) is image
