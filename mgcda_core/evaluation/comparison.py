"""Results beside each other: one table as text, Markdown, CSV and JSON, with what makes its figures comparable."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from mgcda_core.evaluation.bootstrap import Interval
from mgcda_core.evaluation.protocols import FPR95, PROTOCOLS
from mgcda_core.evaluation.results import Result

_FIGURES = ("ap", "fpr95", "auroc")
_PLAIN_FIELDS = (
    "set", "dataset", "split", "protocol", "fpr95_convention", "weights", "weights_sha256", "score", "images", "pixels",
    "anomaly_fraction", "threshold", "threshold_source", "reason", "left_out", "ap_bound", "fpr95_bound", "seconds",
)  # fmt: skip
MANY_TIES = 0.01
"""Share of the pixels at one threshold from which it is worth a word."""
_COMPONENTS = ("mean F1", "sIoU", "PPV")
Cells = Callable[[Result], list[str]]


def line(result: Result) -> str:
    """One result in percent, on one line."""
    named = (f"{name.upper()}={_figure(result, name)}" for name in _FIGURES)
    shown = [*named, *map("{}={}".format, _COMPONENTS, _component_cells(result))] if result.components else named
    return (
        f"{result.set}: score={result.score} images={result.images} {' '.join(shown)} (percent, {result.pixels} "
        f"pixels, {100 * result.anomaly_fraction:.2f} % anomalous) in {result.seconds:.1f} s"
    )


def table(results: Sequence[Result]) -> str:
    """Aligned Markdown table in percent, with a line break at its end: fit for a terminal and for a document."""
    columns: list[tuple[list[str], Cells]] = [
        (["set", "weights", "score", "images", "anomalous"],
         lambda r: [r.set, r.weights, r.score, str(r.images), f"{100 * r.anomaly_fraction:.2f}"]),
        (["AP", "FPR95", "AUROC"], lambda r: [_figure(r, name) for name in _FIGURES]),
    ]  # fmt: skip
    if any(r.components for r in results):
        columns.append((list(_COMPONENTS), _component_cells))
    if any(r.segmentation for r in results):
        columns.append((["mIoU", "open mIoU"], _segmentation_cells))
    head = [name for names, _ in columns for name in names]
    rows = [[cell.replace("|", "/") for _, cells in columns for cell in cells(r)] for r in results]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    return "".join(f"| {' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))} |\n" for row in lines)


def notes(results: Sequence[Result]) -> list[str]:
    """What belongs under the table: the rules of each set, then what is special about single results."""
    rules = [
        f"{r.set}: protocol {r.protocol} ({PROTOCOLS[r.protocol].summary}; {FPR95[r.fpr95_convention]}), {r.dataset}"
        f"{f', split {r.split}' if r.split else ''}, {r.images} images, label values: "
        + ", ".join(f"{meaning} {_spans(values)}" for meaning, values in r.label_values.items())
        for r in results
    ]
    single = [f"{r.set}, {r.weights}, {r.score}: {'; '.join(_remarks(r))}" for r in results]
    brackets = ["[low, high]: 95 % bootstrap interval over images"] if any(r.ap_interval for r in results) else []
    return [*brackets, *dict.fromkeys(rules), *single]


def write_results(
    results: Sequence[Result], json_path: Path | None, csv_path: Path | None, md_path: Path | None, several: bool
) -> None:
    """Write the files that are given, each all or nothing; folders are made.

    JSON holds one result as it is, or, if `several` were asked for, a list under "results", with rows of the images;
    what is not finite is null. CSV and JSON hold fractions, Markdown percent.
    """
    if json_path is not None:
        plain = [_plain(r.to_json()) for r in results]
        _write(json_path, json.dumps({"results": plain} if several else plain[0], indent=1) + "\n")
    if csv_path is not None:
        _write(csv_path, _csv(results))
    if md_path is not None:
        _write(md_path, table(results) + "\n" + "".join(f"* {note}\n" for note in notes(results)))


def _figure(result: Result, name: str) -> str:
    value, interval = _value(result, name)
    if value is None:
        return f"n/a ({result.reason})" if name == "ap" else "n/a"
    return f"{100 * value:.2f}" + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")


def _value(result: Result, name: str) -> tuple[float | None, Interval | None]:
    return getattr(result, name), getattr(result, f"{name}_interval")


def _component_cells(result: Result) -> list[str]:
    c = result.components
    return [""] * 3 if c is None else [_percent(c.mean_f1), _percent(c.siou), _percent(c.ppv)]


def _segmentation_cells(result: Result) -> list[str]:
    s = result.segmentation
    return [""] * 2 if s is None else [_percent(s.miou), _percent(s.open_miou)]


def _percent(value: float) -> str:
    return f"{100 * value:.2f}" if math.isfinite(value) else "n/a"


def _remarks(result: Result) -> list[str]:
    of = "logit threshold" if result.score == "model" else "threshold"
    remarks = [f"{of} {result.threshold:.6g} ({result.threshold_source})"]
    normal = sum(row.pixels - row.positives for row in result.rows)
    if normal and math.isfinite(result.threshold):
        alarms = sum(row.false_positive_pixels for row in result.rows)
        remarks.append(f"{100 * alarms / normal:.3g} % of the normal pixels are masked")
    if result.ap_bound or result.fpr95_bound:
        remarks.append(f"measured in buckets: AP is off by at most {100 * result.ap_bound:.2g} points, FPR95 by "
                       f"{100 * result.fpr95_bound:.2g}")  # fmt: skip
    if result.left_out:
        remarks.append(f"{result.left_out} of {result.images} images lack one label and are no part of the means")
    if result.components is not None:
        remarks.append(f"components by the rules of the {result.components.track} track")
        if result.components.at_threshold > MANY_TIES:  # spec 5.3
            remarks.append(f"{100 * result.components.at_threshold:.0f} % of the pixels have exactly this score: the "
                           "masks hang on one tie")  # fmt: skip
    return remarks


def _spans(values: Sequence[int]) -> str:
    """`0`, `0,2`, `2-200`."""
    starts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(values)) if b != a + 1), len(values)]
    spans = [values[first:last] for first, last in pairwise(starts)] if values else []
    return ",".join(str(s[0]) if len(s) == 1 else f"{s[0]}-{s[-1]}" for s in spans) or "none"


def _csv(results: Sequence[Result]) -> str:
    file = io.StringIO()
    rows = [_csv_row(r) for r in results]
    writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def _csv_row(result: Result) -> dict[str, Any]:
    row: dict[str, Any] = {name: getattr(result, name) for name in _PLAIN_FIELDS}
    for name in _FIGURES:
        row[name], interval = _value(result, name)
        row[f"{name}_low"], row[f"{name}_high"] = interval or (None, None)
    c, s = result.components, result.segmentation
    row |= {"track": c and c.track, "mean_f1": c and c.mean_f1, "siou": c and c.siou, "ppv": c and c.ppv}
    row |= {"miou": s and s.miou, "open_miou": s and s.open_miou}
    row |= {f"{meaning}_values": _spans(values) for meaning, values in result.label_values.items()}
    return _plain(row)


def _plain(value: Any) -> Any:
    """Numbers that are not finite become None: JSON has no word for them."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(text)
    part.replace(path)
