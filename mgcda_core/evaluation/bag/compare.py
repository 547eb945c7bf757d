"""`mgcda compare-bags`: what changed between two versions' outputs on the same drive, as a regression check."""

from __future__ import annotations

import json as json_text
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from mgcda_core.config import ConfigError
from mgcda_core.evaluation.bag.answers import to_logits
from mgcda_core.evaluation.bag.figures import number, seconds_text
from mgcda_core.evaluation.bag.outputs import Outputs, RecordedOutputs
from mgcda_core.evaluation.bag.truth import Truth, anomaly_numbers, open_stamped_truth, open_truth
from mgcda_core.evaluation.pixel_metrics import PixelMetrics
from mgcda_core.inference.sources import SourceError
from mgcda_core.labels import ANOMALY

SAME_PLACE_M, SAME_PLACE_SHARE = 0.5, 0.05
"""Two hazards are one if they lie within this distance, or this share of their distance from the vehicle."""


@dataclass(frozen=True)
class Change:
    """What changed from recording a to recording b; None where it cannot be said."""

    frames: int
    """Frames both have outputs for; the figures below are theirs."""
    only_in_a: int
    only_in_b: int
    mask_iou: float | None
    """Of all masks together; None if both are empty everywhere."""
    worst_mask_iou: float | None
    worst_mask_stamp: str | None
    """Of a single frame, and the frame's stamp in seconds."""
    score_difference: float
    """Mean |score of b - score of a| over all pixels."""
    hazards_a: int
    hazards_b: int
    appeared: int
    """Hazards of b with none of a at their place in the same frame."""
    vanished: int
    ap_a: float | None
    ap_b: float | None
    labels_left_out: int
    """Labels of frames that neither recording answers."""
    fault: str | None
    """What ended the comparison early: one of the recordings was cut off."""

    @property
    def missing(self) -> int:
        """Frames that one of the two lacks."""
        return self.only_in_a + self.only_in_b

    @property
    def hazard_change(self) -> float | None:
        """Share of all hazards that appeared or vanished; None if there is none at all."""
        hazards = self.hazards_a + self.hazards_b
        return (self.appeared + self.vanished) / hazards if hazards else None

    @property
    def ap_drop(self) -> float | None:
        """By how much AP fell; negative if it rose."""
        return None if self.ap_a is None or self.ap_b is None else self.ap_a - self.ap_b


def compare_bags(
    a: Path,
    b: Path,
    labels: Path | None = None,
    anomaly_values: str = str(ANOMALY),
    json: Path | None = None,
    max_missing: int = 0,
    min_mask_iou: float = 0.98,
    min_worst_mask_iou: float = 0.0,
    max_score_difference: float = 0.005,
    max_hazard_change: float = 0.02,
    max_ap_drop: float = 0.005,
) -> None:
    """Compare two recordings of outputs on the same drive, of eval-bag or of the node; fails past a tolerance.

    Args:
        a: the outputs before: a recording with mask, score and hazards.
        b: the outputs after.
        labels: folder of masks named by stamp in nanoseconds, or a recording with /truth/anomaly, for AP; without it
            the recordings' own truth.
        anomaly_values: comma list of the mask values that mean anomaly; 0 is normal, 255 is not counted.
        json: file for the figures.
        max_missing: frames that one of the two may lack.
        min_mask_iou: least IoU of all masks together.
        min_worst_mask_iou: least IoU of the masks of a single frame; 0 asks for none.
        max_score_difference: largest mean difference of the scores.
        max_hazard_change: largest share of the hazards that may appear or vanish.
        max_ap_drop: by how much AP may fall.

    Raises ValueError naming the first figure past its tolerance, or the file, topic or stamp at fault; for a recording
    that was cut off only after the figures of what could be read are printed and written.
    """
    tolerances = {
        "max_missing": max_missing,
        "min_mask_iou": min_mask_iou,
        "min_worst_mask_iou": min_worst_mask_iou,
        "max_score_difference": max_score_difference,
        "max_hazard_change": max_hazard_change,
        "max_ap_drop": max_ap_drop,
    }
    for name, tolerance in tolerances.items():
        if not tolerance >= 0:
            raise ConfigError(f"{name} is {tolerance}; a tolerance is a number from 0 on")
    change = difference(a, b, labels, anomaly_numbers(anomaly_values))
    checks = (
        _at_most("frames missing", change.missing, max_missing),
        _at_least("mask IoU", change.mask_iou, min_mask_iou),
        _at_least("worst mask IoU", change.worst_mask_iou, min_worst_mask_iou),
        _at_most("score difference", change.score_difference, max_score_difference),
        _at_most("hazard change", change.hazard_change, max_hazard_change),
        _at_most("AP drop", change.ap_drop, max_ap_drop),
    )
    for line in _table(change, checks):
        print(line)
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_text.dumps(asdict(change), indent=2) + "\n")
    if change.fault is not None:
        raise SourceError(f"{change.fault}; {change.frames} frames compared")
    for name, value, tolerance, holds in checks:
        if not holds:
            raise ValueError(f"{b} differs from {a}: {name} is {value:.4g}, past the tolerance of {tolerance:g}")


Check = tuple[str, float | None, float, bool]
"""Figure, its value, None if there is none, its tolerance, and whether it holds."""


def _at_most(name: str, value: float | None, tolerance: float) -> Check:
    return name, value, tolerance, value is None or value <= tolerance


def _at_least(name: str, value: float | None, tolerance: float) -> Check:
    return name, value, tolerance, value is None or value >= tolerance


