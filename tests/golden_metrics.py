"""The recorded metrics against mgcda_core.evaluation (tests/golden/README.md, section 5)."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from golden_compare import Outcome
from golden_rule import rule

from mgcda_core.config import Fpr95Convention
from mgcda_core.evaluation.component_metrics import (
    SIOU_THRESHOLDS,
    ComponentMetrics,
    Track,
    f1_score,
    match_counts,
    mean_or_nan,
)
from mgcda_core.evaluation.pixel_metrics import ExactMetrics
from mgcda_core.evaluation.smiyc_pixel import Binning, SmiycPixel

metric_rule: Any = importlib.import_module("synthetic_metrics")
TOLERANCE = 1e-9
THRESHOLD_TOLERANCE = 1e-6  # float32 edges
UNBOUNDED = "negative"  # the frame that the pooled components leave out
_KEYS = {"AP": "ap", "FPR95": "fpr95", "AUROC": "auroc"}
_SMIYC_KEYS = {
    **_KEYS,
    "FPR95_threshold": "fpr95_threshold",
    "best_F1": "best_f1",
    "best_F1_threshold": "best_f1_threshold",
}
_CONVENTIONS: dict[str, Fpr95Convention] = {"fishyscapes": "first_ge", "nearest_recall": "nearest"}
_BINNINGS: dict[str, Binning] = {"PixBinaryClass-uniThr": "uniform", "PixBinaryClass": "percentile"}
_TRACKS: dict[str, Track] = {"AnomalyTrack": "anomaly", "ObstacleTrack": "obstacle"}
_DESCRIPTION = {"crc_score", "crc_label", "label_counts", "n", "note"}
_PARTS = {*_CONVENTIONS, "smiyc_pixel", "components"}

Pair = tuple[np.ndarray, np.ndarray]


def check(path: Path, salt: str) -> Outcome:
    """Judge every figure of a metrics.json; an unknown name or a missing counterpart is a problem."""
    recorded = json.loads(path.read_text())
    outcome = Outcome()
    _known("recording", recorded, {"salt", "shape", "frames", "small", "pooled"}, outcome)
    if recorded.get("salt", salt) != salt:
        outcome.problems.append(f"salt is {recorded['salt']}, the file name says {salt}")
    shape = [metric_rule.H, metric_rule.W]
    if recorded.get("shape", shape) != shape:
        outcome.problems.append(f"shape is {recorded['shape']}, the rule's frames are {shape}")
    for part, names, draw in (
        ("frames", metric_rule.FRAMES, metric_rule.metric_frame),
        ("small", metric_rule.SMALL, metric_rule.metric_small),
    ):
        for name, values in recorded.get(part, {}).items():
            if name in names:
                _judge(name, values, [draw(name, salt)], [draw(name, salt)], outcome)
            else:
                outcome.problems.append(f"unknown set {name}")
    if "pooled" in recorded:
        frames = {name: metric_rule.metric_frame(name, salt) for name in metric_rule.FRAMES}
        bounded = [pair for name, pair in frames.items() if name != UNBOUNDED]
        _judge("pooled", recorded["pooled"], list(frames.values()), bounded, outcome)
    return outcome


def _judge(
    name: str, values: Mapping[str, Any], pairs: Sequence[Pair], of_components: Sequence[Pair], outcome: Outcome
) -> None:
    _known(name, values, _DESCRIPTION | _PARTS, outcome)
    for key, array in zip(("crc_score", "crc_label"), pairs[0], strict=True):
        if key in values and values[key] != rule.array_crc(array):
            outcome.problems.append(f"{name}: {key} is {rule.array_crc(array)}, recorded {values[key]}")
    label = np.concatenate([label.ravel() for _, label in pairs])
    counts = [int((label == value).sum()) for value in (0, 1, 255)]
    if values.get("label_counts", counts) != counts or values.get("n", label.size) != label.size:
        outcome.problems.append(f"{name}: label counts are {counts}")
    metrics = ExactMetrics()
    for pair in pairs:
        metrics.update(*pair)
    for part, convention in _CONVENTIONS.items():
        _figures(f"{name} {part}", values.get(part, {}), _KEYS, metrics.compute(convention), outcome)
    for part, recorded in values.get("smiyc_pixel", {}).items():
        if part not in _BINNINGS:
            outcome.problems.append(f"{name}: unknown metric {part}")
            continue
        binned = SmiycPixel(_BINNINGS[part])
        for pair in pairs:
            binned.update(*pair)
        _figures(f"{name} {part}", recorded, _SMIYC_KEYS, binned.compute(), outcome)
    for recorded in values.get("components", []):
        _components(name, recorded, of_components, outcome)


def _components(name: str, recorded: Mapping[str, Any], pairs: Sequence[Pair], outcome: Outcome) -> None:
    """One threshold on one track: per image, and the images counted together."""
    name = f"{name} {recorded['track']} {recorded['threshold']:.4g}"
    _known(name, recorded, {"threshold", "track", "frames", "aggregate", "f1_thresholds"}, outcome)
    track = _TRACKS[recorded["track"]]
    pooled = ComponentMetrics(track, recorded["threshold"], literal=True)
    images = []
    for pair in pairs:
        images.append(ComponentMetrics(track, recorded["threshold"], literal=True))
        images[-1].update(*pair)
        pooled.merge(images[-1])
    _series(f"{name} f1_thresholds", SIOU_THRESHOLDS, recorded.get("f1_thresholds", SIOU_THRESHOLDS), outcome)
    frames = recorded.get("frames", [])
    if frames and len(frames) != len(images):
        outcome.problems.append(f"{name}: {len(frames)} frames are recorded, there are {len(images)}")
    for image, values in zip(images, frames, strict=False):
        ours = _image_figures(image)
        _known(name, values, ours.keys(), outcome)
        for key in values.keys() & ours.keys():
            _series(f"{name} {key}", ours[key], values[key], outcome)
    _aggregate(name, pooled, recorded, outcome)


def _image_figures(metrics: ComponentMetrics) -> dict[str, Any]:
    """The recorded names of one image's series."""
    counts = match_counts(metrics.pooled("siou"), metrics.pooled("ppv"))
    tp, fn, fp = zip(*counts, strict=True)
    return {
        "sIoU_gt": metrics.pooled("siou"),
        "size_gt": metrics.pooled("size"),
        "PPV_pred": metrics.pooled("ppv"),
        "size_pred": metrics.pooled("predicted_size"),
        "TP": tp,
        "FN": fn,
        "FP": fp,
        "F1": [f1_score(*c) for c in counts],
    }


