"""The reliability diagram of `mgcda calibrate`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mgcda_core.evaluation.calibration import OperatingPoint, Reliability

FEWEST = 100
"""Pixels below which a point of a curve is left out: its share would be noise."""


def draw_reliability(
    path: Path,
    title: str,
    raw: tuple[Reliability, Reliability],
    scaled: tuple[Reliability, Reliability] | None,
    point: OperatingPoint,
) -> None:
    """Write a PNG: share of anomalous pixels over the score, as it is and scaled; below, how many pixels have which.

    On the diagonal a score is the probability of being anomalous; below it, it claims too much. Each pair is the
    reliability in the bins of its error (markers) and in narrow ones of equal width (line). Folders are made.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 7.2), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    figure.suptitle(title, fontsize=9, wrap=True)
    upper.plot((0, 1), (0, 1), color="0.6", linewidth=1, linestyle="--", label="calibrated")
    looks = (("tab:blue", "o", "score"), ("tab:green", "s", "temperature and bias, other half"))
    for (binned, narrow), (colour, marker, name) in zip((raw, scaled) if scaled else (raw,), looks, strict=False):
        kept = np.array(narrow.pixels) >= FEWEST
        upper.plot(np.array(narrow.score)[kept], np.array(narrow.anomalous)[kept], color=colour, linewidth=1)
        label = f"{name}: ECE {100 * binned.ece:.2f} %"
        upper.plot(binned.score, binned.anomalous, marker, color=colour, markersize=5, label=label)
    low, high = point.threshold_interval or (point.threshold, point.threshold)
    for axes in (upper, lower):
        axes.axvspan(low, high, color="tab:red", alpha=0.15, linewidth=0)
        axes.axvline(point.threshold, color="tab:red", linewidth=1)
        axes.grid(color="0.9")
    upper.plot((), (), color="tab:red", label=f"threshold for {100 * point.fpr_wanted:.3g} % of the road")
    upper.set(ylabel="share of anomalous pixels", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9)
    score, share, pixels = (np.array(values) for values in (raw[1].score, raw[1].anomalous, raw[1].pixels))
    lower.plot(score, pixels * (1 - share), color="0.4", label="normal")
    lower.plot(score, pixels * share, color="tab:orange", label="anomalous")
    lower.set(xlabel="score", ylabel="pixels", yscale="log")
    lower.legend(fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
