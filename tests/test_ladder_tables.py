"""The tables of a ladder, on results made up by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from mgcda_core.training.ladder_tables import write_tables


def _run(rung: str, seed: int, ap: float) -> dict[str, Any]:
    return {"rung": rung, "title": rung.upper(), "seed": seed, "steps": 5, "minutes": 30.0,
            "held_out": {"ap": 0.5, "fpr95": 0.25}, "scores": {"road": {"ap": ap, "fpr95": 1 - ap}}}  # fmt: skip


def test_seeds_are_averaged_and_compared_in_pairs(tmp_path: Path) -> None:
    # the seeds lie 40 points apart, the rungs 1 and 3: only the pairs show that mdat is ahead in both
    runs = [_run("baseline_mix", 0, 0.2), _run("baseline_mix", 1, 0.6), _run("mdat", 0, 0.21), _run("mdat", 1, 0.63)]
    lines = write_tables(runs, ["road"], tmp_path).read_text().splitlines()
    heads = "held-out AP | held-out FPR95 | road AP | road FPR95 |"
    assert lines[0] == f"| rung | seeds | steps | hours | {heads}"
    assert lines[2] == ("| BASELINE_MIX | 2 | 5 | 1.0 | 50.00 ± 0.00 | 25.00 ± 0.00 | 40.00 ± 28.28 | 60.00 ± 28.28 |")
    assert lines[5] == "Difference to BASELINE_MIX of the same seed, mean (least to greatest):"
    assert lines[7] == f"| rung | seeds | {heads}"
    assert lines[9].endswith("| +2.00 (+1.00 to +3.00) | -2.00 (-3.00 to -1.00) |")
    (pair,) = json.loads((tmp_path / "ladder.json").read_text())["differences"]
    assert (pair["seeds"], pair["road ap"], pair["road ap range"]) == (2, 2.0, [1.0, 3.0])
    with (tmp_path / "ladder.csv").open(newline="") as file:
        assert [row["road ap"] for row in csv.DictReader(file)] == ["40.0", "42.0"]


def test_runs_without_a_partner_stay_out_of_the_pairs(tmp_path: Path) -> None:
    runs = [_run("baseline_mix", 0, 0.2), _run("mdat", 1, 0.5)]
    text = write_tables(runs, ["road"], tmp_path).read_text()
    assert "MDAT" in text and "Difference" not in text
    assert "±" not in text  # one seed has no spread


def test_a_sweep_is_compared_with_its_first_value(tmp_path: Path) -> None:
    runs = [_run("cacl.anchors=10", 0, 0.2), _run("cacl.anchors=50", 0, 0.5)]
    lines = write_tables(runs, ["road"], tmp_path).read_text().splitlines()
    assert "CACL.ANCHORS=10" in lines[5]
    assert lines[-1] == "| CACL.ANCHORS=50 | 1 | +0.00 | +0.00 | +30.00 | -30.00 |"


def test_no_run_yet_leaves_an_empty_table(tmp_path: Path) -> None:
    assert write_tables([], ["road"], tmp_path).read_text().count("\n") == 2
