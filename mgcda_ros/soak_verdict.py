"""What a soak recorded, what is wrong with it, and its plot."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import theilslopes

MOST_STALE = 2
"""Frames that may have come after a masked one by the time that the network began with it."""
IDLE_S = 0.1
"""After its last mask the node still describes hazards; later than that it waits for a frame."""


@dataclass
class Record:
    """Times in seconds since the epoch; what happened in the order in which it did."""

    sent: list[float] = field(default_factory=list)
    """Stamps of all frames that cameras sent."""
    masks: list[tuple[float, float]] = field(default_factory=list)
    """Stamp and arrival of each mask."""
    memory: list[tuple[float, float]] = field(default_factory=list)
    """Time and resident memory of the node in MiB."""
    starts: list[float] = field(default_factory=list)
    """When each camera process was started."""
    node: dict[str, str] = field(default_factory=dict)
    """Values of its last diagnostics."""
    refused: list[str] = field(default_factory=list)
    """Parameters that it did not take, and why."""
    died: bool = False
    """The node ended by itself."""
    exit_code: int = 0
    """Of the node."""


@dataclass(frozen=True)
class Figures:
    """What the report says."""

    sent: int
    masks: int
    lost_in_transport: int
    """Frames that were sent and that the node did not receive."""
    lost_while_idle: int
    """Frames without a mask though the node had answered all before them, and waited."""
    stale: int
    """Masks of frames that were older than the MOST_STALE last ones when the network began with them."""
    cameras: int
    latency_ms: tuple[float, float] | None
    """Median and 95th percentile from the stamp to the mask's arrival."""
    memory_mb: tuple[float, float] | None
    """First and last after settling."""
    slope_mb_per_min: float | None
    """Theil-Sen slope of the memory after settling; None if there is too little of it."""


def figures(record: Record, settle_s: float) -> Figures:
    """Figures of a record; memory counts from `settle_s` seconds after the first sample on."""
    delays = [1000.0 * (arrival - stamp) for stamp, arrival in record.masks]
    kept = np.array([point for point in record.memory if point[0] >= record.memory[0][0] + settle_s]).reshape(-1, 2)
    enough = len(kept) > 2
    slopes: Any = theilslopes(kept[:, 1], kept[:, 0] / 60.0) if enough else None
    return Figures(
        sent=len(record.sent),
        masks=len(record.masks),
        lost_in_transport=len(record.sent) - int(record.node.get("frames_in", 0)),
        lost_while_idle=lost_while_idle(record.sent, record.masks),
        stale=stale(record.sent, record.masks),
        cameras=len(record.starts),
        latency_ms=(float(np.percentile(delays, 50)), float(np.percentile(delays, 95))) if delays else None,
        memory_mb=(float(kept[0, 1]), float(kept[-1, 1])) if enough else None,
        slope_mb_per_min=round(float(slopes.slope), 3) if enough else None,
    )


def stale(sent: list[float], masks: list[tuple[float, float]]) -> int:
    """How many masks were those of frames too old when the network began with them: when the mask before was out.

    The frames that came while it worked do not count: they make a slow network's masks old, not stale.
    """
    count = 0
    for (_, free), (stamp, _) in itertools.pairwise(masks):
        count += bisect.bisect_right(sent, free) - bisect.bisect_right(sent, stamp) > MOST_STALE
    return count


def lost_while_idle(sent: list[float], masks: list[tuple[float, float]]) -> int:
    """How many frames have no mask though that of the frame before had come IDLE_S before they were sent."""
    arrivals = dict(masks)
    earlier = [float("-inf"), *(arrivals.get(stamp, float("inf")) for stamp in sent)]
    return sum(stamp not in arrivals and before + IDLE_S < stamp for stamp, before in zip(sent, earlier, strict=False))


def faults(record: Record, found: Figures, most_slope: float) -> list[str]:
    """What must not be, a sentence each; `most_slope` in MB per minute."""
    counts = {name: int(record.node.get(name, 0)) for name in ("frames_in", "masks_out", "dropped", "errors")}
    settled = counts["masks_out"] + counts["dropped"] + counts["errors"]
    slope = found.slope_mb_per_min
    said = [
        (record.died, f"the node died with exit code {record.exit_code}"),
        (not record.died and record.exit_code != 0, f"after SIGINT the node ended with exit code {record.exit_code}"),
        (not found.masks, "no mask came"),
        (slope is None, "the run is too short to say anything of the memory"),
        (slope is not None and slope > most_slope, f"memory grows by {slope} MB a minute, the limit is {most_slope:g}"),
        (found.stale, f"{found.stale} masks were of frames older than the last {MOST_STALE}"),
        (found.lost_while_idle, f"{found.lost_while_idle} frames were lost while the node was idle"),
        (counts["frames_in"] != settled, f"{counts['frames_in']} frames became {settled} masks, drops and errors"),
        (counts["errors"], f"{counts['errors']} frames could not be processed"),
        (record.refused, f"parameters were refused: {'; '.join(record.refused)}"),
    ]
    return [sentence for wrong, sentence in said if wrong]


def report(record: Record, found: Figures, wrong: list[str]) -> dict[str, Any]:
    """Plain values for report.json."""
    return {**dataclasses.asdict(found), "faults": wrong, "exit_code": record.exit_code, "node": record.node}


def draw(path: Path, record: Record, found: Figures) -> None:
    """Write a PNG: memory and latency over the minutes; lines where a camera process started."""
    from matplotlib.figure import Figure

    start = record.memory[0][0]
    figure = Figure(figsize=(9.0, 6.0), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    minutes, megabytes = (np.array(values) for values in zip(*record.memory, strict=True))
    upper.plot((minutes - start) / 60.0, megabytes, color="tab:blue", linewidth=1)
    slope = "" if found.slope_mb_per_min is None else f"; after settling {found.slope_mb_per_min:+.2f} MB a minute"
    upper.set(ylabel="memory of the node in MiB", ylim=(0.0, 1.15 * megabytes.max()), title=f"memory{slope}")
    if record.masks:
        stamps, arrivals = (np.array(values) for values in zip(*record.masks, strict=True))
        lower.plot((stamps - start) / 60.0, 1000.0 * (arrivals - stamps), ".", color="tab:orange", markersize=2)
    p50, p95 = found.latency_ms or (float("nan"), float("nan"))
    lower.set(xlabel="minutes", ylabel="from stamp to mask in ms", title=f"latency: median {p50:.0f}, p95 {p95:.0f} ms")
    lower.set_ylim(bottom=0.0)
    for axes in (upper, lower):
        axes.grid(color="0.9")
        for at in record.starts:
            axes.axvline((at - start) / 60.0, color="0.7", linewidth=1, linestyle="--")
    figure.savefig(path)
