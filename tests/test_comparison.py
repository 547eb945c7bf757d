"""Tables of results: what stands in them, in four forms."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest

from mgcda_core.evaluation.comparison import line, notes, table, write_results
from mgcda_core.evaluation.results import ComponentScores, ImageRow, Result, SegmentationScores

VALUES = {"normal": [1], "anomaly": [*range(2, 201), 250], "ignore": []}


def result(**changes: object) -> Result:
    fields = {
        "set": "laf", "dataset": "lost_and_found", "split": "test", "protocol": "fishyscapes",
        "fpr95_convention": "first_ge", "label_values": VALUES, "weights": "lite", "weights_sha256": "ab",
        "score": "model", "images": 10, "pixels": 1000, "anomaly_fraction": 0.0123, "ap": 0.25, "fpr95": 0.5,
        "auroc": 0.75, "reason": None, "ap_interval": (0.2, 0.3), "fpr95_interval": None, "auroc_interval": None,
        "ap_bound": 0.0, "fpr95_bound": 0.0, "threshold": 1.5, "components": None, "segmentation": None,
        "seconds": 2.0, "rows": (ImageRow("a", 100, 3, 0.1, 0.2, 0.3, 4, 1, 0, 0),), "threshold_source": "as given",
    }  # fmt: skip
    return Result(**{**fields, **changes})  # type: ignore[arg-type]


WITHOUT = result(score="msp", ap=None, fpr95=None, auroc=None, reason="no positives among the counted pixels",
                 ap_interval=None, threshold=math.inf, anomaly_fraction=0.0)  # fmt: skip
COMPONENTS = ComponentScores("obstacle", 1.5, 0.5, 0.25, math.nan, {"0.25": 0.5}, 4, 0)


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in text.splitlines()]


def test_one_line_says_what_was_measured_in_percent() -> None:
    assert line(result()) == (
        "laf: score=model images=10 AP=25.00 [20.0, 30.0] FPR95=50.00 AUROC=75.00 (percent, 1000 pixels, 1.23 % "
        "anomalous) in 2.0 s"
    )
    assert "AP=n/a (no positives among the counted pixels) FPR95=n/a" in line(WITHOUT)
    assert "mean F1=50.00 sIoU=25.00 PPV=n/a" in line(result(components=COMPONENTS))


def test_the_table_is_aligned_markdown() -> None:
    text = table([result(), WITHOUT])
    assert len({len(row) for row in text.splitlines()}) == 1
    head, rule, first, second = cells(text)
    assert head == ["set", "weights", "score", "images", "anomalous", "AP", "FPR95", "AUROC"]
    assert all(set(cell) == {"-"} for cell in rule)
    assert first == ["laf", "lite", "model", "10", "1.23", "25.00 [20.0, 30.0]", "50.00", "75.00"]
    assert second[5:] == ["n/a (no positives among the counted pixels)", "n/a", "n/a"]


def test_columns_appear_where_a_result_has_them() -> None:
    scores = SegmentationScores(0.5, 0.4, {}, {})
    head, _, first, second = cells(table([result(components=COMPONENTS), result(segmentation=scores)]))
    assert head[-5:] == ["mean F1", "sIoU", "PPV", "mIoU", "open mIoU"]
    assert first[-5:] == ["50.00", "25.00", "n/a", "", ""]
    assert second[-5:] == ["", "", "", "50.00", "40.00"]


def test_notes_name_the_rules_of_a_set_once_and_what_is_special() -> None:
    said = notes([result(), result(score="msp", ap_bound=0.002, left_out=3)])
    assert said[0].startswith("[low, high]: 95 %")
    assert said[1] == (
        "laf: protocol fishyscapes (pooled at the images' own size; FPR at the first recall >= 95 %), lost_and_found, "
        "split test, 10 images, label values: normal 1, anomaly 2-200,250, ignore none"
    )
    assert said[2] == "laf, lite, model: logit threshold 1.5 (as given); 4.12 % of the normal pixels are masked"
    assert "AP is off by at most 0.2 points" in said[3]
    assert "3 of 10 images lack one label" in said[3]
    assert len(said) == 4
    assert "masked" not in notes([result(threshold=math.inf)])[-1]


def test_one_result_is_written_as_it_is_and_several_as_a_list(tmp_path: Path) -> None:
    one, many = tmp_path / "new" / "one.json", tmp_path / "many.json"
    write_results([result()], one, None, None, several=False)
    written = json.loads(one.read_text())
    assert (written["ap"], written["label_values"], written["rows"][0]["name"]) == (0.25, VALUES, "a")
    assert "curves" not in written
    write_results([result(components=COMPONENTS), WITHOUT], many, None, None, several=True)
    text = many.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    first, second = json.loads(text)["results"]
    assert (first["components"]["ppv"], second["threshold"], second["ap"]) == (None, None, None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["many.json", "new"]


def test_csv_holds_fractions_and_intervals(tmp_path: Path) -> None:
    write_results([result(components=COMPONENTS), WITHOUT], None, tmp_path / "t.csv", None, several=True)
    with (tmp_path / "t.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert float(first["ap"]) == 0.25
    assert (float(first["ap_low"]), float(first["ap_high"])) == (0.2, 0.3)
    assert (first["track"], first["anomaly_values"], first["protocol"]) == ("obstacle", "2-200,250", "fishyscapes")
    assert (second["ap"], second["threshold"], second["mean_f1"]) == ("", "", "")
    assert second["reason"].startswith("no positives")


def test_markdown_is_the_table_with_its_notes(tmp_path: Path) -> None:
    write_results([result(), WITHOUT], None, None, tmp_path / "t.md", several=True)
    text = (tmp_path / "t.md").read_text()
    assert text.startswith(table([result(), WITHOUT]))
    assert text.count("\n* ") == len(notes([result(), WITHOUT]))


@pytest.mark.parametrize(("values", "text"), [([], "none"), ([3], "3"), ([0, 1, 3], "0-1,3"), ([0, 2, 4], "0,2,4")])
def test_label_values_are_shortened(values: list[int], text: str) -> None:
    assert f"normal {text}, " in notes([result(label_values={"normal": values, "anomaly": [9], "ignore": []})])[1]
