"""How a recorded array is matched to ours and judged (tests/golden/README.md, sections 1 to 3 and 6).

A recording names an array `X`, a part of it (`X_sub`, `X_subK`, `X_itemI`) or its statistics (`X_mean`, `X_std`);
which pixels and channels a part holds follows from its shape.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np
from torch import Tensor, nn

Judge = Callable[[np.ndarray, np.ndarray], tuple[float, float]]
"""(ours, recorded), of one shape -> (error, tolerance)."""

_SUFFIX = re.compile(r"_(?:item(?P<item>\d+)|sub(?P<step>\d*)|(?P<statistic>mean|std))$")


def relative(tolerance: float) -> Judge:
    """Largest difference over the largest recorded magnitude."""

    def judge(ours: np.ndarray, recorded: np.ndarray) -> tuple[float, float]:
        difference = np.abs(ours.astype(np.float64) - recorded)
        error = float(difference.max() / max(float(np.abs(recorded).max()), 1e-30))
        return (error if np.isfinite(error) else np.inf), tolerance

    return judge


def steps(share: float) -> Judge:
    """Whole numbers that may differ by 1 on a share of the values."""

    def judge(ours: np.ndarray, recorded: np.ndarray) -> tuple[float, float]:
        difference = np.abs(ours.astype(np.int64) - recorded.astype(np.int64))
        return (float((difference > 0).mean()) if difference.max() <= 1 else np.inf), share

    return judge


def equal(share: float = 1.0) -> Judge:
    """Labels that must be equal on at least a share of the values."""

    def judge(ours: np.ndarray, recorded: np.ndarray) -> tuple[float, float]:
        return float((ours != recorded).mean()), 1.0 - share

    return judge


def stepped(tolerance: float, share: float, step: float) -> Judge:
    """`relative` on all but a share of the values; those may be off by one 8-bit `step`."""

    def judge(ours: np.ndarray, recorded: np.ndarray) -> tuple[float, float]:
        difference = np.abs(ours.astype(np.float64) - recorded)
        scale = float(np.abs(recorded).max())
        far = difference > tolerance * scale
        if np.isfinite(difference).all() and far.mean() <= share and difference.max() <= step:
            difference = difference[~far]
        error = float(difference.max() / scale) if difference.size else 0.0
        return (error if np.isfinite(error) else np.inf), tolerance

    return judge


def loose(largest: float = 2e-2, mean: float = 5e-4) -> Judge:
    """End of the chain, after 8-bit steps that may flip: largest and mean difference over the largest magnitude."""

    def judge(ours: np.ndarray, recorded: np.ndarray) -> tuple[float, float]:
        error, _ = relative(largest)(ours, recorded)
        difference = np.abs(ours.astype(np.float64) - recorded)
        mean_error = float(difference.mean() / max(float(np.abs(recorded).max()), 1e-30))
        return max(error, mean_error * largest / mean), largest

    return judge


@dataclass(frozen=True)
class Expected:
    """One array of ours that a recording may hold whole or in part."""

    value: np.ndarray
    axes: str
    """One letter an axis: n sample, c channel, h and w pixels; empty where only the same shape will do."""
    judge: Judge
    offsets: tuple[int, ...] = (0,)
    """First pixels a sub-sampled part may start at."""


@dataclass
class Outcome:
    """What our side of one case yields, and what the comparison found."""

    expected: dict[str, Expected] = field(default_factory=dict)
    crcs: dict[str, int] = field(default_factory=dict)
    described: frozenset[str] = frozenset()
    """Names that describe the case (sizes, names of parameters) and hold nothing to compare."""
    stages: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    measured: list[tuple[str, float, float]] = field(default_factory=list)
    """Array, error, tolerance."""
    problems: list[str] = field(default_factory=list)


def compare(arrays: Mapping[str, np.ndarray], outcome: Outcome) -> None:
    """Judge every array of a recording; an array nothing is known about is a problem."""
    for name, recorded in arrays.items():
        if name in outcome.described or name == "stage_names":
            continue
        if name in outcome.crcs:
            if int(recorded) != outcome.crcs[name]:
                outcome.problems.append(f"{name} is {outcome.crcs[name]}, recorded {int(recorded)}")
        elif name == "stage_mean_std":
            _compare_stages(arrays, outcome)
        else:
            _compare_array(name, recorded, outcome)


def parse(name: str, known: Mapping[str, object]) -> tuple[str, int | None, int | None, str | None] | None:
    """`X_item1_sub2` -> (X, item 1, step 2, no statistic); step 0 is a bare `_sub`. None where X is not known."""
    item = step = statistic = None
    while name not in known:
        match = _SUFFIX.search(name)
        if match is None:
            return None
        if match["item"] is not None:
            item = int(match["item"])
        elif match["statistic"]:
            statistic = match["statistic"]
        else:
            step = int(match["step"] or 0)
        name = name[: match.start()]
    return name, item, step, statistic


def _compare_array(name: str, recorded: np.ndarray, outcome: Outcome) -> None:
    parsed = parse(name, outcome.expected)
    if parsed is None:
        outcome.problems.append(f"unknown array {name}")
        return
    base, item, step, statistic = parsed
    expected = outcome.expected[base]
    value, axes = expected.value, expected.axes
    if item is not None:
        if "n" not in axes or item >= value.shape[0]:
            outcome.problems.append(f"{name}: there is no sample {item}")
            return
        value = value[item : item + 1]
    if statistic:
        value = getattr(value.astype(np.float64), statistic)(axis=(axes.index("h"), axes.index("w")))
        axes = axes.replace("h", "").replace("w", "")
    results = [
        expected.judge(part, recorded) for part in parts(value, axes, recorded.shape, step or 0, expected.offsets)
    ]
    if not results:
        outcome.problems.append(f"{name}: recorded shape {recorded.shape} is no part of ours, {value.shape}")
        return
    error, tolerance = min(results, key=lambda result: result[0])
    outcome.measured.append((name, error, tolerance))


def parts(
    value: np.ndarray, axes: str, shape: tuple[int, ...], step: int, offsets: tuple[int, ...]
) -> Iterator[np.ndarray]:
    """Every sub-sampling of `value` that has `shape`; axes of size 1 (or all but sample 0) may be gone from it."""
    if not axes or value.shape == shape:
        if value.shape == shape:
            yield value
        return
    for dropped in ("", "n", "c", "nc"):
        kept = "".join(a for a in axes if a not in dropped)
        if len(kept) != len(shape) or len(axes) - len(kept) != len(dropped):
            continue
        if "c" in dropped and value.shape[axes.index("c")] != 1:
            continue
        view = value[tuple(0 if a in dropped else slice(None) for a in axes)]
        for offset in offsets:
            choices = [
                _slices(a, full, part, step, offset) for a, full, part in zip(kept, view.shape, shape, strict=True)
            ]
            for slices in product(*choices):
                yield view[slices]


def _slices(axis: str, full: int, part: int, step: int, offset: int) -> list[slice]:
    """Every way to take `part` of `full` values in equal strides; 4 of 19 may be every fifth or every sixth."""
    if full == part:
        return [slice(None)]
    if axis == "n" or part < 1:
        return [slice(0, 1)] if part == 1 else []
    start = offset if axis in "hw" else 0
    first = -(-(full - start) // part)
    strides = [step] if step and axis in "hw" else range(first, full if part > 1 else first + 1)
    return [slice(start, None, stride) for stride in strides if len(range(start, full, stride)) == part]


class StageTap:
    """Records mean and population std of submodules' outputs, call by call, under the recording's stage names."""

    def __init__(self, module: nn.Module, paths: Mapping[str, str], doubled: tuple[str, ...] = ()) -> None:
        self.rows: dict[str, list[tuple[float, float]]] = {}
        own = dict(module.named_modules())
        for name, path in paths.items():
            if path in own:
                own[path].register_forward_hook(self._hook(name, 2 if name.startswith(doubled or "\0") else 1))

    def _hook(self, name: str, chunks: int) -> Callable[[nn.Module, object, object], None]:
        def record(_module: nn.Module, _inputs: object, output: object) -> None:
            if not isinstance(output, Tensor):
                return  # an encoder's list: its levels are tapped one by one
            for part in output.detach().chunk(chunks):  # two images of a shared encoder go through as one batch
                x = part.double()
                self.rows.setdefault(name, []).append((float(x.mean()), float(x.std(correction=0))))

        return record


def _compare_stages(arrays: Mapping[str, np.ndarray], outcome: Outcome) -> None:
    """Rows are matched by name and occurrence, since our call order may differ between branches."""
    seen: dict[str, int] = {}
    worst, compared = 0.0, 0
    for name, row in zip(arrays["stage_names"].tolist(), arrays["stage_mean_std"], strict=True):
        k = seen[name] = seen.get(name, -1) + 1
        rows = outcome.stages.get(name, [])
        if k >= len(rows):
            continue  # our module has no child of that name
        compared += 1
        difference = np.abs(np.array(rows[k]) - row).max() / np.abs(row).max()
        worst = max(worst, float(difference) if np.isfinite(difference) else np.inf)
    if compared == 0:
        outcome.problems.append("stage_mean_std: no stage has a counterpart")
    outcome.measured.append((f"stage_mean_std[{compared}]", worst, 1e-5))
