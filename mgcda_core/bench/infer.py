"""`mgcda bench`: what a frame costs, from pixels to mask, and how far that is from what the machine could do.

Each chain runs in a process of its own (`sides`); where two are compared they take turns frame by frame, so that
whatever else the machine does meets both alike: the ratio holds where the times do not.
"""

from __future__ import annotations

import json as json_format
import os
import platform
import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timezone
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, Literal

import numpy as np

import mgcda_core
from mgcda_core.bench.infer_table import table
from mgcda_core.bench.sides import PUBLISHED, Child, Side
from mgcda_core.config import ConfigError, SegmenterConfig
from mgcda_core.inference.encodings import MIN_SIDE

MEASURES = ("chain", "frame", "message", "cpu")
"""Of a frame: the backend's run; from a numpy picture to the mask; from a ROS message to the mask; the time of all
cores together on it, which other programs disturb least."""
PERCENTILES = (50, 95, 99)
PACKAGES = ("torch", "numpy", "onnxruntime", "tensorrt", "tensorrt-rtx", "opencv-python-headless", "pillow")
Precision = Literal["fp32", "bf16", "fp16"]


def bench(
    weights: str = "lite",
    backend: str = "auto",
    device: str = "auto",
    precision: Precision = "fp32",
    size: tuple[int, int] = (720, 1280),
    frames: int = 30,
    repeats: int = 3,
    warm_up: int = 3,
    batch: int = 1,
    threads: int = 0,
    against: str | None = None,
    against_backend: str = "auto",
    against_precision: Precision = "fp32",
    against_checkout: Path | None = None,
    stages: bool = True,
    orin: bool = False,
    json: Path | None = None,
) -> None:
    """Measure what a frame costs: latency, frames/s, memory, operations, stages, distance to the machine's limits.

    Args:
        weights: a shipped name, a .safetensors path, an exported chain (.onnx, .engine), or random:lite or
            random:reference, a profile with random weights.
        backend: auto, torch, torch-compile, onnxruntime and so on; mgcda doctor lists them.
        device: auto, cpu, cuda or cuda:N.
        precision: of PyTorch (bf16 and fp16 by autocast); an exported chain has its own.
        size: height and width of the frames in pixels; the networks' working sizes are the weights'.
        frames: timed frames (or batches) of a run.
        repeats: runs; the frames/s of each are kept, the latencies are those of all.
        warm_up: frames before the clock runs.
        batch: frames at a time; above 1 only the chain is timed, not the way from a picture or message to the mask.
        threads: CPU cores a chain may use; 0 for all.
        against: time this too, frame by frame in turns: weights as above, or published, the same weights with the
            stages composed as in the published code.
        against_backend: backend of `against`.
        against_precision: precision of `against`.
        against_checkout: folder of another checkout of this project to time too; `against` are its weights then,
            lite if not given.
        stages: also time the stages, and the operators in ONNX Runtime.
        orin: add estimates for NVIDIA's Jetson Orin modules.
        json: file for all figures.

    Raises ConfigError for wrong use, ValueError or OSError where a chain cannot be opened or dies.
    """
    side = Side(weights, backend, device, precision, size, batch, threads, stages)
    other = _other(side, against, against_backend, against_precision, against_checkout)
    if min(frames, repeats, warm_up, batch) < 1 or threads < 0 or min(size) < MIN_SIDE:
        raise ConfigError(
            f"frames {frames}, repeats {repeats}, batch {batch}, warm_up {warm_up}, threads {threads}, size {size}: "
            f"time at least one frame of {MIN_SIDE}x{MIN_SIDE} pixels once, after one to warm up"
        )
    figures = measure([side] if other is None else [side, other], frames, repeats, warm_up, orin)
    print(table(figures))
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_format.dumps(figures, indent=1) + "\n")
        print(f"\nbench: {json}")


def measure(sides: list[Side], frames: int, repeats: int, warm_up: int, orin: bool) -> dict[str, Any]:
    """All figures, as the JSON file holds them: of the one side, or of two and their ratio."""
    with ExitStack() as stack:
        children = [stack.enter_context(Child(side)) for side in sides]
        for child in children:
            child.wait()
        for child in children:
            for _ in range(warm_up):
                child.ask("frame")
        memory = [child.ask("memory") for child in children]  # before `about` imports ROS
        about = [child.ask("about") for child in children]
        limits = [_limits(side, answer) for side, answer in zip(sides, about, strict=True)]
        rounds = [[child.ask("frame") for child in children] for _ in range(frames * repeats)]
        inside = [(child.ask("stages"), child.ask("operators")) for child in children]
    again = [_limits(side, answer) for side, answer in zip(sides, about, strict=True)]
    results = []
    for k, side in enumerate(sides):
        best = {key: max(filter(None, (limits[k][key], again[k][key])), default=None) for key in limits[k]}
        times = _times([entry[k] for entry in rounds], repeats, side.batch)
        results.append({**_named(side, about[k]), **times, "memory_mb": memory[k],
                        **_work(side, about[k], times["milliseconds"]["chain"]["p50"], best, inside[k])})  # fmt: skip
    return {**_heading(sides[0], frames, repeats, warm_up), "sides": results,
            "ratio": _ratio(rounds) if len(sides) > 1 else None,
            "orin": _orin(sides[0], about[0]) if orin else None}  # fmt: skip


