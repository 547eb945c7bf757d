"""Tables of `mgcda ladder`: mean and spread over the seeds, and the differences within a seed."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

METRICS = {"ap": "AP", "fpr95": "FPR95"}


def write_tables(runs: Sequence[dict[str, Any]], sets: Sequence[str], out: Path) -> Path:
    """OUT/ladder.json, .csv and .md from the result.json of finished runs; returns the last.

    All figures are percent. The first table holds mean ± standard deviation of the sample over a rung's seeds. Runs of
    one seed share the starting weights and the order of the images, so the second compares within a seed, with
    `baseline_mix` (of a sweep: with its first value): mean difference, and the least and greatest of the seeds.
    """
    names = ["held_out", *sets]
    rungs = list(dict.fromkeys(run["rung"] for run in runs))
    rows = [_row([r for r in runs if r["rung"] == rung], names) for rung in rungs]
    against = "baseline_mix" if "baseline_mix" in rungs else next(iter(rungs), "")
    pairs = [_differences([r for r in runs if r["rung"] == rung], [r for r in runs if r["rung"] == against], names)
             for rung in rungs if rung != against]  # fmt: skip
    pairs = [pair for pair in pairs if pair["seeds"]]
    table = io.StringIO()
    if rows:
        writer = csv.DictWriter(table, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    text = _markdown(rows, names, ("seeds", "steps", "hours"), _mean_and_spread)
    if pairs:
        title = next(r["title"] for r in runs if r["rung"] == against)
        text += f"\nDifference to {title} of the same seed, mean (least to greatest):\n\n"
        text += _markdown(pairs, names, ("seeds",), _mean_and_range)
    content = {"rows": rows, "against": against, "differences": pairs, "runs": list(runs)}
    for suffix, written in (("json", json.dumps(content, indent=1)), ("csv", table.getvalue()), ("md", text)):
        part = out / f".ladder.{suffix}.{os.getpid()}.part"
        part.write_text(written)
        part.replace(out / f"ladder.{suffix}")
    return out / "ladder.md"


def _figure(run: dict[str, Any], name: str, metric: str) -> float:
    return 100 * (run["held_out"].get(metric, np.nan) if name == "held_out" else run["scores"][name][metric])


def _columns(names: Iterable[str]) -> list[tuple[str, str]]:
    return [(name, metric) for name in names for metric in METRICS]


def _row(runs: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Mean and standard deviation (None for one seed) over the seeds of one rung."""
    row: dict[str, Any] = {"rung": runs[0]["title"], "seeds": len(runs), "steps": runs[0]["steps"],
                           "hours": round(sum(r["minutes"] for r in runs) / 60, 2)}  # fmt: skip
    for name, metric in _columns(names):
        values = [_figure(run, name, metric) for run in runs]
        row[f"{name} {metric}"] = round(float(np.mean(values)), 2)
        row[f"{name} {metric} sd"] = round(float(np.std(values, ddof=1)), 2) if len(runs) > 1 else None
    return row


def _differences(
    runs: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]], names: Sequence[str]
) -> dict[str, Any]:
    """Mean, least and greatest difference to the run of `base` with the same seed."""
    of_seed = {run["seed"]: run for run in base}
    paired = [(run, of_seed[run["seed"]]) for run in runs if run["seed"] in of_seed]
    row: dict[str, Any] = {"rung": runs[0]["title"], "seeds": len(paired)}
    for name, metric in _columns(names) if paired else ():
        values = [_figure(run, name, metric) - _figure(other, name, metric) for run, other in paired]
        row[f"{name} {metric}"] = round(float(np.mean(values)), 2)
        row[f"{name} {metric} range"] = [round(min(values), 2), round(max(values), 2)]
    return row


def _markdown(rows: Sequence[dict[str, Any]], names: Sequence[str], first: Sequence[str], cell: Any) -> str:
    heads = ["rung", *first, *(f"{n.replace('_', '-')} {METRICS[m]}" for n, m in _columns(names))]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for row in rows:
        cells = [row["rung"], *(row[key] for key in first), *(cell(row, f"{n} {m}") for n, m in _columns(names))]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _mean_and_spread(row: dict[str, Any], column: str) -> str:
    spread = row[f"{column} sd"]
    return f"{row[column]:.2f}" + ("" if spread is None else f" ± {spread:.2f}")


def _mean_and_range(row: dict[str, Any], column: str) -> str:
    least, greatest = row[f"{column} range"]
    return f"{row[column]:+.2f}" + ("" if row["seeds"] == 1 else f" ({least:+.2f} to {greatest:+.2f})")
