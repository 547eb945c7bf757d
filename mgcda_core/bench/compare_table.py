"""Tables of `mgcda compare`: mean and spread over the seeds, the difference to MSP, and what each method costs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

AGAINST = "msp"
METRICS = {"ap": "AP", "fpr95": "FPR95"}
COSTS = {"images": "training images", "minutes": "minutes a seed", "parameters_m": "parameters, M",
         "gmac": "GMAC a frame"}  # fmt: skip


def write_tables(runs: Sequence[dict[str, Any]], sets: Sequence[str], out: Path) -> Path:
    """OUT/compare.json and .md from the result.json of what is finished; returns the latter.

    Figures are percent: mean ± standard deviation of the sample over the seeds.
    """
    methods = dict.fromkeys(run["method"] for run in runs)
    rows = [_row([run for run in runs if run["method"] == method], sets) for method in methods]
    columns = {f"{name} {metric}": f"{name} {METRICS[metric]}" for name in sets for metric in METRICS}
    parts = [_table(["method", "seeds", *columns.values()],
                    [[row["title"], row["seeds"], *(_spread(row, c) for c in columns)] for row in rows])]  # fmt: skip
    base = next((row for row in rows if row["method"] == AGAINST), None)
    if base is not None:
        parts.append(_table([f"difference to {base['title']}", *columns.values()],
                            [[row["title"], *(f"{row[c] - base[c]:+.2f}" for c in columns)]
                             for row in rows if row is not base]))  # fmt: skip
    parts.append(_table(["cost", *COSTS.values()], [[row["title"], *(row[c] for c in COSTS)] for row in rows]))
    for suffix, text in (
        ("json", json.dumps({"rows": rows, "runs": list(runs)}, indent=1)),
        ("md", "\n".join(parts)),
    ):
        part = out / f".compare.{suffix}.{os.getpid()}.part"
        part.write_text(text)
        part.replace(out / f"compare.{suffix}")
    return out / "compare.md"


def _row(runs: Sequence[dict[str, Any]], sets: Sequence[str]) -> dict[str, Any]:
    """Means over the runs of one method, and the standard deviation of the figures (None for one run)."""
    first = runs[0]
    row = {key: first[key] for key in ("method", "title", "images", "parameters_m", "gmac")}
    row["seeds"] = sum(run["seed"] is not None for run in runs)
    row["minutes"] = round(float(np.mean([run["minutes"] for run in runs])), 1)
    for name in sets:
        for metric in METRICS:
            values = [100 * run["scores"][name][metric] for run in runs]
            row[f"{name} {metric}"] = round(float(np.mean(values)), 2)
            row[f"{name} {metric} sd"] = round(float(np.std(values, ddof=1)), 2) if len(values) > 1 else None
    return row


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [f"| {' | '.join(map(str, cells))} |" for cells in (heads, *rows)]
    return "\n".join([lines[0], f"|{'---|' * len(heads)}", *lines[1:]]) + "\n"


def _spread(row: dict[str, Any], column: str) -> str:
    spread = row[f"{column} sd"]
    return f"{row[column]:.2f}" + ("" if spread is None else f" ± {spread:.2f}")
