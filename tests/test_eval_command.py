"""`mgcda eval`'s function: one set by flags, several by a file, what it prints and writes, wrong use."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from test_evaluation_readers import smiyc

from mgcda_core.config import ConfigError
from mgcda_core.evaluation.eval_command import evaluate_command
from mgcda_core.weights.resolve import load_weights

ISSUE_KEYS = {"ap", "fpr95", "auroc", "images", "pixels", "anomaly_fraction", "weights_sha256"}


def flags(drive: Path, tiny_weights: Path, **more: Any) -> dict[str, Any]:
    return {"images": drive / "images", "masks": drive / "masks", "anomaly_values": "2", "weights": str(tiny_weights),
            "score": "maxlogit", "bootstrap": 20, "device": "cpu", **more}  # fmt: skip


def sets_file(drive: Path, text: str = "") -> Path:
    """Two sets of the same images, named one and two, or whatever `text` says."""
    path = drive / "sets.yaml"
    entry = "- {{name: {}, images: {}, masks: {}, anomaly_values: {}}}\n"
    folders = drive / "images", drive / "masks"
    path.write_text(text or entry.format("one", *folders, 2) + entry.format("two", *folders, "[2, 3]"))
    return path


def test_one_set_prints_its_figures_and_writes_the_stable_keys(
    drive: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate_command(**flags(drive, tiny_weights, json=drive / "out" / "a.json"))
    text = capsys.readouterr().out
    assert "score=maxlogit images=4 AP=" in text
    assert "protocol fishyscapes" in text
    assert "normal 0, anomaly 2, ignore 255" in text
    written = json.loads((drive / "out" / "a.json").read_text())
    assert written.keys() > ISSUE_KEYS
    assert written["weights_sha256"] == load_weights(tiny_weights).sha256
    assert (written["dataset"], written["set"], written["images"]) == ("folder", drive.name, 4)
    assert 0 < written["ap_interval"][0] < written["ap"] < written["ap_interval"][1] < 1
    assert [row["name"] for row in written["rows"]] == ["f0", "f1", "f2", "f3"]


def test_several_sets_and_scores_become_one_table_by_set(
    drive: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {name: drive / f"t.{name}" for name in ("json", "csv", "md")}
    chosen = {"images": None, "masks": None, "anomaly_values": "1", "sets": sets_file(drive)}
    evaluate_command(**flags(drive, tiny_weights, **chosen, **paths, score="msp, maxlogit"))
    with paths["csv"].open(newline="") as file:
        rows = list(csv.DictReader(file))
    order = [("one", "msp"), ("one", "maxlogit"), ("two", "msp"), ("two", "maxlogit")]
    assert [(row["set"], row["score"]) for row in rows] == order
    assert rows[0]["ap"] == rows[2]["ap"] != rows[1]["ap"]
    assert len(json.loads(paths["json"].read_text())["results"]) == 4
    table = capsys.readouterr().out.splitlines()
    assert table[:6] == paths["md"].read_text().splitlines()[:6]
    assert [line for line in table if "two: protocol" in line and "anomaly 2-3" in line]


def test_a_published_set_goes_by_its_name(
    tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    smiyc(tmp_path, "Anomaly", "validation0001.jpg", [0, 1, 255])
    evaluate_command(dataset="smiyc_anomaly", root=tmp_path, weights=str(tiny_weights), score="msp", protocol="smiyc",
                     bootstrap=0, device="cpu", components="obstacle")  # fmt: skip
    text = capsys.readouterr().out
    assert "smiyc_anomaly: protocol smiyc" in text
    assert "split validation, 1 images" in text
    assert "obstacle track" in text


def test_a_report_is_written_with_its_pictures(
    drive: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mgcda_core.evaluation import report

    seen: list[tuple[Any, ...]] = []
    monkeypatch.setattr(report, "write_report", lambda *given: seen.append(given))
    evaluate_command(**flags(drive, tiny_weights, report=drive / "r", gallery=3))
    ((results, pictures, path, title),) = seen
    assert ([r.score for r in results], [len(p) for p in pictures]) == (["maxlogit"], [3])
    assert results[0].curves is not None
    assert path == drive / "r" / "report.html"
    assert drive.name in title


def test_a_failing_set_names_itself_and_finished_ones_stay(
    drive: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = drive / "bad"
    for name in ("images", "masks"):
        (bad / name).mkdir(parents=True)
        cv2.imwrite(str(bad / name / "f0.png"), np.full((64, 96), 7, np.uint8))
    entry = "- {{name: {}, images: {}/images, masks: {}/masks, anomaly_values: 2}}\n"
    file = sets_file(drive, entry.format("good", drive, drive) + entry.format("broken", bad, bad))
    chosen = flags(drive, tiny_weights, images=None, masks=None, anomaly_values="1", sets=file)
    with pytest.raises(ValueError, match=r"^set broken: .*f0\.png holds the value 7"):
        evaluate_command(**chosen, json=drive / "t.json")
    assert [r["set"] for r in json.loads((drive / "t.json").read_text())["results"]] == ["good"]
    assert "| good " in capsys.readouterr().out
    file.write_text(file.read_text().replace(f"{bad}/masks", f"{bad}/nowhere"))
    with pytest.raises(ValueError, match=r"^set broken: .*nowhere is not a folder"):  # before anything is scored
        evaluate_command(**chosen, csv=drive / "t.csv")
    assert not (drive / "t.csv").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": None}, "needs images and masks"),
        ({"dataset": "imagenet", "root": Path("r"), "images": None, "masks": None}, "unknown dataset imagenet"),
        ({"dataset": "road_anomaly", "images": None, "masks": None}, "needs root"),
        ({"dataset": "road_anomaly", "root": Path("r")}, "belong to dataset folder"),
        ({"score": "msp,best"}, "unknown score best: choose from model"),
        ({"score": " ,"}, "--score is empty"),
        ({"weights": ""}, "--weights is empty"),
        ({"anomaly_values": "one"}, "--anomaly_values is one"),
        ({"anomaly_values": "255"}, "named twice"),
        ({"score": "sml"}, "sml_images"),
        ({"scores": Path("x")}, "belong to protocol smiyc"),
        ({"sets": Path("x.yaml")}, "leave out the flags"),
        ({"split": "val"}, "root and split belong to a dataset with a name"),
        ({"score": "msp,sml"}, "needs --sml_images"),
        ({"csv": Path("/")}, "/ is a folder: name the file"),
        ({"report": Path(__file__)}, "is a file: name the folder"),
    ],
)
def test_wrong_use_is_said_in_one_sentence(
    drive: Path, tiny_weights: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_command(**flags(drive, tiny_weights) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a", "must hold a list of sets"),
        ("- {images: a}", "a set has no name"),
        ("- {name: a, images: b, masks: c, colour: red}", "unknown field colour; there are name, images"),
        ("- {name: a, images: b, masks: c, anomaly_values: two}", "anomaly_values of set a is 'two'"),
        ("- {name: a, images: 3, masks: c}", "images of set a is 3: give text"),
        ("- {name: a, images: b}", "set a: dataset folder needs images and masks"),
        ("- {name: a, images: b, masks: c}\n- {name: a, images: b, masks: c}", "two sets named a"),
        ("- {", "is not YAML"),
    ],
)
def test_a_wrong_file_of_sets_is_named(drive: Path, tiny_weights: Path, text: str, message: str) -> None:
    chosen = flags(drive, tiny_weights, images=None, masks=None, anomaly_values="1")
    with pytest.raises(ConfigError, match=message):
        evaluate_command(**chosen, sets=sets_file(drive, text))
