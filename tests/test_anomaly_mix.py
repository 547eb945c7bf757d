"""AnomalyMix composites and the augmentation that follows them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mgcda_core.config import AnomalyMixConfig, AugmentConfig
from mgcda_core.data import anomaly_mix, augment

SCENE = np.full((80, 160, 3), 90, np.uint8)
HARD = AnomalyMixConfig(height=(0.3, 0.3), feather=(0.0, 0.0), colour_match=(0.0, 0.0), on_road=1.0)


def train_ids() -> np.ndarray:
    ids = np.full((80, 160), 10, np.uint8)
    ids[40:] = 0
    ids[:, :8] = 255
    return ids


def ball(value: int = 250) -> np.ndarray:
    yy, xx = np.mgrid[-20:21, -20:21]
    alpha = ((yy**2 + xx**2) <= 400).astype(np.uint8) * 255
    return np.dstack([np.full((41, 41, 3), value, np.uint8), alpha])


@pytest.mark.parametrize("seed", range(8))
def test_label_rule(seed: int) -> None:
    """1 on the object, also over void; other void 255; the rest 0; the object lies fully inside the frame."""
    rng = np.random.default_rng(seed)
    config = AnomalyMixConfig(height=(0.3, 0.3), feather=(0.0, 0.0), colour_match=(0.0, 0.0), on_road=0.0)
    image, label = anomaly_mix.mix(SCENE, train_ids(), [ball()], [], config, rng)
    pasted = label == 1
    assert pasted.sum() == pytest.approx(np.pi * 12**2, rel=0.15)
    assert (label[:, :8][~pasted[:, :8]] == 255).all()
    assert set(np.unique(label[:, 8:])) <= {0, 1}
    away = cv2.dilate(pasted.astype(np.uint8), np.ones((3, 3))) == 0  # the outline itself is blended over one pixel
    assert np.array_equal(image[away], SCENE[away])
    assert (SCENE == 90).all()


def test_feet_stand_on_the_road() -> None:
    for seed in range(20):
        _, label = anomaly_mix.mix(SCENE, train_ids(), [ball()], [], HARD, np.random.default_rng(seed))
        foot = np.flatnonzero((label == 1).any(1))[-1]
        assert foot >= 38


def test_known_objects_are_pasted_with_label_0() -> None:
    image, label = anomaly_mix.mix(SCENE, train_ids(), [], [ball()], HARD, np.random.default_rng(3))
    assert (image != SCENE).any()
    assert not (label == 1).any()


def test_known_objects_are_cut_from_people_and_vehicles_off_the_border() -> None:
    ids = train_ids()
    ids[50:70, 60:90], ids[0:30, 100:140], ids[50:55, 20:24] = 13, 11, 13
    found = anomaly_mix.known_objects(SCENE, ids)
    assert [f.shape for f in found] == [(20, 30, 4)]


def test_same_seed_same_composite() -> None:
    config = AnomalyMixConfig()
    first, second = (
        anomaly_mix.mix(SCENE, train_ids(), [ball(), ball(10)], [], config, np.random.default_rng(5)) for _ in range(2)
    )
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


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
