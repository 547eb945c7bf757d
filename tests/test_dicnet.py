"""DiCNet: what a student learns and what it cannot, the score by its name, and the error as the prior's fourth map."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from command_line import Run, only_error
from dicnet_case import Distilled, distil, drawn, vehicles, write, write_published
from safetensors.torch import load_file
from training_data import AUGMENT as SMALL
from training_data import LOOP, make_data

from mgcda_core.bench.parts import parts
from mgcda_core.config import (
    PRIORS,
    PROFILES,
    ConfigError,
    DicnetTraining,
    DissimilarityConfig,
    DissimilarityTraining,
    PrepareConfig,
    SegmentationConfig,
    SegmenterConfig,
    StudentConfig,
)
from mgcda_core.evaluation.pixel_metrics import exact
from mgcda_core.evaluation.scorers import open_scorer
from mgcda_core.export.command import export
from mgcda_core.inference.predictor import load
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.models.direct_segmenter import DirectSegmenter
from mgcda_core.training import dicnet, dissimilarity
from mgcda_core.training.cache import CachedDomain, StaleCacheError
from mgcda_core.training.prepare import frozen_sha256, load_frozen, prepare
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import load_scenes
from mgcda_core.weights.resolve import Weights, WeightsError, load_weights

LEFT_OUT = range(1000, 1008)
"""Seeds of streets nobody was trained on, with their vehicles."""


@pytest.fixture(scope="module")
def distilled(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Distilled:
    """A student that never saw a vehicle."""
    return distil(tmp_path_factory.mktemp("dicnet"), tiny_weights)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, distilled: Distilled) -> tuple[Path, Path]:
    """A cache of domain A by the frozen chain with that student, and the run of two steps of the comparison on it."""
    root, frozen = tmp_path_factory.mktemp("compared"), str(distilled.run / dicnet.FROZEN)
    cache = prepare(PrepareConfig(make_data(root), frozen, augment=SMALL, device="cpu"), root / "cache")
    dissimilarity.train(DissimilarityTraining(frozen, anomaly_mix=str(cache), loop=LOOP), root / "run")
    return cache, root / "run"


def test_the_student_converges_on_what_it_saw_and_differs_on_the_class_left_out(distilled: Distilled) -> None:
    assert distilled.losses[0] > 1  # 1: it knows but the mean of every channel
    assert distilled.losses[-1] < 0.2
    score, _ = open_scorer(distilled.run, "dicnet", "cpu")
    streets = [drawn(seed) for seed in LEFT_OUT]
    errors = np.stack([score(street.image) for street in streets])
    left_out = np.stack([vehicles(street) for street in streets])
    assert errors[~left_out].mean() < 0.4
    found = exact(errors, left_out.astype(np.uint8))
    assert found["auroc"] is not None
    assert found["auroc"] > 0.8


def test_the_student_alone_is_trained_and_the_norm_is_the_teachers(distilled: Distilled) -> None:
    made, teacher = load_weights(distilled.run), load_weights(distilled.teacher)
    assert made.config.score == "distillation"
    assert {k.split(".")[0] for k in made.state} == {"segmentation", "student"}
    assert all(torch.equal(v, teacher.state[k]) for k, v in made.state.items() if k.startswith("segmentation."))
    for name in ("running_mean", "running_var"):
        assert torch.equal(made.state[f"student.norm.{name}"], teacher.state[f"segmentation.head.norm.{name}"])


def test_a_teacher_without_a_norm_is_measured(tmp_path: Path) -> None:
    config = SegmentationConfig(architecture="enet", width=4, size=(64, 128), normalise="unit")
    torch.manual_seed(0)
    chain = DirectSegmenter(SegmenterConfig(score="distillation", segmentation=config, student=StudentConfig(4)))
    samples = SceneSamples(load_scenes(make_data(tmp_path), "train"), SMALL, 0)
    chain.eval().student.norm.load_state_dict(dicnet.normalisation(chain, samples), strict=False)
    images = torch.stack([samples[number][0] for number in range(dicnet.MEASURED)])
    with torch.no_grad():
        features = chain.segmentation.outputs(chain.segmentation_input(chain.resized(images)))[2]  # pyright: ignore
        normalised = chain.student.norm(features)
    assert normalised.mean((0, 2, 3)).abs().max() < 1e-3
    variance = features.var((0, 2, 3), correction=0)
    torch.testing.assert_close(normalised.var((0, 2, 3), correction=0), variance / (variance + 1e-5), atol=1e-3, rtol=0)


def test_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path, tiny_weights: Path) -> None:
    config = DicnetTraining(make_data(tmp_path), str(tiny_weights), StudentConfig(4), SMALL, LOOP)
    dicnet.train(config, tmp_path / "whole")
    stopped = dataclasses.replace(config, loop=dataclasses.replace(LOOP, minutes=1e-9))
    dicnet.train(stopped, tmp_path / "broken")
    first = load_file(tmp_path / "broken" / "weights.safetensors")
    dicnet.train(config, tmp_path / "broken", resume=True)
    whole, resumed = (load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "broken"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    assert any(not torch.equal(first[key], resumed[key]) for key in whole)


def test_without_distillation_the_chain_holds_nothing_of_it(tiny_config: SegmenterConfig) -> None:
    plain, with_student = chain_of(tiny_config), chain_of(four(tiny_config))
    keys, more = plain.state_dict(), with_student.state_dict()
    assert {k for k in more if k not in keys} == {k for k in more if k.startswith("student.")}
    changed = [k for k, v in keys.items() if more[k].shape != v.shape]
    assert changed == ["dissimilarity.prior_encoder.hidden_layers.0.0.weight"]
    assert not keys.keys() - more.keys()


@pytest.mark.parametrize("scaling", ["fixed", "reference"])
def test_the_fourth_map_is_the_students_error_and_the_others_stay(tiny_config: SegmenterConfig, scaling: str) -> None:
    perceptual = "vgg19" if scaling == "reference" else "segmentation"
    config = dataclasses.replace(tiny_config, scaling=scaling, perceptual=perceptual)
    config = dataclasses.replace(config, dissimilarity=dataclasses.replace(config.dissimilarity, size=(32, 64)))
    plain, chain = chain_of(config), chain_of(four(config))
    chain.load_state_dict({k: v for k, v in plain.state_dict().items() if "dissimilarity" not in k}, strict=False)
    image = torch.randint(0, 256, (1, 3, 64, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        prior, known = chain.stages(image).prior, plain.stages(image).prior
        x = chain.segmentation_input(chain.resized(image))
        error = chain.student(x, chain.segmentation.outputs(x)[2])  # pyright: ignore[reportCallIssue]
    error = F.interpolate(error, (32, 64), mode="bilinear")
    assert prior.shape == (1, 4, 32, 64)
    torch.testing.assert_close(prior[:, :3], known)
    torch.testing.assert_close(prior[:, 3:], error / (1 + error))


def test_a_cache_of_the_frozen_chain_holds_four_maps(
    distilled: Distilled, compared: tuple[Path, Path], tmp_path: Path
) -> None:
    frozen, cache = str(distilled.run / dicnet.FROZEN), compared[0]
    prior = CachedDomain(cache, load_frozen(frozen)[1])[0]["prior"]
    assert prior.shape == (4, 64, 128)
    assert 0 < prior[3].min() < prior[3].max() < 1
    assert list(parts(cache).scores) == [*PRIORS, "RGB"]
    plain = dataclasses.replace(load_weights(frozen).config.dissimilarity, prior=PRIORS[:3])
    training = DissimilarityTraining(frozen, anomaly_mix=str(cache), dissimilarity=plain, loop=LOOP)
    with pytest.raises(StaleCacheError, match=r"cache holds 4 uncertainty maps, the dissimilarity network takes 3"):
        dissimilarity.train(training, tmp_path / "plain")


def test_the_trained_chain_scores_by_the_student_and_passes_the_exports_gate(
    distilled: Distilled, compared: tuple[Path, Path], tmp_path: Path
) -> None:
    run, image = compared[1], drawn(1000).image
    chain, direct = (open_scorer(weights, "dicnet", "cpu")[0](image) for weights in (run, distilled.run))
    np.testing.assert_allclose(chain, direct, rtol=0.05, atol=0.01)  # the chain's networks are stored in half
    write(tmp_path / "frames" / "a.png", image)
    artefact = export(tmp_path / "out", str(run), size=(64, 128), check=tmp_path / "frames")
    again = load(artefact, backend="onnxruntime")(image)
    np.testing.assert_allclose(again.score, load(run, backend="torch")(image).score, atol=1e-4)


def test_the_sum_of_frozen_networks_is_what_it_was_and_a_student_changes_it() -> None:
    state = {"segmentation.a": torch.arange(6.0).view(2, 3), "generator.b": torch.ones(2)}
    weights = Weights(state, PROFILES["lite"], "made", "", Path("made"), {})
    # From before there were students: caches are named by it.
    assert frozen_sha256(weights) == "3f41bda88990f6facc6be43aba19153ba17a6d10b2e5f9fab748925730540f82"
    assert frozen_sha256(dataclasses.replace(weights, config=four(weights.config))) == frozen_sha256(weights)
    student = {"student.c": torch.ones(2)}
    assert frozen_sha256(dataclasses.replace(weights, state=state | student)) != frozen_sha256(weights)


@pytest.mark.parametrize("dataset", ["streethazards", "bdd_anomaly"])
def test_published_sets_are_judged_by_image_and_pooled(
    distilled: Distilled, tmp_path: Path, mgcda: Run, dataset: str
) -> None:
    write_published(tmp_path, dataset, LEFT_OUT[:2])
    score, _ = open_scorer(distilled.run, "dicnet", "cpu")
    streets = [drawn(seed) for seed in LEFT_OUT[:2]]
    errors = np.stack([score(street.image) for street in streets])
    labels = np.stack([vehicles(street) for street in streets]).astype(np.uint8)
    each = np.mean([exact(*pair, convention="nearest")["ap"] for pair in zip(errors, labels, strict=True)])  # type: ignore
    expected = {"dicnet": each, "fishyscapes": exact(errors, labels)["ap"]}
    assert abs(expected["dicnet"] - expected["fishyscapes"]) > 1e-3
    for protocol, ap in expected.items():
        out = tmp_path / f"{protocol}.json"
        words = ("--dataset", dataset, "--root", tmp_path, "--weights", distilled.run, "--score", "dicnet")
        code, text, error = mgcda("eval", *words, "--protocol", protocol, "--json", out, "--device", "cpu")
        assert (code, error) == (0, ""), text
        found = json.loads(out.read_text())
        assert (found["images"], found["score"]) == (2, "dicnet")
        assert found["ap"] == pytest.approx(
            ap, abs=0.02 if dataset == "bdd_anomaly" else 1e-4
        )  # JPEG moves it a little


def test_what_is_missing_is_one_sentence(distilled: Distilled, tiny_weights: Path, tmp_path: Path, mgcda: Run) -> None:
    with pytest.raises(WeightsError, match=r"tiny\.safetensors holds no student.*mgcda train dicnet"):
        open_scorer(tiny_weights, "dicnet", "cpu")
    with pytest.raises(WeightsError, match="lacks generator, style_encoder: give the weights of mgcda train synthesis"):
        load_frozen(str(distilled.run))
    with pytest.raises(ConfigError, match=r"dissimilarity\.prior is \[distillation\]: give \[entropy, perceptual, dis"):
        DissimilarityConfig(prior=("distillation",))
    words = ("train", "dicnet", "--data.rendered", 2, "--weights", tiny_weights, "--run", tmp_path / "run")
    assert "set loop.validate_every and" in only_error(mgcda(*words, "--loop.validate_every", 1), code=2)


def test_the_prior_is_a_list_on_the_command_line(tmp_path: Path) -> None:
    from mgcda_core.cli_arguments import config_arguments

    path = tmp_path / "c.yaml"
    path.write_text(
        "weights: w\nanomaly_mix: a\ndissimilarity: {prior: [entropy, perceptual, distance, distillation]}\n"
    )
    words = ["--config", str(path), "--run", "r"]
    assert config_arguments("train dissimilarity", words)["config"].dissimilarity.prior == PRIORS
    words += ["--dissimilarity.prior", "[]"]
    assert config_arguments("train dissimilarity", words)["config"].dissimilarity.prior == ()


def chain_of(config: SegmenterConfig) -> AnomalySegmenter:
    torch.manual_seed(0)
    return AnomalySegmenter(config).eval()


def four(config: SegmenterConfig) -> SegmenterConfig:
    """The same chain with the student's error in its prior."""
    network = dataclasses.replace(config.dissimilarity, prior=PRIORS)
    return dataclasses.replace(config, dissimilarity=network, student=StudentConfig(4))
