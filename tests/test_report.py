"""The data in the HTML report against NumPy, and the page's script in node."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from report_case import NAMES, THRESHOLD, drawn, write_two

from mgcda_core.evaluation.report import SCRIPTS, level_edges, to_levels, write_report
from mgcda_core.evaluation.results import Picture, Result

FOLDER = files("mgcda_core.evaluation") / "report_page"
NODE = shutil.which("node")
needs_node = pytest.mark.skipif(NODE is None, reason="node is not installed: the page's script was not tried")


@pytest.fixture(scope="module")
def result() -> Result:
    return drawn()[0]


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return drawn()[1]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two(tmp_path_factory.mktemp("out") / "report.html")


def page_data(path: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.S)
    assert found is not None
    return json.loads(found[1])


def blob(path: Path, number: int) -> np.ndarray:
    """Pixels of an embedded image."""
    found = re.search(rf'id="blob-{number}">data:image/\w+;base64,([^<]*)</script>', path.read_text())
    assert found is not None
    pixels = cv2.imdecode(np.frombuffer(base64.b64decode(found[1]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


@pytest.mark.parametrize(
    ("score", "threshold"),
    [
        (np.random.default_rng(0).normal(0, 3, (40, 60)), 0.7),
        (np.random.default_rng(0).normal(0, 3, (40, 60)), 50.0),
        (np.random.default_rng(0).choice([0.0, 1.0], (40, 60)), 0.5),
        (np.full((40, 60), 0.25), 0.25),
        (np.where(np.eye(60) > 0, np.inf, -1.0), 0.0),
        (np.random.default_rng(0).normal(0, 3, (40, 60)), float("nan")),
    ],
    ids=["logits", "threshold above all", "saturated", "one value", "infinite", "no operating point"],
)
def test_every_slider_position_gives_the_mask_of_its_score(score: np.ndarray, threshold: float):
    score = score.astype(np.float32)
    edges = level_edges([score], threshold)
    levels = to_levels(score, edges)
    assert edges.shape == (255,) and (np.diff(edges) > 0).all()
    for index in range(255):
        np.testing.assert_array_equal(levels > index, score >= edges[index])
    assert np.isnan(threshold) or np.float32(threshold) in edges


def test_the_file_holds_everything_and_names_cannot_run(report: Path, pictures: list[Picture]):
    text = report.read_text()
    data = page_data(report)
    assert "&lt;b&gt;A&lt;/b&gt; &amp; B" in text and "<b>A</b>" not in text
    assert [p["name"] for p in data["results"][0]["pictures"]] == list(NAMES)
    assert "<img" not in text and "hacked=1</script>" not in text
    assert re.findall(r"(?:src|href)=\"(?!data:)[^\"]*", text) == [] and "@import" not in text and "url(" not in text
    assert "{{" not in text
    for given, kept in zip(pictures, data["results"][0]["pictures"], strict=True):
        assert given.label is not None
        np.testing.assert_array_equal(blob(report, kept["label"]), given.label)
        mask = blob(report, kept["levels"]) > data["results"][0]["operating"]
        np.testing.assert_array_equal(mask, given.score >= np.float32(THRESHOLD))
        assert kept["masked"] == pytest.approx(mask.mean())
    first, second = ([(p["image"], p["label"]) for p in r["pictures"]] for r in data["results"])
    assert first == second  # equal images are kept once


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": np.full((90, 160), np.nan, np.float32)}, r"picture frame 10: 14400 of its scores are NaN"),
        ({"label": np.zeros((9, 16), np.uint8)}, r"picture frame 10: label is \(9, 16\), its score \(90, 160\)"),
    ],
)
def test_a_bad_picture_is_named_and_the_old_report_stays(
    tmp_path: Path, result: Result, pictures: list[Picture], change: dict[str, np.ndarray], message: str
):
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(ValueError, match=message):
        write_report([result], [[replace(pictures[0], **change)]], path, "t")
    with pytest.raises(ValueError, match="not 1 and 0"):
        write_report([result], [], path, "t")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_what_is_not_a_number_becomes_null(tmp_path: Path, result: Result):
    path = write_report(
        [replace(result, ap=float("nan"), threshold=float("nan"))], [[]], tmp_path / "new" / "r.html", "t"
    )
    (found,) = page_data(path)["results"]
    assert found["ap"] is None and found["threshold"] is None and found["operating"] is None
    assert len(found["edges"]) == 255


@needs_node
def test_the_script_is_sound(tmp_path: Path):
    script = tmp_path / "page.js"
    script.write_text("\n".join((FOLDER / name).read_text() for name in SCRIPTS))
    done = subprocess.run([str(NODE), "--check", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def computed(report: Path, result: Result, pictures: list[Picture]) -> dict[str, Any]:
    """What the page's arithmetic gives for the first picture, in node."""
    data, label = page_data(report), pictures[0].label
    assert result.curves is not None and label is not None
    case = {
        "data": data,
        "levels": blob(report, data["results"][0]["pictures"][0]["levels"]).ravel().tolist(),
        "labels": label.ravel().tolist(),
        "width": 160,
        "orders": ["alarms", "missed", "ap", "masked", "set", "name"],
        "thresholds": [result.curves.threshold[30], sum(result.curves.threshold[30:32]) / 2, 1e9, -1e9],
    }
    command = [
        str(NODE),
        str(Path(__file__).with_name("report_page_check.mjs")),
        *map(str, map(FOLDER.joinpath, SCRIPTS[:2])),
    ]
    done = subprocess.run(command, input=json.dumps(case), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_counts_at_every_threshold_are_numpys(computed: dict[str, Any], result: Result, pictures: list[Picture]):
    score, label = pictures[0].score, pictures[0].label
    edges = level_edges([p.score for p in pictures], result.threshold)
    for index, found in enumerate(computed["masks"]):
        mask = score >= edges[index]
        assert found["normal"] == (mask & (label == 0)).sum()
        assert found["anomalous"] == (mask & (label == 1)).sum()
        assert found["ignored"] == (mask & (label == 255)).sum()
        assert found["share"] == pytest.approx(mask.mean())


@needs_node
def test_drawing(computed: dict[str, Any], pictures: list[Picture], report: Path):
    score, label = pictures[0].score, pictures[0].label
    assert label is not None
    near, far = (cv2.dilate((label == 1).astype(np.uint8), np.ones((k, k), np.uint8)) for k in (3, 5))
    rings = np.where(label == 1, 0, np.where(near > 0, 1, np.where(far > 0, 2, 0)))
    np.testing.assert_array_equal(np.reshape(computed["rings"], label.shape), rings)

    drawn = {name: np.reshape(computed[name], (*label.shape, 3)) for name in ("mask", "truth", "ignored", "score")}
    changed = {name: (layer != 40).any(axis=-1) for name, layer in drawn.items()}
    np.testing.assert_array_equal(changed["mask"], score >= np.float32(THRESHOLD))
    np.testing.assert_array_equal(changed["truth"], rings > 0)
    np.testing.assert_array_equal(changed["ignored"], label == 255)
    hit, alarm = drawn["mask"][changed["mask"] & (label == 1)], drawn["mask"][changed["mask"] & (label == 0)]
    assert (hit[:, 2] > hit[:, 0]).all() and (alarm[:, 0] > alarm[:, 2]).all()  # blue, orange

    data = page_data(report)
    colours = np.frombuffer(bytes.fromhex(data["colours"]), np.uint8).reshape(256, 3).astype(int)
    edges = np.array(data["results"][0]["edges"])
    expected = colours[np.rint(255 / (1 + np.exp(-np.clip(score, edges[0], edges[-1])))).astype(int)]
    assert np.abs(drawn["score"] - expected).max() <= 12  # half a level of the slider


@needs_node
def test_orders_put_the_worst_first(computed: dict[str, Any], pictures: list[Picture]):
    alarms = sorted(pictures, key=lambda p: -p.row.false_positive_pixels)
    masked = sorted(pictures, key=lambda p: -int((p.score >= np.float32(THRESHOLD)).sum()))
    assert computed["orders"]["alarms"] == [p.name for p in alarms]
    assert computed["orders"]["masked"] == [p.name for p in masked]
    assert computed["orders"]["missed"] == [NAMES[i] for i in (2, 1, 0, 3)]
    assert computed["orders"]["ap"] == [NAMES[i] for i in (3, 0, 2, 1)]  # none comes last
    assert computed["orders"]["set"] == list(NAMES)
    assert computed["orders"]["name"].index("frame 9") < computed["orders"]["name"].index("frame 10")


@needs_node
def test_figures(computed: dict[str, Any], result: Result):
    curves = result.curves
    assert curves is not None
    at, between, above, below = computed["curve"]
    assert at["recall"] == pytest.approx(curves.recall[30], rel=1e-5)
    assert at["fallOut"] == pytest.approx(curves.false_positive_rate[30], rel=1e-5)
    assert at["precision"] == pytest.approx(curves.precision[30], rel=1e-5)
    assert between["recall"] == pytest.approx((curves.recall[30] + curves.recall[31]) / 2, rel=1e-4)
    assert above == {"precision": None, "recall": 0, "fallOut": 0} and below["recall"] == below["fallOut"] == 1
    assert computed["best"] == [[True, False], [False, True], [False, False]]
    assert computed["groups"] == [["model", "maxlogit"]]
    assert computed["texts"] == ["0.500", "0.99909", "0.00091", "1", "-0.123", "45.7 %", "0.012 %", "\u2013"]
    assert computed["ticks"] == [
        ["0.0", "0.5", "1.0"],
        ["0", "10", "20", "30"],
        ["0.5", "0.01", "0.99", "0.1", "0.9"],
    ]
