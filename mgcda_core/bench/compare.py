"""`mgcda compare`: the sibling methods from one segmentation network, on one budget of images, on the same sets.

OUT/runs/METHOD-SEED is one training; OUT/compare.{json,md} are rewritten after each. What is finished is not trained
again, an interrupted training goes on, and several processes may work on the same folder at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mgcda_core.bench.compare_table import write_tables
from mgcda_core.bench.stages import count_work
from mgcda_core.config import CompareConfig, ConfigError, ScoreName
from mgcda_core.data.evaluation_sets import open_set
from mgcda_core.training.trials import claimed, digest, measured, minutes_spent, store_result, stored_result
from mgcda_core.weights.resolve import load_weights

UNTRAINED: dict[ScoreName, str] = {
    "msp": "1 - max softmax (MSP)",
    "maxlogit": "Max-logit",
    "entropy": "Softmax entropy",
    "energy": "Free energy",
}
"""Scores of the segmentation network as it is; the first is what every method has to beat."""
FRAME = (720, 1280)
"""Frame (height, width) whose cost at inference is counted."""
_LOSSES = ("mdat", "cacl", "perturbation")


@dataclass(frozen=True)
class Method:
    """How one method is trained."""

    title: str
    block: str
    """Field of `CompareConfig` with its training."""
    command: str
    """Module of mgcda_core.training."""
    losses: tuple[str, ...] | None = None
    """Of the comparing network: those of `_LOSSES` that are on."""


METHODS: dict[str, Method] = {
    "fine_tuning": Method("Fine-tuning without outliers (control)", "outlier_exposure", "segmentation"),
    "outlier_exposure": Method("Outlier exposure", "outlier_exposure", "segmentation"),
    "pebal": Method("PEBAL", "pebal", "pebal"),
    "synthetic_unknown": Method("Synthetic-unknown + MGU", "synthetic_unknown", "synthetic_unknown"),
    "dicnet": Method("DiCNet", "dicnet", "dicnet"),
    "mix": Method("Chain, Baseline (Mix)", "chain", "dissimilarity", ()),
    "mgcda": Method("Chain, MGCDA", "chain", "dissimilarity", ("mdat", "cacl")),
    "perturbation": Method("Chain, perturbation for MDAT", "chain", "dissimilarity", ("perturbation", "cacl")),
    "mdat_perturbation": Method("Chain, MDAT + perturbation", "chain", "dissimilarity",
                                ("mdat", "perturbation", "cacl")),
    "mgcda_unknown": Method("Chain, MGCDA + domain U", "chain", "dissimilarity",
                            ("mdat", "cacl")),
    "mgcda_dicnet": Method("Chain, MGCDA + DiCNet as a fourth map", "distilled", "dissimilarity", ("mdat", "cacl")),
}  # fmt: skip


def compare(config: CompareConfig, out: Path) -> Path:
    """Train and measure what is missing of the comparison; returns the Markdown table's path.

    Raises ConfigError for an unknown method, one whose block is not given, chains of another segmentation network, or
    under torchrun.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "each method is trained by one process: start mgcda compare without torchrun, and as often as there are "
            "devices; the processes share the methods of one --out"
        )
    jobs = planned(config)
    _same_start(config, [training for _, _, _, training in jobs])
    for chosen in config.sets:
        open_set(chosen)
    for score, title in UNTRAINED.items():
        run = out / "runs" / score
        with claimed(run) as mine:
            if mine and stored_result(run, _digest(config, score)) is None:
                _measure_untrained(config, score, title, run)
    for name, method, seed, training in jobs:
        run = out / "runs" / f"{name}-{seed}"
        with claimed(run) as mine:
            if mine and stored_result(run, digest(training, config.sets)) is None:
                _train_one(config, name, method, seed, training, run)
                write_tables(_finished(config, out), [s.name for s in config.sets], out)
    return write_tables(_finished(config, out), [s.name for s in config.sets], out)


def planned(config: CompareConfig) -> list[tuple[str, Method, int, Any]]:
    """(method, how, seed, configuration) of every training, seed by seed, so that half a comparison compares."""
    if unknown := [name for name in config.methods if name not in METHODS]:
        raise ConfigError(f"unknown method {unknown[0]}: choose from {', '.join(METHODS)}")
    jobs = []
    for seed in config.seeds:
        for name in config.methods or METHODS:
            lacking = _lacking(config, METHODS[name])
            if not lacking:
                jobs.append((name, METHODS[name], seed, _training(config, name, seed)))
            elif config.methods:
                raise ConfigError(f"method {name} needs {lacking}, which the configuration does not give")
    return jobs


