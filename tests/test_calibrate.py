"""`mgcda calibrate`: the composites and their road, the file it writes, and that the threshold in it is used."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser
from training_data import AUGMENT, make_data

from mgcda_core.config import AnomalyMixConfig, CalibrationConfig, ConfigError, DataConfig, VoidClassConfig
from mgcda_core.data.rendered import DEMO_SEED_BASE
from mgcda_core.data.sample import DataError, read_label
from mgcda_core.inference.predictor import load
from mgcda_core.training.calibrate import DrawnImages, PastedImages, calibrate
from mgcda_core.weights.resolve import WeightsError, load_weights, save_weights

CONFIG = Path(__file__).parents[1] / "config" / "calibrate.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return make_data(tmp_path_factory.mktemp("data"), scenes=3)


@pytest.fixture
def config(data: DataConfig, tiny_weights: Path) -> CalibrationConfig:
    mix = AnomalyMixConfig(objects=(1, 2))
    return CalibrationConfig(data, str(tiny_weights), fpr=0.1, copies=2, augment=AUGMENT, mix=mix, device="cpu")


def test_the_new_file_carries_the_threshold_and_how_it_was_chosen(
    config: CalibrationConfig, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tiny_weights.read_bytes()
    out = calibrate(config, tmp_path / "new" / "calibrated.safetensors")
    assert tiny_weights.read_bytes() == before
    source, written = load_weights(tiny_weights), load_weights(out)
    facts = json.loads(written.metadata["calibration"])
    assert written.config == dataclasses.replace(source.config, threshold=facts["threshold"])
    assert (written.name, written.metadata["licence"]) == ("tiny", "none")
    assert written.state.keys() == source.state.keys()
    assert all(torch.equal(written.state[k], v) for k, v in source.state.items())
    assert facts["source_sha256"] == source.sha256 != written.sha256
    assert (facts["fpr_wanted"], facts["images"], facts["scenes"]) == (0.1, 6, 3)
    assert facts["data"] == "anomaly_mix val at 64x128, seed 0: camvid 3, 2 objects"
    assert facts["threshold_interval"][0] <= facts["threshold"] <= facts["threshold_interval"][1]
    printed = capsys.readouterr().out
    assert f"threshold: {facts['threshold']:.4f} [" in printed and "; the weights had 0.5000, which masks " in printed
    assert "note: the false positives lie in" in printed


def test_the_reported_rates_are_those_of_the_masks_a_user_gets(config: CalibrationConfig, tmp_path: Path) -> None:
    out = calibrate(config, tmp_path / "a.safetensors")
    facts = json.loads(load_weights(out).metadata["calibration"])
    predictor, images = load(out, "cpu"), PastedImages(config)
    assert predictor.threshold == facts["threshold"]
    masked = road = found = anomalous = 0
    for made in map(images.__getitem__, range(len(images))):
        mask = predictor(made.image).mask
        masked, road = masked + (mask & made.road).sum(), road + made.road.sum()
        found, anomalous = found + mask[made.label == 1].sum(), anomalous + (made.label == 1).sum()
    assert facts["road_pixels"] == road
    assert facts["road_fpr"] == pytest.approx(masked / road, abs=1e-12)
    assert facts["pixel_recall"] == pytest.approx(found / anomalous, abs=1e-12)
    assert facts["road_fpr"] <= 0.1 < facts["road_fpr_below"]


def test_predict_uses_it(config: CalibrationConfig, frames: list[np.ndarray], tmp_path: Path, mgcda) -> None:
    out = calibrate(config, tmp_path / "a.safetensors")
    cv2.imwrite(str(tmp_path / "f.png"), frames[0])
    code, _, _ = mgcda("predict", tmp_path / "f.png", "--weights", out, "--out", tmp_path / "p", "--device", "cpu")
    assert code == 0
    stored = json.loads((tmp_path / "p" / "predictions.json").read_text())
    assert stored["threshold"] == load_weights(out).config.threshold != 0.5


def test_road_is_where_nothing_is_pasted(config: CalibrationConfig) -> None:
    """The made road is grey: the label's road and the picture's must be the same, mirrored, cut and resized."""
    plain = AnomalyMixConfig(objects=(1, 2), known=0, jitter=0, colour_match=(0, 0), blend="none")
    augment = dataclasses.replace(AUGMENT, colour=0, degrade=0)
    images = PastedImages(dataclasses.replace(config, mix=plain, augment=augment, copies=4))
    for made in map(images.__getitem__, range(len(images))):
        grey = (np.abs(made.image.astype(int) - 84).max(-1) <= 8) & (made.label == 0)
        assert made.road.any() and not (made.road & (made.label != 0)).any()
        for inner, outer in ((made.road, grey), (grey, made.road)):  # resizing blends the image's edges alone
            assert not (cv2.erode(inner.astype(np.uint8), np.ones((5, 5))).astype(bool) & ~outer).any()


def test_no_road_is_counted_in_the_box_of_a_pasted_vehicle(config: CalibrationConfig) -> None:
    known = dataclasses.replace(config, mix=AnomalyMixConfig(objects=(1, 1), known=1.0), copies=3)
    images = PastedImages(known)
    made, number = next((images.domain[n], n) for n in range(len(images)))
    (paste,) = made.provenance["pastes"]
    paste |= {"label": 0}  # the made scenes hold no vehicle: take the ball for one
    images.domain.__class__ = type("Given", (), {"__getitem__": lambda self, n: made})  # type: ignore[assignment]
    top, left, height, width = paste["box"]
    window = made.provenance["window"]
    scale = np.array(made.label.shape) / (window["height"], window["width"])
    (y0, x0), (y1, x1) = np.ceil(scale * (top, left)), np.floor(scale * (top + height, left + width))
    assert not images[number].road[int(y0) : int(y1), int(x0) : int(x1)].any()
    assert images[number].road.any()


def test_void_regions_are_no_road_either(config: CalibrationConfig) -> None:
    images = PastedImages(dataclasses.replace(config, domain="void_class"))
    assert images.described == "camvid 3"
    for made in map(images.__getitem__, range(len(images))):
        assert (made.label == 1).any() and made.road.any()
        assert not (made.road & (made.label != 0)).any()


def test_drawn_scenes_need_no_data(tiny_weights: Path, tmp_path: Path) -> None:
    augment = dataclasses.replace(AUGMENT, size=(72, 128))
    config = CalibrationConfig(DataConfig(rendered=90), str(tiny_weights), 0.05, "drawn", 2, limit=4, augment=augment)
    images = DrawnImages(config)
    assert len(images) == 8 and len(DrawnImages(dataclasses.replace(config, limit=0))) == 18
    assert images.seeds[0] >= config.data.rendered and images.seeds[-1] < DEMO_SEED_BASE
    first, again, copy = images[0], images[0], images[1]
    assert np.array_equal(first.image, again.image) and not np.array_equal(first.image, copy.image)
    assert np.array_equal(first.road, copy.road) and first.scene == copy.scene == "rendered/900000"
    drawn = [images[n] for n in (2, 4, 6)]
    assert any((d.label == 1).any() for d in drawn) and not any((d.road & (d.label == 1)).any() for d in drawn)
    extras = dataclasses.replace(config, json=str(tmp_path / "j" / "c.json"), plot=str(tmp_path / "p" / "c.png"))
    facts = json.loads(load_weights(calibrate(extras, tmp_path / "a.safetensors")).metadata["calibration"])
    report = json.loads((tmp_path / "j" / "c.json").read_text())
    assert {k: report[k] for k in facts} == facts and facts["images"] == 8
    assert sum(report["raw"]["pixels"]) == report["pixels"]["pixels"] == 8 * 72 * 128
    assert (tmp_path / "p" / "c.png").stat().st_size > 1000


def test_a_float16_file_stays_one(config: CalibrationConfig, tiny_weights: Path, tmp_path: Path) -> None:
    source = load_weights(tiny_weights)
    save_weights(tmp_path / "half.safetensors", source.state, source.config, "half", half=True)
    given = dataclasses.replace(config, weights=str(tmp_path / "half.safetensors"), copies=1)
    out = calibrate(given, tmp_path / "out.safetensors")
    size = (tmp_path / "half.safetensors").stat().st_size
    assert size < out.stat().st_size < size + 4000 < tiny_weights.stat().st_size


def test_wrong_use_is_refused_before_the_work(config: CalibrationConfig, tiny_weights: Path, tmp_path: Path) -> None:
    before = tiny_weights.read_bytes()
    with pytest.raises(ConfigError, match="exists: calibrate writes a new file"):
        calibrate(config, tiny_weights)
    assert tiny_weights.read_bytes() == before
    for fpr in (0.0, 1.0, 1.5):
        with pytest.raises(ConfigError, match="must lie between 0 and 1"):
            dataclasses.replace(config, fpr=fpr)
    with pytest.raises(ConfigError, match="limit is -1"):
        dataclasses.replace(config, limit=-1)
    with pytest.raises(ConfigError, match=r"set data\.rendered"):
        dataclasses.replace(config, domain="drawn")
    with pytest.raises(ConfigError, match="its own semantics"):
        dataclasses.replace(config, void=VoidClassConfig(semantics="gt+pred_in_void"))
    lacking = tmp_path / "lacking.safetensors"
    source, threshold = tiny_weights.read_bytes(), b'\\"threshold\\": 0.5'
    assert source.count(threshold) == 1
    lacking.write_bytes(source.replace(threshold, b'\\"thresholt\\": 0.5'))
    with pytest.raises(WeightsError, match=r"lacking\.safetensors: .* (lacks the|unknown) field thresho"):
        calibrate(dataclasses.replace(config, weights=str(lacking)), tmp_path / "out.safetensors")


def test_scenes_without_road_write_nothing(config: CalibrationConfig, tmp_path: Path) -> None:
    roadless = make_data(tmp_path / "roadless")
    for path in (tmp_path / "roadless" / "camvid" / "val" / "labels").iterdir():
        label = read_label(path)
        cv2.imwrite(str(path), np.where(label == 3, 4, label))
    with pytest.raises(DataError, match="no road pixel in 4 images"):
        calibrate(dataclasses.replace(config, data=roadless), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_the_shipped_configuration_needs_nothing_but_the_package() -> None:
    parser = ArgumentParser()
    parser.add_class_arguments(CalibrationConfig, None, as_positional=False)
    fields = parser.instantiate(parser.parse_path(str(CONFIG)))
    config = CalibrationConfig(**{f.name: fields[f.name] for f in dataclasses.fields(CalibrationConfig)})
    assert (config.weights, config.domain, config.fpr) == ("lite", "drawn", 0.01)
    assert config.data == DataConfig(rendered=3000) and len(DrawnImages(config)) == 300
    seeds = DrawnImages(config).seeds
    assert DrawnImages(dataclasses.replace(config, limit=3)).seeds == [seeds[0], seeds[100], seeds[200]]