def _aggregate(name: str, metrics: ComponentMetrics, recorded: Mapping[str, Any], outcome: Outcome) -> None:
    """The public tool's summary; it fails, and null is recorded, where one side has no component."""
    scores = metrics.compute()
    if "aggregate" in recorded and recorded["aggregate"] is None:
        if scores.objects and scores.predictions:
            outcome.problems.append(f"{name}: no aggregate is recorded, but both sides have components")
        return
    counts = match_counts(metrics.pooled("siou"), metrics.pooled("ppv"))
    series = dict(zip(("tp", "fn", "fp"), np.array(counts).T, strict=True), f1=np.array(list(scores.f1.values())))
    ours = {"sIoU_gt": scores.siou, "prec_pred": scores.ppv, "sIoU_pred": mean_or_nan(metrics.pooled("predicted_siou"))}
    for key, values in series.items():
        at = {f"{t:.2f}"[2:]: v for t, v in zip(SIOU_THRESHOLDS, values, strict=True)}
        ours |= {f"{key}_{t}": float(at[t]) for t in ("25", "50", "75")} | {f"{key}_mean": float(values.mean())}
    _figures(name, recorded.get("aggregate", {}), {key: key for key in ours}, ours, outcome)
    if not np.array_equal(scores.mean_f1, ours["f1_mean"], equal_nan=True):
        outcome.problems.append(f"{name}: mean_f1 is not the mean of the F1 scores")


def _figures(
    name: str, recorded: Mapping[str, Any], keys: Mapping[str, str], ours: Mapping[str, Any], outcome: Outcome
) -> None:
    _known(name, recorded, keys.keys(), outcome)
    for key in recorded.keys() & keys.keys():
        tolerance = THRESHOLD_TOLERANCE if key.endswith("_threshold") else TOLERANCE
        outcome.measured.append((f"{name} {key}", _error(ours[keys[key]], recorded[key]), tolerance))


def _series(name: str, ours: Sequence[Any] | np.ndarray, recorded: Sequence[Any], outcome: Outcome) -> None:
    """Counts must be equal, rates within the tolerance; the order is part of it."""
    if len(ours) != len(recorded):
        outcome.problems.append(f"{name}: {len(recorded)} values are recorded, there are {len(ours)}")
        return
    exact = name.rpartition(" ")[2] in ("size_gt", "size_pred", "TP", "FN", "FP")
    errors = [_error(own, other) for own, other in zip(ours, recorded, strict=True)]
    outcome.measured.append((name, max(errors, default=0.0), 0.0 if exact else TOLERANCE))


def _error(ours: float, recorded: float | None) -> float:
    """The difference; 0 where both are undefined, infinite where one is."""
    own, other = float(ours), float("nan") if recorded is None else float(recorded)
    if np.isnan(own) and np.isnan(other):
        return 0.0
    return abs(own - other) if np.isfinite(own - other) else np.inf


def _known(name: str, values: Mapping[str, Any], keys: Any, outcome: Outcome) -> None:
    outcome.problems += [f"{name}: unknown value {key}" for key in sorted(values.keys() - keys)]
