"""`mgcda ladder` on made data and tiny networks: every rung once, as the paper has them, under one budget."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from mgcda_core.config import ConfigError, DissimilarityTraining, EvaluationSet, LadderConfig
from mgcda_core.training import ladder


@pytest.fixture
def config(whole_method: DissimilarityTraining) -> DissimilarityTraining:
    return whole_method


def test_the_ladder_climbs_every_rung_once_and_goes_on(
    config: DissimilarityTraining, drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loop = dataclasses.replace(config.loop, steps=1, validate_every=0, pictures_every=0)
    sets = (EvaluationSet("drive", str(drive / "images"), str(drive / "masks"), (2,)),)
    climbed = LadderConfig(dataclasses.replace(config, loop=loop), sets, seeds=(0,))
    path = ladder.climb(climbed, tmp_path / "out")
    titles = [title for title, _ in ladder.RUNGS.values()]
    lines = [line.split(" | ")[0].strip("| ") for line in path.read_text().splitlines()]
    assert lines[2:11] == titles and lines[-8:] == [title for title in titles if title != "Baseline (Mix)"]
    written = json.loads((tmp_path / "out/ladder.json").read_text())
    rows = written["rows"]
    assert len(rows) == 9
    full, mix = (next(r for r in rows if r["rung"] == title) for title in (titles[-1], titles[2]))
    assert written["differences"][-1]["drive ap"] == pytest.approx(full["drive ap"] - mix["drive ap"], abs=0.011)
    assert all(0 <= row["drive ap"] <= 100 and row["drive ap sd"] is None for row in rows)
    capsys.readouterr()
    (tmp_path / "out/runs/mdat-0/result.json").unlink()
    two = dataclasses.replace(climbed, seeds=(0, 1), rungs=("mdat",))
    ladder.climb(two, tmp_path / "out")
    said = capsys.readouterr().out
    assert said.count("ladder: mdat-0 (") == 1 and said.count("ladder: mdat-1 (") == 1 and "mgcda" not in said
    (row,) = json.loads((tmp_path / "out/ladder.json").read_text())["rows"]
    assert row["seeds"] == 2 and row["drive ap sd"] is not None
    with pytest.raises(ConfigError, match="made with another configuration"):
        ladder.climb(dataclasses.replace(two, base=dataclasses.replace(two.base, flip=0.1)), tmp_path / "out")


def test_rungs_are_the_papers(config: DissimilarityTraining) -> None:
    plan = {name: c for name, _, c in ladder.planned(LadderConfig(config, (), seeds=(0,)))}
    assert plan["baseline_v-0"].anomaly_mix is None and plan["baseline_a-0"].void_class is None
    assert plan["baseline_mix-0"].mdat is None and plan["baseline_mix-0"].cacl is None
    oda, fda, full = (plan[f"{rung}-0"].mdat for rung in ("oda", "oda_fda", "mdat"))
    assert oda and fda and full
    assert (oda.feature, oda.output, oda.dynamic) == (False, True, False)
    assert (fda.feature, fda.dynamic) == (True, False)
    assert (full.feature, full.output, full.dynamic, full.width) == (True, True, True, 0.0625)
    samplers = [plan[f"{rung}-0"].cacl for rung in ("mdat_pcl", "mdat_cpcl", "mgcda")]
    assert [c and c.sampler for c in samplers] == ["random_same_domain", "random_cross_domain", "anomaly_aware"]


def test_a_sweep_sets_one_field(config: DissimilarityTraining) -> None:
    plan = ladder.planned(LadderConfig(config, (), seeds=(0,), sweep="cacl.anchors", values=("10", "50")))
    assert [(name, c.cacl and c.cacl.anchors) for name, _, c in plan] == [
        ("cacl.anchors=10-0", 10), ("cacl.anchors=50-0", 50)
    ]  # fmt: skip
    assert [c.cacl and c.cacl.quotas() for _, _, c in plan] == [(10, 20, 20, 60), (50, 100, 100, 300)]
    levels = ladder.planned(LadderConfig(config, (), seeds=(0,), sweep="mdat.level", values=("1",)))
    assert [c.mdat and c.mdat.level for _, _, c in levels] == ["1"]
    for sweep, value, text in (
        ("cacl.anchor", "1", "no field anchor"), ("cacl.anchors", "many", "can be a int"),
        ("cacl.sampler", "foo", "one of random_same_domain"), ("", "1", "a sweep needs"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=text):
            ladder.planned(LadderConfig(config, (), sweep=sweep, values=(value,)))


def test_a_ladder_that_cannot_be_fair_is_refused(
    config: DissimilarityTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = dataclasses.replace(config, loop=dataclasses.replace(config.loop, minutes=1.0))
    with pytest.raises(ConfigError, match=r"base\.loop\.minutes"):
        ladder.climb(LadderConfig(limited, ()), tmp_path)
    with pytest.raises(ValueError, match="nowhere"):  # before anything is trained
        ladder.climb(LadderConfig(config, (EvaluationSet("x", "nowhere", "nowhere"),)), tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        ladder.climb(LadderConfig(config, ()), tmp_path)
    assert not (tmp_path / "runs").exists()
