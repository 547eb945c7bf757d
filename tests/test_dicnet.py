"""DiCNet: what a student learns and what it cannot, its training, and its score on the published sets."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, only_error
from dicnet_case import BALL, Distilled, distil, street, train_teacher, write_published
from safetensors.torch import load_file
from training_data import AUGMENT, LOOP, make_data

from mgcda_core.config import DicnetTraining, SegmentationConfig, SegmenterConfig, StudentConfig
from mgcda_core.evaluation.pixel_metrics import exact
from mgcda_core.evaluation.scorers import open_scorer
from mgcda_core.models.direct_segmenter import DirectSegmenter
from mgcda_core.training import dicnet
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import load_scenes
from mgcda_core.weights.resolve import WeightsError, load_weights

UNSEEN = range(1000, 1008)
"""Seeds of streets nobody was trained on."""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Path:
    """A segmentation network that knows balls."""
    return train_teacher(tmp_path_factory.mktemp("teacher"), tiny_weights)


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory, teacher: Path) -> Distilled:
    """A student that never saw a ball."""
    return distil(tmp_path_factory.mktemp("without"), teacher, balls=False)


def test_the_student_converges_on_what_it_saw_and_differs_on_the_class_left_out(
    distilled: Distilled, teacher: Path, tmp_path: Path
) -> None:
    assert distilled.losses[0] > 1  # 1: it knows but the mean of every channel
    assert np.mean(distilled.losses[-4:]) < distilled.losses[0] / 5
    scenes = [street(seed, balls=True) for seed in UNSEEN]
    balls = np.stack([scene.label == BALL for scene in scenes])
    control = distil(tmp_path, teacher, balls=True)
    without, shown = (
        np.stack([score(scene.image) for scene in scenes])
        for score in (open_scorer(run, "dicnet", "cpu")[0] for run in (distilled.run, control.run))
    )
    left_out, seen = (exact(errors, balls.astype(np.uint8))["auroc"] for errors in (without, shown))
    assert left_out is not None and seen is not None
    assert left_out > 0.9 > 0.8 > seen
    assert without[~balls].mean() < 0.4 < 1 < without[balls].mean()
    assert shown[balls].mean() < without[balls].mean() / 3  # balls are not hard, but were left out


def test_the_student_alone_is_trained_and_the_norm_is_the_teachers(distilled: Distilled, teacher: Path) -> None:
    made, start = load_weights(distilled.run), load_weights(teacher)
    assert made.config.score == "distillation"
    assert {k.split(".")[0] for k in made.state} == {"segmentation", "student"}
    assert all(torch.equal(v, start.state[k]) for k, v in made.state.items() if k.startswith("segmentation."))
    for name in ("running_mean", "running_var"):
        assert torch.equal(made.state[f"student.norm.{name}"], start.state[f"segmentation.head.norm.{name}"])
    assert not (distilled.run / dicnet.FROZEN).exists()  # there was no synthesis to go with it


def test_a_teacher_without_a_norm_is_measured(tmp_path: Path) -> None:
    config = SegmentationConfig(architecture="enet", width=4, size=(64, 128), normalise="unit")
    torch.manual_seed(0)
    chain = DirectSegmenter(SegmenterConfig(score="distillation", segmentation=config, student=StudentConfig(4)))
    samples = SceneSamples(load_scenes(make_data(tmp_path), "train"), AUGMENT, 0)
    chain.eval().student.norm.load_state_dict(dicnet.normalisation(chain, samples), strict=False)
    images = torch.stack([samples[number][0] for number in range(dicnet.MEASURED)])
    with torch.no_grad():
        features = chain.segmentation.outputs(chain.segmentation_input(chain.resized(images)))[2]  # pyright: ignore
        normalised = chain.student.norm(features)
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-3
    variance = features.var((0, 2, 3), correction=0)
    expected = variance / (variance + chain.student.norm.eps)
    torch.testing.assert_close(normalised.var((0, 2, 3), correction=0), expected, atol=1e-3, rtol=0)


def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path, tiny_weights: Path) -> None:
    config = DicnetTraining(make_data(tmp_path), str(tiny_weights), StudentConfig(4), AUGMENT, LOOP)
    dicnet.train(config, tmp_path / "whole")
    stopped = dataclasses.replace(config, loop=dataclasses.replace(LOOP, minutes=1e-9))
    dicnet.train(stopped, tmp_path / "broken")
    first = load_file(tmp_path / "broken" / "weights.safetensors")
    dicnet.train(config, tmp_path / "broken", resume=True)
    whole, resumed = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "broken"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert any(not torch.equal(first[key], resumed[key]) for key in whole)


@pytest.mark.parametrize("dataset", ["streethazards", "bdd_anomaly"])
def test_published_sets_are_judged_by_image_and_pooled(
    distilled: Distilled, tmp_path: Path, mgcda: Run, dataset: str
) -> None:
    scenes = [street(seed, balls=True) for seed in UNSEEN[:2]]
    write_published(tmp_path, dataset, scenes)
    score, _ = open_scorer(distilled.run, "dicnet", "cpu")
    errors = np.stack([score(scene.image) for scene in scenes])
    labels = np.stack([scene.label == BALL for scene in scenes]).astype(np.uint8)
    each = [exact(error, label, "nearest")["ap"] for error, label in zip(errors, labels, strict=True)]
    expected = {"dicnet": np.mean(np.array(each, float)), "fishyscapes": exact(errors, labels)["ap"]}
    for protocol, ap in expected.items():
        out = tmp_path / f"{protocol}.json"
        words = ("--dataset", dataset, "--root", tmp_path, "--weights", distilled.run, "--score", "dicnet")
        code, text, error = mgcda("eval", *words, "--protocol", protocol, "--json", out, "--device", "cpu")
        assert (code, error) == (0, ""), text
        found = json.loads(out.read_text())
        assert (found["images"], found["score"]) == (2, "dicnet")
        assert found["ap"] == pytest.approx(ap, abs=0.05 if dataset == "bdd_anomaly" else 1e-4)  # JPEG moves it


def test_what_is_missing_is_one_sentence(tiny_weights: Path, tmp_path: Path, mgcda: Run) -> None:
    with pytest.raises(WeightsError, match=r"tiny\.safetensors holds no student.*mgcda train dicnet"):
        open_scorer(tiny_weights, "dicnet", "cpu")
    words = ("train", "dicnet", "--data.rendered", 2, "--weights", tiny_weights, "--run", tmp_path / "run")
    assert "set loop.validate_every and" in only_error(mgcda(*words, "--loop.validate_every", 1), code=2)
