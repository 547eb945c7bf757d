"""Figures of a pooled curve: true and false positives cumulated over tie groups, the highest score first (spec 5.1).

Throughout, `tp` and `fp` are int [K], non-decreasing, what `score >= t` gives at falling thresholds t; they end at the
numbers of positives and negatives, both above 0 unless said otherwise.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from mgcda_core.config import Fpr95Convention


class PixelScores(TypedDict):
    """Metrics as fractions in [0, 1]; NaN, with the reason, where a set has no positives or no negatives."""

    ap: float
    fpr95: float
    auroc: float
    pixels: int
    positives: int
    reason: str | None
    ap_bound: float
    fpr95_bound: float


def pixel_scores(tp: np.ndarray, fp: np.ndarray, convention: Fpr95Convention) -> PixelScores:
    """AP (step sum, as in scikit-learn), FPR95 and AUROC (trapezoids) of a curve, empty and one-sided ones too."""
    positives, negatives = (int(tp[-1]), int(fp[-1])) if tp.size else (0, 0)
    missing = [name for name, count in (("positives", positives), ("negatives", negatives)) if not count]
    result = PixelScores(
        ap=float("nan"),
        fpr95=float("nan"),
        auroc=float("nan"),
        pixels=positives + negatives,
        positives=positives,
        reason=f"no {' and no '.join(missing)} among the counted pixels" if missing else None,
        ap_bound=0.0,
        fpr95_bound=0.0,
    )
    if not missing:
        recall, fall_out = tp / positives, fp / negatives
        result["ap"] = float(np.sum(np.diff(tp, prepend=0) * (tp / np.maximum(tp + fp, 1))) / positives)
        result["fpr95"] = float(fall_out[fpr95_index(tp, positives, convention)])
        heights = (recall + np.append(0.0, recall[:-1])) / 2.0
        result["auroc"] = float(np.sum(np.diff(fall_out, prepend=0.0) * heights))
    return result


def fpr95_index(tp: np.ndarray, positives: int, convention: Fpr95Convention) -> int:
    """Where on a curve FPR95 is read; the curve may end once it is past recall 0.95.

    first_ge: the first threshold whose recall reaches 0.95 (Fishyscapes). smiyc: the same; its rule for a recall that
    is never reached has no case here, since a whole curve ends at 1 (see `smiyc_pixel` for the tool's own bins).
    nearest: the threshold whose recall is nearest to 0.95, the lowest of equals, none below the first with recall 1
    (Hendrycks' utilities; PEBAL, DiCNet).
    """
    if convention not in ("first_ge", "nearest", "smiyc"):
        raise ValueError(f"FPR95 convention is {convention!r}; it must be first_ge, nearest or smiyc")
    recall = tp / positives
    if convention != "nearest":
        return int(np.searchsorted(recall, 0.95))
    distance = np.abs(recall[: np.searchsorted(tp, positives) + 1] - 0.95)
    return distance.size - 1 - int(np.argmin(distance[::-1]))


def ap_bound(tp: np.ndarray, fp: np.ndarray) -> float:
    """Largest |exact AP - AP| if each group holds unknown, maybe unequal scores: its best and its worst order.

    Best: the group's positives come first, as one tie. Worst: its negatives come first, then the positives one by one;
    sum_i (a + i) / (a + i + F) is bounded from below by an integral, p - F ln(1 + p / (a + F)).
    """
    positives, negatives = np.diff(tp, prepend=0), np.diff(fp, prepend=0)
    before = tp - positives
    bucketed = positives * (tp / (tp + fp))
    best = positives * (tp / np.maximum(tp + fp - negatives, 1))
    worst = positives - fp * np.log1p(positives / np.maximum(before + fp, 1))
    unsure = (positives > 0) & (positives + negatives > 1)  # a lone pixel has one order
    gap = max(np.sum((best - bucketed)[unsure]), np.sum((bucketed - worst)[unsure]))
    return float(gap / tp[-1])


def fpr95_bound(tp: np.ndarray, fp: np.ndarray, convention: Fpr95Convention) -> float:
    """Largest |exact FPR95 - FPR95| if each group holds unknown, maybe unequal scores.

    The exact threshold lies in the group where recall passes 0.95; that of the nearest recall may also lie just before
    it, or below it down to the next positive, somewhere in the next group that has one.
    """
    crossing = fpr95_index(tp, int(tp[-1]), "first_ge")
    low, high = fp[crossing] - np.diff(fp, prepend=0)[crossing], fp[crossing]
    if convention == "nearest" and tp[crossing] < tp[-1]:
        high = fp[np.searchsorted(tp, tp[crossing], side="right")]
    ours = fp[fpr95_index(tp, int(tp[-1]), convention)]
    return float(max(high - ours, ours - low) / fp[-1])


def best_f1_index(tp: np.ndarray, fp: np.ndarray) -> int:
    """The first threshold with the highest pixel F1, 2 TP / (2 TP + FP + FN)."""
    return int(np.argmax(2 * tp / (tp + fp + tp[-1])))


def thin(tp: np.ndarray, fp: np.ndarray, points: int) -> np.ndarray:
    """Indices of at most `points` + 1 groups that draw both curves: evenly spaced in recall and in FPR, both ends."""
    steps = np.linspace(0.0, 1.0, points // 2)
    return np.unique([0, *np.searchsorted(tp / tp[-1], steps), *np.searchsorted(fp / fp[-1], steps), tp.size - 1])


def shared_histogram(
    values: np.ndarray, positives: np.ndarray, negatives: np.ndarray, bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(edges [bins + 1], shares of the negatives, of the positives) over ascending `values` with their counts.

    The edges span the central 99.8 % of each side's finite values; what lies outside is in the outermost bins.
    """
    finite, ends = np.isfinite(values), []
    for counts in (negatives * finite, positives * finite):
        cumulated = np.cumsum(counts)
        ends += list(values[np.searchsorted(cumulated, cumulated[-1] * np.array([0.001, 0.999]))])
    low, high = (float(v) for v in np.nan_to_num([min(ends), max(ends)]))
    edges = np.linspace(low, high, bins + 1) if high > low else np.linspace(low - 0.5, low + 0.5, bins + 1)
    inside = np.clip(values, edges[0], edges[-1])
    shares = [np.histogram(inside, edges, weights=c / c.sum())[0] for c in (negatives, positives)]
    return edges, shares[0], shares[1]