def _lacking(config: CompareConfig, method: Method) -> str:
    """The first field a method needs and does not have, "" if all are given."""
    block = getattr(config, method.block)
    if block is None:
        return method.block
    if method is METHODS["mgcda_unknown"] and config.unknown_domain is None:
        return "unknown_domain"
    return next((f"{method.block}.{loss}" for loss in method.losses or () if getattr(block, loss) is None), "")


def _training(config: CompareConfig, name: str, seed: int) -> Any:
    """The configuration of one training: start, budget and seed are the comparison's, the rest its block's."""
    method = METHODS[name]
    block = getattr(config, method.block)
    if method.losses is not None:
        block = replace(block, **{loss: None for loss in _LOSSES if loss not in method.losses})
        if name == "mgcda_unknown":
            shared = replace(block.loop, batch=-(-block.loop.batch // 3) * 3)  # as many images of each domain
            block = replace(block, synthetic_unknown=config.unknown_domain, loop=shared)
    elif method.command == "segmentation":
        block = replace(block, initial=config.weights, segmenter=replace(block.segmenter, score="msp"))
        block = block if name == "outlier_exposure" else replace(block, outliers=None)
    else:
        block = replace(block, weights=config.weights)
    steps = max(1, config.images // block.loop.batch)
    return replace(block, loop=replace(block.loop, steps=steps, seed=seed, minutes=0.0))


def _same_start(config: CompareConfig, trainings: list[Any]) -> None:
    """Raises ConfigError if a chain's frozen segmentation network is not that of `weights`."""
    wanted = _segmentation_sum(config.weights)
    for weights in dict.fromkeys(t.weights for t in trainings if hasattr(t, "weights")):
        if weights != config.weights and _segmentation_sum(weights) != wanted:
            raise ConfigError(f"{weights} has another segmentation network than {config.weights}: all methods have to "
                              "start from the same")  # fmt: skip


def _segmentation_sum(weights: str) -> str:
    digest, state = hashlib.sha256(), load_weights(weights).state
    for key in sorted(k for k in state if k.startswith("segmentation.")):
        digest.update(key.encode() + state[key].float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest(config: CompareConfig, score: str) -> str:
    return digest({"segmentation": _segmentation_sum(config.weights), "score": score}, config.sets)


def _measure_untrained(config: CompareConfig, score: ScoreName, title: str, run: Path) -> None:
    scores = measured(config.weights, score, config.sets, f"compare: {score}")
    segmenter = dataclasses.replace(load_weights(config.weights).config, score="msp")
    store_result(run, {"method": score, "title": title, "seed": None, "config": _digest(config, score), "images": 0,
                       "minutes": 0.0, **_cost(segmenter), "scores": scores})  # fmt: skip


def _train_one(config: CompareConfig, name: str, method: Method, seed: int, training: Any, run: Path) -> None:
    print(f"compare: {name}-{seed} ({method.title})", flush=True)
    module = importlib.import_module(f"mgcda_core.training.{method.command}")
    module.train(training, run, any(run.glob("checkpoint-*")))
    weights, loop = run / "weights.safetensors", training.loop
    scores = measured(weights, "model", config.sets, f"compare: {name}-{seed}")
    store_result(run, {"method": name, "title": method.title, "seed": seed, "config": digest(training, config.sets),
                       "images": loop.steps * loop.batch, "minutes": round(minutes_spent(run, loop.batch), 2),
                       **_cost(load_weights(weights).config), "scores": scores})  # fmt: skip


def _cost(segmenter: Any) -> dict[str, float]:
    """Parameters in millions and multiply-accumulates in 10^9 of one frame at inference."""
    work = count_work(segmenter, FRAME)
    return {"parameters_m": round(work.parameters / 1e6, 2), "gmac": round(work.flops / 2e9, 4)}


def _finished(config: CompareConfig, out: Path) -> list[dict[str, Any]]:
    found = [stored_result(out / "runs" / score, _digest(config, score)) for score in UNTRAINED]
    found += [stored_result(out / "runs" / f"{name}-{seed}", digest(training, config.sets))
              for name, _, seed, training in planned(config)]  # fmt: skip
    return [result for result in found if result]
