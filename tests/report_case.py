"""A made evaluation for the tests of the report: four drawn streets, their scores and figures."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from mgcda_core.data.rendered import render_scene
from mgcda_core.evaluation.report import write_report
from mgcda_core.evaluation.results import Curves, ImageRow, Picture, Result

NAMES = ("frame 10", "frame 9", '<img src=x onerror="hacked=1">', "</script><script>hacked=1</script>")
THRESHOLD = 0.3


def picture(number: int, labelled: bool = True) -> Picture:
    """A drawn street whose anomalies score high, with noise, and its row of figures."""
    scene = render_scene(number, size=(90, 160), anomalies=2)
    noise = np.random.default_rng(number).normal(0, 3.0, scene.anomaly.shape)
    score = cv2.GaussianBlur((4.0 * scene.anomaly - 1.0 + noise).astype(np.float32), (0, 0), 1.5)
    label = scene.anomaly.copy()
    label[:8] = 255
    alarms = int(((score >= THRESHOLD) & (label == 0)).sum())
    ap = None if number == 1 else (0.5, 0.0, 0.9, 0.2)[number]
    row = ImageRow(NAMES[number], 90 * 160, int((label == 1).sum()), ap, None, None, alarms, 3, 1, 10 * (number % 3))
    return Picture(NAMES[number], scene.image, score, label if labelled else None, row, f"at {number} s")


@cache
def drawn() -> tuple[Result, list[Picture]]:
    """Score "model" on four pictures with its true curves."""
    pictures = [picture(number) for number in range(4)]
    score = np.concatenate([p.score.ravel() for p in pictures])
    label = np.concatenate([np.ravel(p.label) for p in pictures if p.label is not None])
    at = np.linspace(score.max(), score.min(), 60).astype(np.float32)
    tp, fp = (np.array([(score[label == side] >= t).sum() for t in at]) for side in (1, 0))
    edges = np.linspace(score.min(), score.max(), 21)
    shares = [np.histogram(score[label == side], edges)[0] / (label == side).sum() for side in (0, 1)]
    columns = (at, tp / np.maximum(tp + fp, 1), tp / tp[-1], fp / fp[-1], edges, *shares)
    result = Result(
        set="drawn",
        dataset="folder",
        split="",
        protocol="fishyscapes",
        fpr95_convention="first_ge",
        label_values={"normal": [0], "anomaly": [1], "ignore": [255]},
        weights="lite",
        weights_sha256="0" * 64,
        score="model",
        images=4,
        pixels=int((label < 2).sum()),
        anomaly_fraction=float((label == 1).sum() / (label < 2).sum()),
        ap=0.5,
        fpr95=0.2,
        auroc=0.9,
        reason=None,
        ap_interval=(0.4, 0.6),
        fpr95_interval=(0.1, 0.3),
        auroc_interval=(0.8, 1.0),
        ap_bound=0.0,
        fpr95_bound=0.0,
        threshold=THRESHOLD,
        components=None,
        segmentation=None,
        seconds=1.0,
        curves=Curves(*(tuple(float(v) for v in column) for column in columns)),
    )
    return result, pictures


def write_two(path: Path) -> Path:
    """Report of two scores on one set: the second has halved scores, the worse AP, the better FPR95, no curves."""
    result, pictures = drawn()
    other = replace(result, score="maxlogit", ap=0.4, fpr95=0.1, threshold=THRESHOLD / 2, curves=None)
    halved = [replace(p, score=p.score / 2) for p in pictures]
    return write_report([result, other], [pictures, halved], path, "<b>A</b> & B")
