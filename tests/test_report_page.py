"""The HTML report in a real browser: clicks, keys and what its canvases show."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from chromium_check import Chromium
from report_case import NAMES, THRESHOLD, drawn, picture, write_two

from mgcda_core.evaluation.report import level_edges, write_report
from mgcda_core.evaluation.results import Picture, Result

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: the page was not tried")


@pytest.fixture(scope="module")
def result() -> Result:
    return drawn()[0]


@pytest.fixture(scope="module")
def pictures() -> list[Picture]:
    return drawn()[1]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two(tmp_path_factory.mktemp("out") / "report.html")


@needs_chromium
def test_the_page_in_a_browser(tmp_path: Path, report: Path, result: Result, pictures: list[Picture]):
    edges = level_edges([p.score for p in pictures], result.threshold)
    start = int(np.abs(edges - THRESHOLD).argmin())
    with Chromium(str(CHROMIUM), tmp_path) as page:
        page.open(report)
        page.run("document.querySelector('#cards').scrollIntoView()")  # cards out of sight stay undrawn
        page.wait("document.querySelector('.card').dataset.maskPixels !== undefined")
        assert page.run("document.title") == "<b>A</b> & B" and page.run("typeof hacked") == "undefined"
        assert sorted(page.run("[...document.querySelectorAll('.card h3')].map((h) => h.textContent)")) == sorted(NAMES)

        page.run("document.querySelector('#threshold').focus({ preventScroll: true })")
        for moves, index in ((0, start), (30, start - 30), (-60, start + 30)):
            for _ in range(abs(moves)):
                page.press("ArrowLeft" if moves > 0 else "ArrowRight", 37 if moves > 0 else 39)
            page.wait(f"document.querySelector('.card').dataset.index === '{index}'")
            assert_masks(page, pictures, float(edges[index]))
            assert ("(operating point)" in page.run("document.querySelector('#at-threshold').textContent")) == (
                moves == 0
            )
        page.click("#reset")
        page.wait(f"document.querySelector('.card').dataset.index === '{start}'")

        for order, wanted in (("ap", [3, 0, 2, 1]), ("missed", [2, 1, 0, 3])):
            page.run(f"document.querySelector('#order').value = '{order}'")
            page.run("document.querySelector('#order').dispatchEvent(new Event('change'))")
            names = page.run("[...document.querySelectorAll('.card h3')].map((h) => h.textContent)")
            assert names == [NAMES[i] for i in wanted]
        page.hover("#pr svg")
        page.wait("document.querySelector('#pr .readout').textContent.includes('lite · model: precision')")
        assert page.errors == []


@needs_chromium
def test_enlarging_choosing_and_a_phone(tmp_path: Path, report: Path):
    with Chromium(str(CHROMIUM), tmp_path, width=390, height=844, dark=True) as page:
        page.open(report)
        page.run("document.querySelector('#cards').scrollIntoView()")
        page.wait("document.querySelector('.card').dataset.index !== undefined")
        assert page.run("document.documentElement.scrollWidth <= innerWidth")
        page.run("document.querySelector('.panel-score').focus()")
        page.press("Enter", 13)
        page.wait("document.querySelector('#viewer').open && document.querySelector('.stage canvas').width === 160")
        first = page.run("document.querySelector('[data-part=name]').textContent")
        page.press("ArrowRight", 39)
        page.wait(f"document.querySelector('[data-part=name]').textContent !== {json.dumps(first)}")
        page.hover(".stage canvas")
        page.wait("document.querySelector('dialog .readout').textContent.includes('score')")
        page.press("Escape", 27)
        page.wait("!document.querySelector('#viewer').open")

        page.click(".result:nth-child(3) button")
        assert page.run("document.querySelector('#score').selectedOptions[0].textContent") == "lite · maxlogit"
        assert page.run("document.querySelector('#value').textContent") == "0.150"
        assert page.run("document.querySelector('#curves').hidden")  # this result brought none
        assert page.errors == []


@needs_chromium
def test_a_recording_opens_with_its_most_suspicious_moment(tmp_path: Path, result: Result):
    shown = [picture(number, labelled=False) for number in (1, 3, 0, 2)]
    drive = replace(result, dataset="recording", pixels=0, curves=None, ap=None, reason="no labels")
    path = write_report([drive], [shown], tmp_path / "drive.html", "A drive")
    with Chromium(str(CHROMIUM), tmp_path / "profile") as page:
        page.open(path)
        names = page.run("[...document.querySelectorAll('.card h3')].map((h) => h.textContent)")
        assert names == [p.name for p in shown]
        assert page.run("[...document.querySelectorAll('#order option')].map((o) => o.textContent)") == [
            "Most suspicious",
            "Largest share masked",
            "Name",
        ]
        assert page.errors == []


@needs_chromium
def test_a_report_without_ground_truth(tmp_path: Path, result: Result):
    bare = {"ap": None, "fpr95": None, "auroc": None, "ap_interval": None, "fpr95_interval": None}
    drive = replace(result, **bare, auroc_interval=None, reason="no labels", pixels=0, curves=None, label_values={})
    shown = [picture(number, labelled=False) for number in range(4)]
    path = write_report([drive], [shown], tmp_path / "drive.html", "A drive")
    with Chromium(str(CHROMIUM), tmp_path / "profile") as page:
        page.open(path)
        page.wait("document.querySelector('.card').dataset.maskPixels !== undefined")
        worst = max(shown, key=lambda p: int((p.score >= np.float32(THRESHOLD)).sum()))
        assert page.run("document.querySelector('.card h3').textContent") == worst.name
        assert page.run("document.querySelector('.card .note').textContent") == worst.note
        assert page.run("[...document.querySelectorAll('#order option')].map((o) => o.value)") == [
            "masked",
            "set",
            "name",
        ]
        assert page.run("document.querySelector('#curves').hidden") and page.errors == []


def assert_masks(page: Chromium, pictures: list[Picture], threshold: float) -> None:
    """The pixels the first card counts and those its canvas shows are the ones of NumPy."""
    name = page.run("document.querySelector('.card h3').textContent")
    given = next(p for p in pictures if p.name == name)
    mask = given.score >= np.float32(threshold)
    assert page.run("Number(document.querySelector('.card').dataset.maskPixels)") == mask.sum()
    near = cv2.dilate((np.asarray(given.label) == 1).astype(np.uint8), np.ones((5, 5), np.uint8))
    visible = mask & ~((near > 0) & (given.label != 1))  # elsewhere the border of the ground truth is drawn
    differing = page.run(
        "(() => { const [a, b] = ['Input', 'Mask'].map((name) => { const c = document.createElement('canvas'); "
        "[c.width, c.height] = [160, 90]; c.getContext('2d').drawImage(document.querySelector("
        "`.card canvas[data-panel=${name}]`), 0, 0); return c.getContext('2d').getImageData(0, 0, 160, 90).data; });"
        "let n = 0; for (let i = 0; i < a.length; i += 4) n += a[i] !== b[i] || a[i + 1] !== b[i + 1] || "
        "a[i + 2] !== b[i + 2]; return n; })()"
    )
    assert 0.99 * visible.sum() <= differing <= visible.sum()  # a pixel may have the mask's colour already