def difference(a: Path, b: Path, labels: Path | None = None, anomaly_values: tuple[int, ...] = (ANOMALY,)) -> Change:
    """What changed from `a` to `b`; the arguments of `compare_bags`. Raises ValueError if they share no frame."""
    before, after = RecordedOutputs(a), RecordedOutputs(b)
    if set(before.stamps).isdisjoint(after.stamps):
        raise ValueError(f"{a} and {b} have no frame with the same stamp: they are not of the same drive")
    stamps = sorted({*before.stamps, *after.stamps})
    if labels is not None:
        truth = open_stamped_truth(labels, a, stamps, anomaly_values)
    else:
        truth = open_truth(None, a, stamps, anomaly_values) or open_truth(None, b, stamps, anomaly_values)
    sums, fault = _Sums(), None
    try:
        for one, other in _joined(before, after):
            if one.score.shape != other.score.shape:
                raise ValueError(
                    f"stamp {one.stamp_ns} ns is {one.score.shape} in {a}, {other.score.shape} in {b} (height, width)"
                )
            sums.add(one, other, truth)
    except SourceError as error:
        fault = str(error)
    return Change(
        frames=sums.frames,
        only_in_a=len(set(before.stamps).difference(after.stamps)),
        only_in_b=len(set(after.stamps).difference(before.stamps)),
        mask_iou=sums.common / sums.union if sums.union else None,
        worst_mask_iou=sums.worst[0] if sums.union else None,
        worst_mask_stamp=seconds_text(sums.worst[1]) if sums.union else None,
        score_difference=sums.score_difference / sums.pixels,
        hazards_a=sums.hazards_a,
        hazards_b=sums.hazards_b,
        appeared=sums.appeared,
        vanished=sums.vanished,
        ap_a=number(sums.metrics_a.compute(), "ap"),
        ap_b=number(sums.metrics_b.compute(), "ap"),
        labels_left_out=truth.left_out if truth else 0,
        fault=fault,
    )


@dataclass
class _Sums:
    """Counts over the frames that both recordings have."""

    frames: int = 0
    pixels: int = 0
    common: int = 0
    union: int = 0
    worst: tuple[float, int] = (math.inf, 0)
    score_difference: float = 0.0
    hazards_a: int = 0
    hazards_b: int = 0
    appeared: int = 0
    vanished: int = 0
    metrics_a: PixelMetrics = field(default_factory=PixelMetrics)
    metrics_b: PixelMetrics = field(default_factory=PixelMetrics)

    def add(self, a: Outputs, b: Outputs, truth: Truth | None) -> None:
        self.frames += 1
        self.pixels += a.score.size
        common, union = int((a.mask & b.mask).sum()), int((a.mask | b.mask).sum())
        self.common += common
        self.union += union
        if union:
            self.worst = min(self.worst, (common / union, a.stamp_ns))
        self.score_difference += float(np.abs(b.score - a.score).sum(dtype=np.float64))
        self.hazards_a += len(a.hazards)
        self.hazards_b += len(b.hazards)
        same = _same_places(a.hazards, b.hazards)
        self.appeared += len(b.hazards) - same
        self.vanished += len(a.hazards) - same
        label = truth.at(a.stamp_ns, (a.score.shape[0], a.score.shape[1])) if truth else None
        if label is not None:
            self.metrics_a.update(to_logits(a.score), label)
            self.metrics_b.update(to_logits(b.score), label)


def _same_places(a: tuple[tuple[float, float], ...], b: tuple[tuple[float, float], ...]) -> int:
    """How many hazards of a and b pair up, the nearest pairs first."""
    pairs = sorted(
        (math.dist(one, other), i, j)
        for i, one in enumerate(a)
        for j, other in enumerate(b)
        if math.dist(one, other) <= max(SAME_PLACE_M, SAME_PLACE_SHARE * math.hypot(*one))
    )
    taken_a, taken_b = set[int](), set[int]()
    for _, i, j in pairs:
        if i not in taken_a and j not in taken_b:
            taken_a.add(i)
            taken_b.add(j)
    return len(taken_a)


def _joined(a: RecordedOutputs, b: RecordedOutputs) -> Iterator[tuple[Outputs, Outputs]]:
    """Outputs of the same stamp side by side, in the order of time, then the fault of one that was cut off."""
    left, right = iter(a), iter(b)
    one, other = next(left, None), next(right, None)
    while one is not None or other is not None:
        first = min(outputs.stamp_ns for outputs in (one, other) if outputs is not None)
        now_one = one if one is not None and one.stamp_ns == first else None
        now_other = other if other is not None and other.stamp_ns == first else None
        if now_one is not None and now_other is not None:
            yield now_one, now_other
        if now_one is not None:
            one = next(left, None)
        if now_other is not None:
            other = next(right, None)


def _table(change: Change, checks: tuple[Check, ...]) -> Iterator[str]:
    """What is printed: the figures against their tolerances, then what they are made of."""
    yield f"{'figure':<18}{'value':>10}{'tolerance':>12}"
    for name, value, tolerance, holds in checks:
        yield f"{name:<18}{_text(value):>10}{tolerance:>12g}  {'ok' if holds else 'PAST'}"
    yield f"frames: {change.frames} in both, {change.only_in_a} only in a, {change.only_in_b} only in b"
    if change.worst_mask_iou is not None:
        yield f"mask: worst IoU {change.worst_mask_iou:.4f} at stamp {change.worst_mask_stamp}"
    moved = f"{change.hazards_a} -> {change.hazards_b}, {change.appeared} appeared, {change.vanished} vanished"
    yield f"hazards: {'n/a' if change.hazard_change is None else moved}"
    left_out = f", {change.labels_left_out} labels of frames without an answer" if change.labels_left_out else ""
    yield f"AP: {_text(change.ap_a)} -> {_text(change.ap_b)}{left_out}"


def _text(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"
