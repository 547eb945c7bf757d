"""`mgcda ladder`: the paper's ablation (section 4.4, Table 3), every rung on the same budget, or a sweep of a field.

OUT/runs/RUNG-SEED is one training; OUT/ladder.{json,csv,md} are rewritten after each. A rung that is finished is not
run again, an interrupted one goes on, and several processes may climb the same folder at a time.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from mgcda_core.config import CaclConfig, ConfigError, DissimilarityTraining, LadderConfig, MdatConfig
from mgcda_core.data.evaluation_sets import open_set
from mgcda_core.training import dissimilarity
from mgcda_core.training.ladder_tables import write_tables
from mgcda_core.training.trials import claimed, digest, measured, minutes_spent, store_result, stored_result
from mgcda_core.weights.resolve import load_weights


def _rung(
    base: DissimilarityTraining, *, v: bool = True, a: bool = True, mdat: dict[str, Any] | None = None, pcl: str = ""
) -> DissimilarityTraining:
    aligned = None if mdat is None else replace(base.mdat or MdatConfig(), **mdat)
    contrast = replace(base.cacl or CaclConfig(), sampler=pcl) if pcl else None  # pyright: ignore[reportArgumentType]
    return replace(
        base, void_class=base.void_class if v else None, anomaly_mix=base.anomaly_mix if a else None, mdat=aligned,
        cacl=contrast,
    )  # fmt: skip


RUNGS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline_v": ("Baseline (V)", {"a": False}),
    "baseline_a": ("Baseline (A)", {"v": False}),
    "baseline_mix": ("Baseline (Mix)", {}),
    "oda": ("+ ODA", {"mdat": {"feature": False, "output": True, "dynamic": False}}),
    "oda_fda": ("+ ODA + FDA", {"mdat": {"feature": True, "output": True, "dynamic": False}}),
    "mdat": ("+ MDAT", {"mdat": {"feature": True, "output": True, "dynamic": True}}),
    "mdat_pcl": ("+ MDAT + PCL", {"mdat": {}, "pcl": "random_same_domain"}),
    "mdat_cpcl": ("+ MDAT + CPCL", {"mdat": {}, "pcl": "random_cross_domain"}),
    "mgcda": ("+ MDAT + CACL (MGCDA)", {"mdat": {}, "pcl": "anomaly_aware"}),
}
"""Rung -> (name in the paper, what it takes of the full method). From `oda` on the batches are V and A in equal parts,
as are those of `baseline_mix`."""


def climb(config: LadderConfig, out: Path) -> Path:
    """Train and measure what is missing of the ladder, or of the sweep; returns the Markdown table's path.

    Raises ConfigError for an unknown rung or swept field, or under torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("each rung is trained by one process: start mgcda ladder without torchrun, and as often as "
                          "there are devices; the processes share the rungs of one --out")  # fmt: skip
    jobs = planned(config)
    for s in config.sets:
        open_set(s)
    for name, title, training in jobs:
        run = out / "runs" / name
        with claimed(run) as mine:
            if mine and stored_result(run, digest(training, config.sets)) is None:
                _climb_one(name, title, training, config, run)
                write_tables(_finished(config, out), [s.name for s in config.sets], out)
    return write_tables(_finished(config, out), [s.name for s in config.sets], out)


def planned(config: LadderConfig) -> list[tuple[str, str, DissimilarityTraining]]:
    """(folder, title, configuration) of every training, seed by seed, so that a half-climbed ladder compares rungs."""
    if config.base.loop.minutes:
        raise ConfigError("every rung has the same steps: set base.loop.minutes to 0")
    if bool(config.sweep) != bool(config.values):
        raise ConfigError("a sweep needs the name of a field (sweep) and its values (values)")
    rungs = config.rungs or tuple(RUNGS)
    if unknown := [r for r in rungs if r not in RUNGS]:
        raise ConfigError(f"unknown rung {unknown[0]}: choose from {', '.join(RUNGS)}")
    jobs = []
    for seed in config.seeds:
        base = replace(config.base, loop=replace(config.base.loop, seed=seed))
        if config.sweep:
            full = _rung(base, **RUNGS["mgcda"][1])
            jobs += [(f"{config.sweep}={text}-{seed}", f"{config.sweep} = {text}", with_field(full, config.sweep, text))
                     for text in config.values]  # fmt: skip
        else:
            jobs += [(f"{rung}-{seed}", RUNGS[rung][0], _rung(base, **RUNGS[rung][1])) for rung in rungs]
    return jobs


def with_field(config: Any, dotted: str, text: str) -> Any:
    """A copy of a configuration with one field, named like `cacl.anchors`, set from text in YAML.

    Raises ConfigError for a field that is not there or a value of another type.
    """
    name, _, rest = dotted.partition(".")
    if not dataclasses.is_dataclass(config) or not hasattr(config, name):
        raise ConfigError(f"sweep names no field {name}")
    if rest:
        return replace(config, **{name: with_field(getattr(config, name), rest, text)})  # pyright: ignore
    now, kind = getattr(config, name), get_type_hints(type(config))[name]
    value = text if isinstance(now, str) else yaml.safe_load(text)
    value = tuple(value) if isinstance(value, list) else float(value) if isinstance(now, float) else value
    allowed = get_args(kind) if get_origin(kind) is Literal else (value,)
    if value not in allowed or (now is not None and type(value) is not type(now)):
        wanted = f"one of {', '.join(map(str, allowed))}" if value not in allowed else f"a {type(now).__name__}"
        raise ConfigError(f"{dotted} is {now!r}; it can be {wanted}, not {text}")
    return replace(config, **{name: value})  # pyright: ignore[reportArgumentType]


def _climb_one(name: str, title: str, training: DissimilarityTraining, config: LadderConfig, run: Path) -> None:
    print(f"ladder: {name} ({title})", flush=True)
    resume = any(run.glob("checkpoint-*"))
    dissimilarity.train(training, run, resume)
    weights = run / "weights.safetensors"
    loop = training.loop
    result = {"rung": name.rsplit("-", 1)[0], "title": title, "seed": loop.seed,
              "config": digest(training, config.sets), "steps": loop.steps, "images": loop.steps * loop.batch,
              "minutes": round(minutes_spent(run, loop.batch), 2), "held_out": _held_out(weights),
              "scores": measured(weights, "model", config.sets, f"ladder: {name}")}  # fmt: skip
    store_result(run, result)


def _held_out(weights: Path) -> dict[str, float]:
    metadata = load_weights(weights).metadata
    return {k.removeprefix("held_out_"): float(v) for k, v in metadata.items() if k.startswith("held_out_")}


def _finished(config: LadderConfig, out: Path) -> list[dict[str, Any]]:
    found = (stored_result(out / "runs" / name, digest(training, config.sets)) for name, _, training in planned(config))
    return [result for result in found if result]
