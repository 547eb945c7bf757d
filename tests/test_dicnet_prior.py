"""The student's error as the fourth map of the prior: absent by default, cached, trained on, exported."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training_data import AUGMENT, LOOP, make_data

from mgcda_core.bench.parts import parts
from mgcda_core.cli_arguments import config_arguments
from mgcda_core.config import (
    PRIORS,
    PROFILES,
    ConfigError,
    DicnetTraining,
    DissimilarityConfig,
    DissimilarityTraining,
    PrepareConfig,
    SegmenterConfig,
    StudentConfig,
)
from mgcda_core.evaluation.scorers import open_scorer
from mgcda_core.export.command import export
from mgcda_core.inference.predictor import load
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.training import dicnet, dissimilarity
from mgcda_core.training.cache import CachedDomain, StaleCacheError
from mgcda_core.training.prepare import frozen_sha256, load_frozen, prepare
from mgcda_core.weights.resolve import Weights, WeightsError, load_weights


@dataclasses.dataclass(frozen=True)
class Trained:
    """Two steps of the student, its chain's cache of domain A, two steps of the comparison on it."""

    student: Path
    frozen: str
    cache: Path
    run: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> Trained:
    root = tmp_path_factory.mktemp("trained")
    data, frozen = make_data(root), str(root / "student" / dicnet.FROZEN)
    dicnet.train(DicnetTraining(data, str(tiny_weights), StudentConfig(4), AUGMENT, LOOP), root / "student")
    cache = prepare(PrepareConfig(data, frozen, augment=AUGMENT, device="cpu"), root / "cache")
    dissimilarity.train(DissimilarityTraining(frozen, anomaly_mix=str(cache), loop=LOOP), root / "run")
    return Trained(root / "student", frozen, cache, root / "run")


def test_without_distillation_the_chain_holds_nothing_of_it(tiny_config: SegmenterConfig) -> None:
    plain, more = chain_of(tiny_config).state_dict(), chain_of(four(tiny_config)).state_dict()
    assert not any(key.startswith("student.") for key in plain)
    assert {key.split(".")[0] for key in more.keys() - plain.keys()} == {"student"}
    changed = [key for key, value in plain.items() if more[key].shape != value.shape]
    assert changed == ["dissimilarity.prior_encoder.hidden_layers.0.0.weight"]


@pytest.mark.parametrize("scaling", ["fixed", "reference"])
def test_the_fourth_map_is_the_students_error_and_the_others_stay(tiny_config: SegmenterConfig, scaling: str) -> None:
    perceptual = "vgg19" if scaling == "reference" else "segmentation"
    network = dataclasses.replace(tiny_config.dissimilarity, size=(32, 64))
    config = dataclasses.replace(tiny_config, scaling=scaling, perceptual=perceptual, dissimilarity=network)
    plain, chain = chain_of(config), chain_of(four(config))
    chain.load_state_dict({k: v for k, v in plain.state_dict().items() if "dissimilarity" not in k}, strict=False)
    image = torch.randint(0, 256, (1, 3, 64, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        prior, known = chain.stages(image).prior, plain.stages(image).prior
        x = chain.segmentation_input(chain.resized(image))
        error = chain.student(x, chain.segmentation.outputs(x)[2])  # pyright: ignore[reportCallIssue]
    error = F.interpolate(error, (32, 64), mode="bilinear")
    torch.testing.assert_close(prior[:, :3], known)
    torch.testing.assert_close(prior[:, 3:], error / (1 + error))


def test_a_cache_of_the_frozen_chain_holds_four_maps(trained: Trained, tmp_path: Path) -> None:
    prior = CachedDomain(trained.cache, load_frozen(trained.frozen)[1])[0]["prior"]
    assert prior.shape == (4, 64, 128)
    assert 0 < prior[3].min() < prior[3].max() < 1
    assert list(parts(trained.cache).scores) == [*PRIORS, "RGB"]
    plain = dataclasses.replace(load_weights(trained.frozen).config.dissimilarity, prior=PRIORS[:3])
    training = DissimilarityTraining(trained.frozen, anomaly_mix=str(trained.cache), dissimilarity=plain, loop=LOOP)
    with pytest.raises(StaleCacheError, match=r"cache holds 4 uncertainty maps, the dissimilarity network takes 3"):
        dissimilarity.train(training, tmp_path / "plain")


def test_the_trained_chain_scores_by_its_student_too_and_passes_the_exports_gate(
    trained: Trained, tmp_path: Path, frames: list[np.ndarray]
) -> None:
    image = frames[0]
    chain, direct = (open_scorer(weights, "dicnet", "cpu")[0](image) for weights in (trained.run, trained.student))
    np.testing.assert_allclose(chain, direct, rtol=0.05, atol=0.01)  # the chain's networks are stored in half
    (tmp_path / "frames").mkdir()
    cv2.imwrite(str(tmp_path / "frames" / "a.png"), image[..., ::-1])
    artefact = export(tmp_path / "out", str(trained.run), size=image.shape[:2], check=tmp_path / "frames")
    again = load(artefact, backend="onnxruntime")(image)
    np.testing.assert_allclose(again.score, load(trained.run, backend="torch")(image).score, atol=1e-4)


def test_the_sum_of_frozen_networks_is_what_it_was_and_a_student_changes_it() -> None:
    state = {"segmentation.a": torch.arange(6.0).view(2, 3), "generator.b": torch.ones(2)}
    weights = Weights(state, PROFILES["lite"], "made", "", Path("made"), {})
    # From before there were students: caches are tied to their weights by it.
    assert frozen_sha256(weights) == "3f41bda88990f6facc6be43aba19153ba17a6d10b2e5f9fab748925730540f82"
    assert frozen_sha256(dataclasses.replace(weights, config=four(weights.config))) == frozen_sha256(weights)
    student = {"student.c": torch.ones(2)}
    assert frozen_sha256(dataclasses.replace(weights, state=state | student)) != frozen_sha256(weights)


def test_the_prior_is_a_list_on_the_command_line(tmp_path: Path) -> None:
    path, prior = tmp_path / "c.yaml", "[entropy, perceptual, distance, distillation]"
    path.write_text(f"weights: w\nanomaly_mix: a\ndissimilarity: {{prior: {prior}}}\n")
    words = ["--config", str(path), "--run", "r"]
    assert config_arguments("train dissimilarity", words)["config"].dissimilarity.prior == PRIORS
    words += ["--dissimilarity.prior", "[]"]
    assert config_arguments("train dissimilarity", words)["config"].dissimilarity.prior == ()


def test_what_does_not_go_together_is_one_sentence(trained: Trained) -> None:
    with pytest.raises(ConfigError, match=r"dissimilarity\.prior is \[distillation\]: give \[entropy, perceptual, dis"):
        DissimilarityConfig(prior=("distillation",))
    with pytest.raises(WeightsError, match="lacks generator, style_encoder: give the weights of mgcda train synthesis"):
        load_frozen(str(trained.student))


def chain_of(config: SegmenterConfig) -> AnomalySegmenter:
    torch.manual_seed(0)
    return AnomalySegmenter(config).eval()


def four(config: SegmenterConfig) -> SegmenterConfig:
    """The same chain with the student's error in its prior."""
    network = dataclasses.replace(config.dissimilarity, prior=PRIORS)
    return dataclasses.replace(config, dissimilarity=network, student=StudentConfig(4))
