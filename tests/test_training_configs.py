"""Every shipped YAML of a training parses through its command's own parser and says what its name promises."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcda_core.bench.compare import METHODS
from mgcda_core.bench.compare import planned as comparison
from mgcda_core.cli import COMMANDS
from mgcda_core.cli_arguments import config_arguments
from mgcda_core.config import PROFILES, CompareConfig, DissimilarityTraining, LadderConfig, PrepareConfig
from mgcda_core.training.ladder import RUNGS, planned

CONFIG = Path(__file__).parents[1] / "config"


def _training(name: str) -> DissimilarityTraining:
    return config_arguments("train dissimilarity", ["--config", str(CONFIG / name), "--run", "r"])["config"]


def _prepare(name: str) -> PrepareConfig:
    return config_arguments("prepare", ["--config", str(CONFIG / name), "--out", "c"])["config"]


def test_paper() -> None:
    paper = _training("paper.yaml")
    assert paper.dissimilarity is None  # as imported: the published size
    assert paper.loop.batch == 8 and paper.loop.steps == 50 * (2975 // 4)
    assert (paper.loop.lr, paper.loop.betas, paper.loop.power, paper.loop.weight_decay) == (1e-4, (0.5, 0.999), 0.99, 0)
    assert (paper.loop.warmup, paper.loop.ema, paper.loop.clip, paper.loop.schedule) == (0, 0, 0, "poly")
    assert paper.mdat and paper.cacl
    assert (paper.mdat.mode, paper.mdat.width, paper.mdat.stride) == ("alternate", 1.0, 1)
    assert (paper.mdat.lambda_f, paper.mdat.lambda_o, paper.cacl.weight) == (0.04, 0.06, 0.1)
    assert (paper.cacl.form, paper.cacl.sampler, paper.cacl.anchors) == ("log", "anomaly_aware", 50)


def test_paper_literal_differs_in_the_two_printed_equations_only() -> None:
    from dataclasses import replace

    paper, literal = _training("paper.yaml"), _training("paper_literal.yaml")
    assert literal.mdat and literal.cacl and paper.mdat and paper.cacl
    assert (literal.mdat.mode, literal.cacl.form) == ("joint_literal", "printed")
    assert paper == replace(
        literal, mdat=replace(literal.mdat, mode="alternate"), cacl=replace(literal.cacl, form="log")
    )


def test_synboost_original() -> None:
    synboost, data = _training("synboost_original.yaml"), _prepare("synboost_void_class.yaml")
    assert synboost.mdat is None and synboost.cacl is None and synboost.anomaly_mix is None
    assert (synboost.loop.batch, synboost.loop.schedule, synboost.loop.betas) == (4, "plateau", (0.5, 0.999))
    assert synboost.dissimilarity is None
    assert data.void.swap_known and data.void.cityscapes_ids == (5,)


def test_the_papers_domains() -> None:
    v, a = _prepare("paper_void_class.yaml"), _prepare("paper_anomaly_mix.yaml")
    assert v.domain == "void_class" and v.void.cityscapes_ids == (4, 5) and v.void.min_area == 100
    assert a.domain == "anomaly_mix" and a.data.coco and a.mix.group and a.mix.scale == (1.0, 1.0)
    assert (a.mix.p_mix, a.mix.blend, a.mix.known) == (1.0, "none", 0.0)
    for config in (v, a):
        assert config.augment.zoom == (1.0, 1.0) and config.augment.colour == 0 and config.copies == 1


def test_ladder() -> None:
    ladder: LadderConfig = config_arguments(
        "ladder", ["--config", str(CONFIG / "ladder.yaml"), "--out", "o"]
    )["config"]  # fmt: skip
    jobs = planned(ladder)
    assert len(jobs) == 3 * len(RUNGS) == 27
    assert all(job.loop.steps >= 500 and job.loop.batch == 8 for _, _, job in jobs)
    assert ladder.base.dissimilarity
    assert ladder.base.dissimilarity.width == PROFILES["lite"].dissimilarity.width
    assert {s.name: s.anomaly_values for s in ladder.sets} == {"road-anomaly21": (1,), "road-anomaly": (2,),
                                                              "fs-static": (1,)}  # fmt: skip


def test_compare() -> None:
    words = ["--config", str(CONFIG / "compare.yaml"), "--out", "o"]
    compare: CompareConfig = config_arguments("compare", words)["config"]
    jobs = comparison(compare)
    assert {name for name, *_ in jobs} == set(METHODS)
    assert len(jobs) == 2 * len(METHODS)
    assert all(3600 < t.loop.steps * t.loop.batch <= 4000 for *_, t in jobs)  # a rung's budget
    ladder = config_arguments("ladder", ["--config", str(CONFIG / "ladder.yaml"), "--out", "o"])["config"]
    assert compare.sets == ladder.sets
    two = config_arguments("compare", [*words, "--methods", "pebal,dicnet", "--seeds", "[0]"])["config"]
    assert [name for name, *_ in comparison(two)] == ["pebal", "dicnet"]


@pytest.mark.parametrize("path", sorted(CONFIG.glob("train_*.yaml")) + sorted(CONFIG.glob("prepare_*.yaml")), ids=str)
def test_the_others_parse(path: Path) -> None:
    kind = next(name for name in COMMANDS if f"{path.stem}_".startswith(f"{name.replace(' ', '_')}_"))
    folder = "--out" if kind == "prepare" else "--run"
    config_arguments(kind, ["--config", str(path), folder, "x"])
