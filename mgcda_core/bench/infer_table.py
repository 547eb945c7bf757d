"""The figures of `mgcda bench` for people: 100 columns of plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

WIDTH = 100
_LABELS = {"chain": "chain alone", "frame": "numpy picture to mask", "message": "ROS message to mask",
           "cpu": "CPU time, all cores"}  # fmt: skip
_MOST_OPERATORS = 8
_ORIN_HEAD, _ORIN_WIDTHS = ("fp16 TFLOP/s", "GB/s", "floor ms", "fps there", "at 3x"), (14, 8, 10, 11, 9)


def table(figures: dict[str, Any]) -> str:
    """What to print of `infer.measure`'s figures."""
    machine, (height, width), batch = figures["machine"], figures["size"], figures["batch"]
    frames = "frames" if batch == 1 else f"batches of {batch}"
    lines = [
        f"{machine['cpu']}, cores used: {machine['cores']}, load {machine['load']:.1f}; frames of {height}x{width}; "
        f"{figures['repeats']} runs of {figures['frames']} {frames} after {figures['warm_up']}"
    ]
    for side in figures["sides"]:
        lines += ["", *_side(side, batch)]
    if figures["ratio"] is not None:
        lines += ["", *_ratio(figures)]
    if figures["orin"] is not None:
        lines += ["", *_orin(figures["orin"])]
    return "\n".join(lines)


def _side(side: dict[str, Any], batch: int) -> Iterator[str]:
    head = f"{_named(side)}, {side['device']}"
    yield f"{head:<58}{'p50 ms':>10}{'p95 ms':>10}{'p99 ms':>10}"
    for name, label in _LABELS.items():
        times = side["milliseconds"][name]
        if times is None:
            why = side["message_not_measured"] if name == "message" else "a batch has no mask"
            yield f"  {label:<24}not measured: {why}"
        else:
            yield f"  {label:<56}" + "".join(f"{times[f'p{p}']:10.1f}" for p in (50, 95, 99))
    rates = ", ".join(f"{rate:.3g}" for rate in side["frames_per_s"])
    yield from _item("frames/s", f"{rates}; best {side['best_frames_per_s']:.3g}")
    yield from _item("weights", side["weights"])
    yield from _item("memory", _memory(side["memory_mb"]))
    if side["floors"] is None:
        return
    per = "frame" if batch == 1 else f"batch of {batch}"
    yield from _item("work", f"{side['parameters'] / 1e6:.2f} M parameters, {side['gflops']:.1f} GFLOP a {per} "
                             "(1 multiply-accumulate = 2 FLOP; convolutions and matrix products)")  # fmt: skip
    yield from _item("floor", _floor(side["floors"], side["bytes"]))
    yield from _stages(side)
    if side["operators"]:
        total = sum(side["operators"].values())
        largest = list(side["operators"].items())[:_MOST_OPERATORS]
        yield from _item("operators", ", ".join(f"{name} {ms:.1f} ms ({ms / total:.0%})" for name, ms in largest))


def _named(side: dict[str, Any]) -> str:
    """An exported chain has its precision in its name already."""
    return side["name"] if side["name"].endswith(side["precision"]) else f"{side['name']} {side['precision']}"


def _item(name: str, text: str) -> list[str]:
    return _wrapped(text, f"  {name:<10}", " " * 12)


def _wrapped(text: str, first: str = "", rest: str = "") -> list[str]:
    """Lines of at most WIDTH, but a path stays whole."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    )


def _memory(memory: dict[str, float | None]) -> str:
    if memory["opening_mb"] is None:
        return "not measured"
    running = "not measured" if memory["running_mb"] is None else f"{memory['running_mb']:.0f} MB"
    gpu = "not measured" if memory["cuda_mb"] is None else f"{memory['cuda_mb']:.0f} MB"
    return f"peak of the process {memory['opening_mb']:.0f} MB opening, {running} over a frame; of the GPU {gpu}"


def _floor(floors: dict[str, float | None], moved: int) -> str:
    peak, computed = floors["peak_gflops"], floors["flops_ms"]
    operations = (
        f"{computed:.2f} ms for the operations at {peak:.0f} GFLOP/s" if computed is not None and peak is not None
        else "operations not measured in this precision"
    )  # fmt: skip
    return (
        f"{operations}, {floors['bytes_ms']:.2f} ms for {moved / 1e6:.0f} MB at {floors['gbytes']:.1f} GB/s (weights, "
        "inputs and outputs of convolutions and matrix products once); both limits measured here; the chain takes "
        f"{floors['ratio']:.1f} times the larger"
    )


def _stages(side: dict[str, Any]) -> Iterator[str]:
    if side["stages"] is None:
        yield from _item("stages", "not measured")
        return
    total = sum(entry["ms"] for entry in side["stages"].values())
    yield f"  {'stage':<20}{'ms':>10}{'share':>9}{'GFLOP':>10}{'GFLOP/s':>10}"
    for name, entry in side["stages"].items():
        if not entry["ms"]:  # a part this chain does not have
            continue
        speed = f"{1000 * entry['gflops'] / entry['ms']:10.0f}" if entry["gflops"] and entry["ms"] else ""
        operations = f"{entry['gflops']:10.2f}" if entry["gflops"] else f"{'':10}"
        label = "between the networks" if name == "rest" else name
        yield f"  {label:<20}{entry['ms']:10.1f}{entry['ms'] / total:9.1%}{operations}{speed}".rstrip()


def _ratio(figures: dict[str, Any]) -> list[str]:
    ours, theirs = map(_named, figures["sides"])
    if ours == theirs:
        ours, theirs = (side["weights"] for side in figures["sides"])
    time, cpu = figures["ratio"]["chain"], figures["ratio"]["cpu"]
    return _wrapped(
        f"{theirs} takes {time['median']:.2f} times as long as {ours} (half of the turns: {time['low']:.2f} to "
        f"{time['high']:.2f}) and {cpu['median']:.2f} times the CPU time ({cpu['low']:.2f} to {cpu['high']:.2f})"
    )


def _orin(rows: list[dict[str, Any]]) -> Iterator[str]:
    head = "".join(f"{name:>{width}}" for name, width in zip(_ORIN_HEAD, _ORIN_WIDTHS, strict=True))
    yield f"{'estimates, nothing measured':<30}{head}"
    for row in rows:
        yield (f"  {row['module']:<28}{row['tflops']:14.1f}{row['gbytes_s']:8.1f}{row['floor_ms']:10.2f}"
               f"{row['fps_at_floor']:11.1f}{row['fps_at_3x_floor']:9.1f}")  # fmt: skip
    yield "  limits from the data sheets; fps there: with every limit reached; at 3x: at three times the floor"
