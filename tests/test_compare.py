"""`mgcda compare` on made data and tiny networks: one start, one budget, every method once, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from training_data import AUGMENT, LOOP, make_data

from mgcda_core.bench import compare
from mgcda_core.config import (
    CompareConfig,
    ConfigError,
    DicnetTraining,
    DissimilarityTraining,
    EvaluationSet,
    OutlierConfig,
    PebalTraining,
    PerturbationConfig,
    SegmentationTraining,
    SegmenterConfig,
    StudentConfig,
    SyntheticUnknownTraining,
)
from mgcda_core.weights.resolve import load_weights, save_weights

PARTS = ("mdat", "cacl", "perturbation", "synthetic_unknown")


@pytest.fixture
def config(
    whole_method: DissimilarityTraining, tiny_weights: Path, tiny_config: SegmenterConfig, drive: Path, tmp_path: Path
) -> CompareConfig:
    """Every block but `distilled`, one step each; the third domain is the second's cache once more."""
    data = make_data(tmp_path / "data")
    loop = dataclasses.replace(LOOP, batch=2)
    chain = dataclasses.replace(
        whole_method, perturbation=PerturbationConfig(lr=1e-3),
        loop=dataclasses.replace(whole_method.loop, batch=2, validate_every=0, pictures_every=0),
    )  # fmt: skip
    weights = str(tiny_weights)
    return CompareConfig(
        weights, (EvaluationSet("drive", str(drive / "images"), str(drive / "masks"), (2,)),), seeds=(0,), images=3,
        outlier_exposure=SegmentationTraining(data, tiny_config, AUGMENT, loop, outliers=OutlierConfig()),
        pebal=PebalTraining(data, weights, augment=AUGMENT, loop=loop),
        synthetic_unknown=SyntheticUnknownTraining(data, weights, augment=AUGMENT, loop=loop),
        dicnet=DicnetTraining(data, weights, StudentConfig(4), AUGMENT, loop), chain=chain,
        unknown_domain=whole_method.anomaly_mix,
    )  # fmt: skip


def test_every_method_once_and_only_what_is_missing(
    config: CompareConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, trained = tmp_path / "out", ("outlier_exposure", "pebal", "synthetic_unknown", "dicnet", "mgcda")
    config = dataclasses.replace(config, methods=trained)
    text = compare.compare(config, out).read_text()
    written = json.loads((out / "compare.json").read_text())
    methods = [row["method"] for row in written["rows"]]
    assert methods == [*compare.UNTRAINED, *trained]
    assert all(0 <= row["drive ap"] <= 100 for row in written["rows"])
    costs = {row["method"]: row for row in written["rows"]}
    assert costs["outlier_exposure"]["gmac"] == costs["msp"]["gmac"] < costs["dicnet"]["gmac"] < costs["mgcda"]["gmac"]
    assert costs["pebal"]["parameters_m"] >= costs["msp"]["parameters_m"]
    assert {run["images"] for run in written["runs"]} == {0, 2}
    base = costs["msp"]["drive ap"]
    assert f"| PEBAL | {costs['pebal']['drive ap'] - base:+.2f} |" in text
    capsys.readouterr()
    (out / "runs/pebal-0/result.json").unlink()
    compare.compare(config, out)
    assert capsys.readouterr().out.count("compare: pebal-0 (") == 1
    with pytest.raises(ConfigError, match="made with another configuration"):
        compare.compare(dataclasses.replace(config, images=4), out)


def test_a_method_starts_and_spends_as_the_others(config: CompareConfig) -> None:
    trainings = {name: training for name, _, _, training in compare.planned(config)}
    assert trainings["fine_tuning"] == dataclasses.replace(trainings["outlier_exposure"], outliers=None)
    assert trainings["outlier_exposure"].initial == trainings["pebal"].weights == config.weights
    on = {name: [part for part in PARTS if getattr(training, part)] for name, training in trainings.items()
          if isinstance(training, DissimilarityTraining)}  # fmt: skip
    assert on == {
        "mix": [], "mgcda": ["mdat", "cacl"], "perturbation": ["cacl", "perturbation"],
        "mdat_perturbation": ["mdat", "cacl", "perturbation"], "mgcda_unknown": ["mdat", "cacl", "synthetic_unknown"],
    }  # fmt: skip
    assert trainings["mgcda_unknown"].loop.batch == 3
    assert {training.loop.steps for training in trainings.values()} == {1}


def test_what_would_not_compare_is_refused(config: CompareConfig, tmp_path: Path) -> None:
    for methods, text in (
        (("pebble",), "unknown method pebble: choose from fine_tuning"),
        (("mgcda_dicnet",), "mgcda_dicnet needs distilled"),
        (("mgcda_unknown",), "mgcda_unknown needs unknown_domain"),
    ):
        with pytest.raises(ConfigError, match=text):
            compare.planned(dataclasses.replace(config, methods=methods, unknown_domain=None))
    assert config.chain
    bare = dataclasses.replace(config, chain=dataclasses.replace(config.chain, mdat=None), methods=("mgcda",))
    with pytest.raises(ConfigError, match=r"mgcda needs chain\.mdat"):
        compare.planned(bare)
    other = load_weights(config.weights)
    state = {k: v + 1 if k.endswith("classify.bias") else v for k, v in other.state.items()}
    save_weights(tmp_path / "other.safetensors", state, other.config, "other")
    elsewhere = dataclasses.replace(config, weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(ConfigError, match="another segmentation network"):
        compare.compare(elsewhere, tmp_path / "out")
    torch.testing.assert_close(other.state, load_weights(config.weights).state)
