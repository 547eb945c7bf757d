"""Scorers: closed forms, equality with the chain's own maps, files that hold a segmentation network alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mgcda_core.config import ConfigError, ScoreName, SegmentationConfig, SegmenterConfig
from mgcda_core.data.sample import DataError, read_rgb
from mgcda_core.evaluation.pixel_metrics import PixelMetrics
from mgcda_core.evaluation.scorers import SEGMENTATION_SCORES, UNIT_SCORES, Scorer, open_scorer
from mgcda_core.inference.predictor import load
from mgcda_core.inference.torch_backend import TorchBackend
from mgcda_core.methods.sml import MaxLogitStatistics, sml
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter, Stages
from mgcda_core.models.resize import resize_bicubic_float
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.weights.resolve import WeightsError, load_weights, save_weights

SCORES: list[ScoreName] = [score for score in get_args(ScoreName) if score != "dicnet"]  # see test_dicnet.py
CHAIN_SCORES: list[ScoreName] = [score for score in SCORES if score not in SEGMENTATION_SCORES]


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images for the statistics of sml, in two subfolders."""
    folder, rng = tmp_path_factory.mktemp("normal"), np.random.default_rng(0)
    for number in range(3):
        path = folder / f"town{number % 2}" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), cv2.resize(rng.integers(0, 256, (4, 6, 3), np.uint8), (96, 64)))
    (folder / "readme.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """Folder of a finished `mgcda train segmentation`: the tiny chain's segmentation network alone."""
    weights, run = load_weights(tiny_weights), tmp_path_factory.mktemp("runs") / "seg"
    own = {k: v for k, v in weights.state.items() if k.startswith("segmentation.")}
    save_weights(run / "weights.safetensors", own, weights.config, "seg", {"part": "segmentation"})
    return run


def opened(weights: Path, score: ScoreName, normal: Path | None = None) -> Scorer:
    return open_scorer(weights, score, "cpu", normal)[0]


def backend_of(weights: Path) -> TorchBackend:
    backend = load(weights, "cpu").backend
    assert isinstance(backend, TorchBackend)
    return backend


def stages_of(weights: Path, image: np.ndarray) -> Stages:
    with torch.inference_mode():
        return backend_of(weights).whole_chain("stages").stages(torch.from_numpy(image).permute(2, 0, 1)[None])


def resized(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(values, size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("score", SCORES)
def test_every_score_is_a_finite_map_that_its_mode_holds(
    tiny_weights: Path, normal: Path, frames: list[np.ndarray], score: ScoreName
) -> None:
    scorer = opened(tiny_weights, score, normal)
    assert scorer.mode == ("unit" if score in UNIT_SCORES else "logits")
    for image in (frames[0], frames[1][:21, :33], np.zeros((150, 260, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)):
        values = scorer(image)
        assert values.dtype == np.float32
        assert values.shape == image.shape[:2]
        assert np.isfinite(values).all()
        PixelMetrics(scorer.mode).update(values, np.zeros(values.shape, np.uint8))  # refuses what leaves [0, 1]


@pytest.mark.parametrize("factor", [1e9, 1e-9, 0.0])
def test_a_saturated_or_flat_network_gives_no_nan(
    tiny_weights: Path, normal: Path, frames: list[np.ndarray], tmp_path: Path, factor: float
) -> None:
    weights = load_weights(tiny_weights)
    keys = [f"segmentation.{k}" for k in list(backend_of(tiny_weights).model.segmentation.state_dict())[-2:]]
    state = weights.state | {k: weights.state[k] * factor for k in keys}
    save_weights(tmp_path / "w.safetensors", state, weights.config, "w")
    largest = backend_of(tmp_path / "w.safetensors").segmentation_logits(frames[0]).abs().max()
    assert largest == 0 if factor == 0 else (largest > 1e6) == (factor > 1)
    for score in SCORES:
        scorer = opened(tmp_path / "w.safetensors", score, normal)
        values = scorer(frames[0])
        assert np.isfinite(values).all(), score
        PixelMetrics(scorer.mode).update(values, np.zeros(values.shape, np.uint8))


def test_model_is_the_chain_with_its_operating_point(
    tiny_weights: Path, frames: list[np.ndarray], tmp_path: Path
) -> None:
    weights = load_weights(tiny_weights)
    median = float(np.median(load(tiny_weights, "cpu")(frames[0]).score))
    config = dataclasses.replace(weights.config, threshold=median)
    save_weights(tmp_path / "w.safetensors", weights.state, config, "w")
    scorer, sha256 = open_scorer(tmp_path / "w.safetensors", "model", "cpu")
    prediction = load(tmp_path / "w.safetensors", "cpu")(frames[0])
    np.testing.assert_array_equal(scorer(frames[0]), prediction.logits)
    assert sha256 == load_weights(tmp_path / "w.safetensors").sha256
    assert scorer.threshold is not None
    mask = scorer(frames[0]) >= scorer.threshold
    assert 0.3 < mask.mean() < 0.7
    assert (mask != prediction.mask).mean() < 1e-3  # but for the rounding of the sigmoid
    assert opened(tiny_weights, "ensemble").threshold is None


def test_ensemble_is_three_quarters_model_and_a_quarter_entropy(tiny_weights: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (64, 128, 3), np.uint8)  # the working size: nothing is resized
    logits = opened(tiny_weights, "model")(image).astype(np.float64)
    log_p = torch.log_softmax(stages_of(tiny_weights, image).segmentation_logits.double(), 1)[0].numpy()
    entropy = -(np.exp(log_p) * log_p).sum(0) / np.log(19)
    expected = 0.75 / (1 + np.exp(-logits)) + 0.25 * entropy
    np.testing.assert_allclose(opened(tiny_weights, "ensemble")(image), expected, atol=1e-5)
    larger = cv2.resize(image, (200, 90))
    stages = stages_of(tiny_weights, larger)
    p = backend_of(tiny_weights).whole_chain("compare").compare(stages).softmax(1)[:, 1:]
    expected = resize_bicubic_float(0.75 * p + 0.25 * stages.prior[:, :1], (90, 200))[0, 0]
    np.testing.assert_allclose(opened(tiny_weights, "ensemble")(larger), expected, atol=1e-5)


def test_distance_and_perceptual_are_the_maps_of_the_chain(tiny_weights: Path, frames: list[np.ndarray]) -> None:
    stages = stages_of(tiny_weights, frames[0])
    own_maps: dict[ScoreName, torch.Tensor] = {"distance": stages.distance, "perceptual": stages.perceptual_raw}
    for score, own in own_maps.items():
        expected = resized(own, (64, 96))[0, 0].numpy()
        assert expected.std() > 0
        np.testing.assert_allclose(opened(tiny_weights, score)(frames[0]), expected, atol=1e-6, err_msg=score)


def test_reference_scaling_scores_the_maps_the_comparison_sees(
    tiny_config: SegmenterConfig, tiny_weights: Path, frames: list[np.ndarray], tmp_path: Path
) -> None:
    config = dataclasses.replace(tiny_config, scaling="reference", perceptual="vgg19", entropy_weight=0.25)
    torch.manual_seed(0)
    state = AnomalySegmenter(config).state_dict() | load_weights(tiny_weights).state
    save_weights(tmp_path / "w.safetensors", state, config, "w")
    prior = resized(stages_of(tmp_path / "w.safetensors", frames[0]).prior, (64, 96))[0].numpy()
    values: dict[str, np.ndarray] = {s: opened(tmp_path / "w.safetensors", s)(frames[0]) for s in CHAIN_SCORES}
    np.testing.assert_allclose(values["perceptual"], prior[1], atol=1e-6)
    np.testing.assert_allclose(values["distance"], prior[2], atol=1e-6)
    # These weights ask for the ensemble themselves.
    np.testing.assert_allclose(1 / (1 + np.exp(-values["model"])), values["ensemble"], atol=1e-5)


def test_sml_standardises_with_the_statistics_of_the_folder(
    tiny_weights: Path, normal: Path, frames: list[np.ndarray]
) -> None:
    backend = backend_of(tiny_weights)
    images = [read_rgb(path) for path in normal.rglob("*.png")]
    assert len(images) == 3
    statistics = MaxLogitStatistics.of(torch.cat([backend.segmentation_logits(image) for image in images]))
    assert (statistics.count == 0).any()  # some class is never predicted
    score = sml(backend.segmentation_logits(frames[0]), *statistics.scale())
    expected = resized(score[:, None], (64, 96))[0, 0].numpy()
    assert expected.std() > 0
    np.testing.assert_allclose(opened(tiny_weights, "sml", normal)(frames[0]), expected, rtol=1e-4, atol=1e-4)


def test_segmentation_is_the_same_for_every_score(
    tiny_weights: Path, run: Path, normal: Path, frames: list[np.ndarray]
) -> None:
    logits = resized(backend_of(tiny_weights).segmentation_logits(frames[0]), (64, 96))
    expected = logits.argmax(1)[0].numpy()
    for scorer in (opened(tiny_weights, "model"), opened(tiny_weights, "msp"), opened(run, "sml", normal)):
        classes = scorer.segmentation(frames[0])
        assert classes.dtype == np.uint8
        assert (classes == expected).mean() > 0.999  # ties of interpolated logits


@pytest.mark.parametrize("score", SEGMENTATION_SCORES)
def test_a_run_of_the_segmentation_gives_its_baselines(
    tiny_weights: Path, run: Path, normal: Path, frames: list[np.ndarray], score: ScoreName
) -> None:
    scorer, sha256 = open_scorer(run, score, "cpu", normal)
    assert sha256 == load_weights(run / "weights.safetensors").sha256
    np.testing.assert_array_equal(scorer(frames[0]), opened(tiny_weights, score, normal)(frames[0]))


@pytest.mark.parametrize("score", CHAIN_SCORES)
def test_a_score_of_the_chain_asked_of_a_part_is_one_clear_error(run: Path, score: ScoreName) -> None:
    with pytest.raises(WeightsError) as error:
        open_scorer(run, score, "cpu")
    message = str(error.value)
    assert str(run / "weights.safetensors") in message
    assert "generator, style_encoder, dissimilarity" in message
    assert "mgcda train dissimilarity" in message
    assert len(message) < 400


def test_a_network_of_hugging_face_gives_its_baselines(
    tmp_path: Path, tiny_config: SegmenterConfig, normal: Path, frames: list[np.ndarray]
) -> None:
    own = {"model_type": "segformer", "num_labels": 19, "depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16],
           "num_attention_heads": [1] * 4, "decoder_hidden_size": 16}  # fmt: skip
    segmentation = SegmentationConfig(architecture="huggingface", huggingface=json.dumps(own), size=(64, 128))
    torch.manual_seed(0)
    network = build_segmentation(segmentation, auxiliary=False)
    state = {f"segmentation.{k}": v for k, v in network.state_dict().items()}
    config = dataclasses.replace(tiny_config, segmentation=segmentation)
    save_weights(tmp_path / "weights.safetensors", state, config, "hf", {"part": "segmentation"})
    for score in SEGMENTATION_SCORES:
        values = opened(tmp_path, score, normal)(frames[0])
        assert np.isfinite(values).all()
        assert values.std() > 0
    with pytest.raises(WeightsError, match="only a part of the chain"):
        opened(tmp_path, "model")


def test_bad_requests_are_named(tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'mps'; it must be one of model, ensemble, msp"):
        open_scorer(tiny_weights, "mps", "cpu")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigError, match="sml needs sml_images"):
        opened(tiny_weights, "sml")
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(DataError, match=f"sml_images: {folder} "):
            opened(tiny_weights, "sml", folder)
    (tmp_path / "broken.png").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"broken\.png"):
        opened(tiny_weights, "sml", tmp_path)
