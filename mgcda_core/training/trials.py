"""One training of several that are compared: who works on it, what it cost, and what came out."""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from mgcda_core.config import ConfigError, EvaluationSet, ScoreName
from mgcda_core.evaluation.comparison import line
from mgcda_core.evaluation.evaluate import evaluate_set
from mgcda_core.evaluation.protocols import Judging
from mgcda_core.training.run import MAY_CHANGE


@contextmanager
def claimed(run: Path) -> Iterator[bool]:
    """Whether this process may work on the run: its lock goes with the process, however that ends."""
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def digest(training: Any, sets: Sequence[EvaluationSet]) -> str:
    """sha256 of all that decides the figures on these sets: of a training (a dataclass), or of other plain facts."""
    decides = dataclasses.asdict(training) if dataclasses.is_dataclass(training) else dict(training)  # pyright: ignore
    if "loop" in decides:
        decides["loop"] = {k: v for k, v in decides["loop"].items() if k not in MAY_CHANGE}
    return hashlib.sha256(json.dumps([decides, [vars(s) for s in sets]], sort_keys=True).encode()).hexdigest()


def stored_result(run: Path, wanted: str) -> dict[str, Any] | None:
    """RUN/result.json of a finished training, None before. Raises ConfigError if it was of another configuration."""
    path = run / "result.json"
    if not path.is_file():
        return None
    result = json.loads(path.read_text())
    if result["config"] != wanted:
        raise ConfigError(f"{run} was made with another configuration: give another --out, or remove it")
    return result


def store_result(run: Path, result: dict[str, Any]) -> None:
    """Write RUN/result.json, all or nothing."""
    part = run / ".result.json.part"
    part.write_text(json.dumps(result, indent=1))
    part.replace(run / "result.json")


def measured(
    weights: str | Path, score: ScoreName, sets: Sequence[EvaluationSet], label: str
) -> dict[str, dict[str, float]]:
    """AP, FPR95 and AUROC (fractions) of a score on every set, each printed after `label`."""
    scores = {}
    for chosen in sets:
        result, _ = evaluate_set(chosen, weights, score, Judging(bootstrap=0))
        scores[chosen.name] = {"ap": result.ap, "fpr95": result.fpr95, "auroc": result.auroc}
        print(f"{label} {line(result)}", flush=True)
    return scores


def minutes_spent(run: Path, batch: int) -> float:
    """Time spent in steps, whatever the number of times the run was gone on with."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [(int(row["step"]), float(row["images_per_s"])) for row in csv.DictReader(file)]
    return sum((step - before) * batch / rate for (before, _), (step, rate) in pairwise([(0, 1.0), *rows])) / 60
