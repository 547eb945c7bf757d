"""Scores read off the segmentation network: their definitions, the files that hold them, and the export's gate."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from mgcda_core.config import ConfigError, SegmentationConfig, SegmenterConfig, StudentConfig
from mgcda_core.evaluation.scorers import open_scorer
from mgcda_core.export.command import export
from mgcda_core.inference.predictor import load
from mgcda_core.inference.torch_backend import TorchBackend
from mgcda_core.methods.baselines import energy, msp
from mgcda_core.models.chain import build_chain
from mgcda_core.models.direct_segmenter import DirectSegmenter, blurred
from mgcda_core.weights.resolve import load_weights, save_weights

SCORES = ("msp", "unknown", "energy", "distillation")


def direct(score: str) -> SegmenterConfig:
    segmentation = SegmentationConfig(width=8, size=(64, 128), unknown=score in ("unknown", "energy"))
    return SegmenterConfig(score=score, segmentation=segmentation, student=StudentConfig(width=4))  # type: ignore[arg-type]


def made(score: str) -> Any:
    torch.manual_seed(0)
    chain = build_chain(direct(score)).eval().requires_grad_(False)
    assert isinstance(chain, DirectSegmenter)
    return chain


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 64, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def logits_of(chain: Any, image: torch.Tensor) -> torch.Tensor:
    return chain.segmentation(chain.segmentation_input(chain.resized(image)))


@pytest.mark.parametrize("score", SCORES)
def test_each_answers_as_the_whole_chain_does(score: str, image: torch.Tensor) -> None:
    chain = made(score)
    big = F.interpolate(image.float(), (90, 200)).to(torch.uint8)
    logits, train_ids = chain.predict(big)
    assert logits.shape == (2, 90, 200)
    assert logits.dtype == torch.float32
    assert torch.isfinite(logits).all()
    assert logits.std() > 0
    assert train_ids.shape == (2, 64, 128)
    assert train_ids.dtype == torch.uint8
    torch.testing.assert_close(chain(big), logits)


def test_the_softmax_score_is_the_baseline(image: torch.Tensor) -> None:
    chain = made("msp")
    torch.testing.assert_close(chain(image).sigmoid(), msp(logits_of(chain, image)))


def test_a_pixel_two_classes_share_is_half_unknown_to_the_softmax_score() -> None:
    chain = made("msp")
    torch.nn.init.zeros_(chain.segmentation.head.classify.weight)
    with torch.no_grad():
        chain.segmentation.head.classify.bias.fill_(-50.0)[:2] = 3.0
    score = chain(torch.zeros(1, 3, 64, 128, dtype=torch.uint8)).sigmoid()
    torch.testing.assert_close(score, torch.full_like(score, 0.5))


def test_the_unknown_score_is_the_last_outputs_probability_and_no_class_is_ever_it(image: torch.Tensor) -> None:
    chain = made("unknown")
    with torch.no_grad():
        chain.segmentation.head.classify.bias[-1] = 1000.0
    logits, train_ids = chain.predict(image)
    torch.testing.assert_close(logits.sigmoid(), logits_of(chain, image).softmax(1)[:, -1])
    assert (logits > 0).all()
    assert train_ids.max() < 19


def test_the_energy_is_that_of_the_classes_smoothed_and_centred_between_the_margins(image: torch.Tensor) -> None:
    chain = made("energy")
    classes = logits_of(chain, image)[:, :19]
    torch.testing.assert_close(chain(image), blurred(energy(classes)[:, None])[:, 0] + 9.0)


def test_the_blur_is_a_gaussian_of_seven_by_seven() -> None:
    impulse = torch.zeros(1, 1, 15, 15)
    impulse[0, 0, 7, 7] = 1.0
    found = blurred(impulse)[0, 0]
    row = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    np.testing.assert_allclose(found[4:11, 4:11].numpy(), np.outer(row, row) / row.sum() ** 2, rtol=1e-5)
    assert found.count_nonzero() == 49
    torch.testing.assert_close(blurred(torch.full((1, 1, 9, 9), 2.5)), torch.full((1, 1, 9, 9), 2.5))


def test_the_distillation_score_is_the_mean_squared_error_of_the_student(image: torch.Tensor) -> None:
    chain = made("distillation")
    x = chain.segmentation_input(chain.resized(image))
    features = chain.segmentation.outputs(x)[2]
    channels = features.shape[1]
    chain.student.norm.running_mean.copy_(torch.randn(channels))
    chain.student.norm.running_var.fill_(4.0)
    wanted = (features - chain.student.norm.running_mean.view(1, -1, 1, 1)) / (4.0 + chain.student.norm.eps) ** 0.5
    error = (chain.student.answer(x, wanted.shape[-2:]) - wanted).square().mean(1, keepdim=True)
    torch.testing.assert_close(chain(image)[:, None], F.interpolate(error.log(), (64, 128), mode="bilinear"))


@pytest.mark.parametrize("score", SCORES)
def test_a_file_of_it_predicts_evaluates_and_passes_the_exports_gate(score: str, tmp_path: Path) -> None:
    chain = made(score)
    path = tmp_path / f"{score}.safetensors"
    save_weights(path, chain.state_dict(), direct(score), score, {"part": "chain"})
    assert not {key.split(".")[0] for key in load_file(path)} - {"segmentation", "student"}
    image = np.random.default_rng(0).integers(0, 256, (80, 160, 3), dtype=np.uint8)
    predicted = load(path, backend="torch")(image)
    assert predicted.score.shape == (80, 160)
    scorer, _ = open_scorer(path, "model", "cpu")
    np.testing.assert_allclose(scorer(image), predicted.logits, rtol=1e-5, atol=1e-6)
    frames = tmp_path / "frames"
    frames.mkdir()
    cv2.imwrite(str(frames / "a.png"), image[..., ::-1])
    artefact = export(tmp_path / "out", str(path), size=(80, 160), check=frames)
    again = load(artefact, backend="onnxruntime")(image)
    np.testing.assert_allclose(again.score, predicted.score, atol=1e-4)


def test_what_needs_a_comparison_says_so() -> None:
    config = direct("msp")
    weights = dataclasses.replace(load_weights("lite"), state=made("msp").state_dict(), config=config, name="direct")
    with pytest.raises(ConfigError, match=r"score ensemble needs a chain with re-synthesis.*direct has score msp"):
        TorchBackend(weights, "cpu").ensemble(np.zeros((64, 128, 3), np.uint8), 0.25)
    with pytest.raises(ConfigError, match="synthesis_every 2 needs a chain"):
        TorchBackend(weights, "cpu", synthesis_every=2)


def test_the_unknown_score_needs_its_output() -> None:
    with pytest.raises(ConfigError, match=r"segmentation\.unknown"):
        SegmenterConfig(score="unknown")
