"""The recorded pixel metrics against mgcda_core.evaluation.pixel_metrics (tests/golden/README.md, section 5)."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from golden_compare import Outcome
from golden_rule import rule

from mgcda_core.evaluation.pixel_metrics import exact

metric_rule: Any = importlib.import_module("synthetic_metrics")
TOLERANCE = 1e-9
_KEYS = {"AP": "ap", "FPR95": "fpr95", "AUROC": "auroc"}
_LATER = ("nearest_recall", "smiyc_pixel", "components")
_DESCRIPTION = frozenset({"crc_score", "crc_label", "label_counts", "n", "note", "fishyscapes", *_LATER})
_PARTS = frozenset({"salt", "shape", "frames", "small", "pooled"})

Pair = tuple[np.ndarray, np.ndarray]


def check(path: Path, salt: str) -> Outcome:
    """Judge the `fishyscapes` part of a metrics.json; name the parts that are not built."""
    recorded = json.loads(path.read_text())
    outcome = Outcome()
    if recorded.get("salt", salt) != salt:
        outcome.problems.append(f"salt is {recorded['salt']}, the file name says {salt}")
    outcome.problems += [
        f"unknown part {key}" for key in recorded.keys() - {"salt", "shape", "frames", "small", "pooled"}
    ]
    sets: dict[str, Mapping[str, Any]] = {}
    pairs: dict[str, Pair] = {}
    for part, names, draw in (
        ("frames", metric_rule.FRAMES, metric_rule.metric_frame),
        ("small", metric_rule.SMALL, metric_rule.metric_small),
    ):
        for name, values in recorded.get(part, {}).items():
            if name not in names:
                outcome.problems.append(f"unknown set {name}")
                continue
            sets[name], pairs[name] = values, draw(name, salt)
    if "pooled" in recorded:
        frames = [pairs.get(name) or metric_rule.metric_frame(name, salt) for name in metric_rule.FRAMES]
        sets["pooled"] = recorded["pooled"]
        pairs["pooled"] = (
            np.concatenate([score.ravel() for score, _ in frames]),
            np.concatenate([label.ravel() for _, label in frames]),
        )
    for name, values in sets.items():
        _judge(name, values, pairs[name], outcome)
    outcome.not_run = [part for part in _LATER if any(part in values for values in sets.values())]
    return outcome


def _judge(name: str, values: Mapping[str, Any], pair: Pair, outcome: Outcome) -> None:
    score, label = pair
    outcome.problems += [f"{name}: unknown value {key}" for key in values.keys() - _DESCRIPTION]
    for key, array in (("crc_score", score), ("crc_label", label)):
        if key in values and values[key] != rule.array_crc(array):
            outcome.problems.append(f"{name}: {key} is {rule.array_crc(array)}, recorded {values[key]}")
    counts = [int((label == value).sum()) for value in (0, 1, 255)]
    if values.get("label_counts", counts) != counts or values.get("n", label.size) != label.size:
        outcome.problems.append(f"{name}: label counts are {counts}")
    ours: Mapping[str, Any] = exact(score, label)
    for key, value in values.get("fishyscapes", {}).items():
        if key not in _KEYS:
            outcome.problems.append(f"{name}: unknown metric {key}")
            continue
        error = abs(float(ours[_KEYS[key]]) - float(value))
        outcome.measured.append((f"{name} {key}", error if np.isfinite(error) else np.inf, TOLERANCE))