def _other(side: Side, against: str | None, backend: str, precision: str, checkout: Path | None) -> Side | None:
    if checkout is not None:
        if not (checkout / "mgcda_core" / "__init__.py").is_file():
            raise ConfigError(f"{checkout} is no checkout of this project: it holds no mgcda_core")
        if (backend, precision, side.batch) != ("auto", "fp32", 1) or against == PUBLISHED:
            raise ConfigError("of another checkout only its own fp32 chain is timed, one frame at a time: leave "
                              "against_backend, against_precision and batch out")  # fmt: skip
        return Side(
            against or "lite", "auto", side.device, "fp32", side.size, 1, side.threads, False, str(checkout.resolve())
        )
    if against is None:
        if (backend, precision) != ("auto", "fp32"):
            raise ConfigError("against_backend and against_precision need --against, the weights they are for")
        return None
    if against != PUBLISHED:
        return replace(side, weights=against, backend=backend, precision=precision)
    if (backend, precision) != ("auto", "fp32"):
        raise ConfigError("the published composition has its own backend and runs in fp32: leave against_backend and "
                          "against_precision out")  # fmt: skip
    return replace(side, backend=PUBLISHED, precision="fp32")


def _limits(side: Side, about: dict[str, Any]) -> dict[str, float | None]:
    import torch

    from mgcda_core.bench.floors import measure

    torch.set_num_threads(side.cores)
    found = measure(torch.device(about["device"].split()[0]), about["precision"])
    return {"gflops": found.gflops, "gbytes": found.gbytes}


def _named(side: Side, about: dict[str, Any]) -> dict[str, Any]:
    return {"name": about["name"], "weights": side.weights, "backend": side.backend, "checkout": side.checkout or None,
            "device": about["device"], "precision": about["precision"], "sha256": about["sha256"],
            "message_not_measured": about["message"] or None}  # fmt: skip


def _times(answers: list[dict[str, float | None]], repeats: int, batch: int) -> dict[str, Any]:
    """Percentiles of every measure, in ms, and the frames/s of every run."""
    milliseconds: dict[str, dict[str, float] | None] = {}
    for name in MEASURES:
        values = [1000 * value for answer in answers if (value := answer[name]) is not None]
        milliseconds[name] = (
            {"mean": float(np.mean(values)), **{f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES}}
            if values else None
        )  # fmt: skip
    whole = [answer["frame"] or answer["chain"] or 0.0 for answer in answers]
    length = len(whole) // repeats
    rates = [batch * length / sum(whole[k * length : (k + 1) * length]) for k in range(repeats)]
    return {"milliseconds": milliseconds, "frames_per_s": rates, "best_frames_per_s": max(rates)}


def _work(
    side: Side, about: dict[str, Any], chain_ms: float, limits: dict[str, float | None], inside: tuple[Any, Any]
) -> dict[str, Any]:
    """Operations, stages and floors; nothing is known of what another checkout computes."""
    names = ("parameters", "gflops", "bytes", "stages", "operators", "floors")
    if about["config"] is None:
        return dict.fromkeys(names)
    from mgcda_core.bench.floors import BYTES, Limits, floors_ms

    work, (seconds, operators) = _counted(about["config"], side.size, side.batch), inside
    floors = floors_ms(work, Limits(about["precision"], limits["gflops"], limits["gbytes"] or 0.0))
    spent = seconds or (operators and {stage: ms / 1000 for stage, ms in operators["stages"].items()})
    stages = spent and {s: {"ms": 1000 * ms, "gflops": work.stages[s] / 1e9} for s, ms in spent.items()}
    larger = floors["larger_ms"]
    assert larger is not None
    floors |= {"peak_gflops": limits["gflops"], "gbytes": limits["gbytes"], "ratio": chain_ms / larger}
    values = (work.parameters, work.flops / 1e9, work.bytes(BYTES[about["precision"]]), stages,
              operators and operators["operators"], floors)  # fmt: skip
    return dict(zip(names, values, strict=True))


@cache
def _counted(config: str, size: tuple[int, int], batch: int) -> Any:
    from mgcda_core.bench.stages import count_work

    return count_work(SegmenterConfig.from_json(config), size, batch)


def _ratio(rounds: list[list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """How many times as long the second side takes: ratio of the medians, and the middle half of the turns' ratios."""
    ratios = {}
    for name in ("chain", "cpu"):
        ours, theirs = ([entry[k][name] for entry in rounds] for k in (0, 1))
        low, high = np.percentile([b / a for a, b in zip(ours, theirs, strict=True)], (25, 75))
        ratios[name] = {"median": median(theirs) / median(ours), "low": float(low), "high": float(high)}
    return ratios


def _orin(side: Side, about: dict[str, Any]) -> list[dict[str, float | str]]:
    from mgcda_core.bench.floors import orin_estimates

    return orin_estimates(_counted(about["config"], side.size, side.batch))


def _heading(side: Side, frames: int, repeats: int, warm_up: int) -> dict[str, Any]:
    machine = {"cpu": _cpu(), "cores": side.cores, "system": platform.platform(), "load": os.getloadavg()[0]}
    versions = {name: found for name in PACKAGES if (found := _version(name))}
    return {
        "command": shlex.join(["mgcda", *sys.argv[1:]]),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine,
        "versions": {"mgcda": mgcda_core.__version__, "python": platform.python_version(), **versions},
        "size": list(side.size),
        "batch": side.batch,
        "frames": frames,
        "repeats": repeats,
        "warm_up": warm_up,
        "threads": side.threads,
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
