"""A judged drive as the report's page shows it."""

from __future__ import annotations

import math
from typing import Any

from mgcda_core.evaluation.bag.figures import DriveFigures
from mgcda_core.evaluation.results import Result
from mgcda_core.labels import IGNORE, NORMAL


def drive_result(
    name: str, report: dict[str, Any], figures: DriveFigures, anomaly_values: tuple[int, ...], seconds: float
) -> Result:
    """The drive as one row of a report, `report` being the content of report.json."""
    scores = figures.model.compute()
    return Result(
        set=name,
        dataset="recording",
        split="",
        protocol="fishyscapes",
        fpr95_convention="first_ge",
        label_values={"normal": [NORMAL], "anomaly": sorted(anomaly_values), "ignore": [IGNORE]},
        weights=str(report["weights"]),
        weights_sha256=str(report["weights_sha256"]),
        score="model",
        images=figures.labelled or len(figures.rows),
        pixels=scores["pixels"],
        anomaly_fraction=scores["positives"] / scores["pixels"] if scores["pixels"] else 0.0,
        ap=report["ap"],
        fpr95=report["fpr95"],
        auroc=report["auroc"],
        reason=report["metrics_reason"],
        # Frames of a drive resemble their neighbours: intervals that take them for independent would be too narrow.
        ap_interval=None,
        fpr95_interval=None,
        auroc_interval=None,
        ap_bound=scores["ap_bound"],
        fpr95_bound=scores["fpr95_bound"],
        threshold=_logit(report["threshold"]),
        components=None,
        segmentation=None,
        seconds=seconds,
        details=_details(report),
        rows=tuple(row.image for row in figures.rows if row.image.pixels),
        curves=figures.model.curves() if scores["reason"] is None else None,
    )


def _details(report: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a drive has beside its metrics, for the report."""

    def text(key: str, scale: float, unit: str) -> str:
        return "n/a" if report[key] is None else f"{scale * report[key]:.1f} {unit}"

    frames = f"{report['frames_in']} in, {report['masks_out']} answered, {report['seconds']:.1f} s"
    figures = [
        ("Frames", frames),
        ("Latency", f"median {text('latency_p50_ms', 1, 'ms')}, 95th percentile {text('latency_p95_ms', 1, 'ms')}"),
        ("Hazards", f"{report['hazards']}, {text('hazards_per_minute', 1, 'a minute')}"),
        ("Anomalous road", text("anomalous_road", 100, "% of the road's pixels")),
        ("Flicker", text("flicker", 100, "% of the mask changes from frame to frame")),
    ]
    if report["stream_frames_without_output"] is not None:
        late = f"AP {text('stream_ap', 100, '%')}, FPR95 {text('stream_fpr95', 100, '%')}; "
        age = f"a frame's newest output is {text('stream_age_ms', 1, 'ms')} old, latency {report['stream_latency']}"
        figures.append(("Streaming", (late if report["stream_ap"] is not None else "") + age))
    if report["temporal"] and report["temporal"]["kind"] != "none":
        steady = report["temporal"]
        cost = f"median {text('latency_temporal_ms', 1, 'ms')}, {steady['lost']} frames without a motion"
        figures.append(("Temporal filter", f"{steady['kind']} over {steady['seconds']:g} s, {cost}"))
    counted = (
        ("Before the first output", "stream_frames_without_output", "frames"),
        ("Out of order", "frames_out_of_order", "frames came after a younger one and were sorted in"),
        ("Not decodable", "frames_undecodable", "frames were skipped"),
        ("Labels left out", "labels_left_out", "labels belong to no readable frame"),
    )
    figures.extend((name, f"{report[key]} {what}") for name, key, what in counted if report[key])
    if not report["complete"]:
        figures.append(("Incomplete", str(report["fault"])))
    return tuple(figures)


def _logit(threshold: float | None) -> float:
    """Logit of the operating point; not finite where there is none."""
    if threshold is None or not 0.0 < threshold < 1.0:
        return math.nan
    return math.log(threshold / (1.0 - threshold))
