"""Latency and rate window -> DiagnosticArray."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

WINDOW_S = 5.0
"""Rates and latencies are those of the last seconds."""


@dataclass(frozen=True)
class Snapshot:
    """Counts since the start and rates over the window."""

    frames_in: int
    masks_out: int
    dropped: int
    """Frames that a newer one replaced before the network was free."""
    errors: int
    """Frames that could not be decoded or processed."""
    input_hz: float
    output_hz: float
    latency_p50_ms: float | None
    """From the arrival of a frame to its published mask; None without a mask in the window."""
    latency_p95_ms: float | None
    recent_error: str | None
    """The last error, if it lies within the window."""


class FrameStatistics:
    """Counts what the node receives, publishes, drops and refuses; every method may be called from any thread."""

    def __init__(self, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._window = window_s
        self._start = clock()
        self._inputs: deque[float] = deque()
        self._outputs: deque[tuple[float, float]] = deque()
        self._error: tuple[float, str] = (-np.inf, "")
        self._frames_in = self._masks_out = self._dropped = self._errors = 0

    def restart(self) -> None:
        """Forget the window (not the counts), as when the node becomes active."""
        with self._lock:
            self._start = self._clock()
            self._inputs.clear()
            self._outputs.clear()
            self._error = (-np.inf, "")

    def received(self) -> None:
        """Count a frame that arrived."""
        with self._lock:
            self._frames_in += 1
            self._inputs.append(self._clock())
            self._forget()

    def published(self, latency_s: float) -> None:
        """Count a mask that left `latency_s` seconds after its frame arrived."""
        with self._lock:
            self._masks_out += 1
            self._outputs.append((self._clock(), latency_s))
            self._forget()

    def dropped(self) -> None:
        """Count a frame that a newer one replaced."""
        with self._lock:
            self._dropped += 1

    def failed(self, reason: str) -> None:
        """Count a frame that could not be processed."""
        with self._lock:
            self._errors += 1
            self._error = (self._clock(), reason)

    def snapshot(self) -> Snapshot:
        """The figures of this moment."""
        with self._lock:
            self._forget()
            seconds = min(self._window, max(self._clock() - self._start, 1.0))
            latencies = np.array([latency for _, latency in self._outputs]) * 1000.0
            p50, p95 = np.percentile(latencies, (50, 95)).tolist() if latencies.size else (None, None)
            recent = self._error[1] if self._clock() - self._error[0] <= self._window else None
            return Snapshot(
                frames_in=self._frames_in,
                masks_out=self._masks_out,
                dropped=self._dropped,
                errors=self._errors,
                input_hz=len(self._inputs) / seconds,
                output_hz=len(self._outputs) / seconds,
                latency_p50_ms=p50,
                latency_p95_ms=p95,
                recent_error=recent,
            )

    def _forget(self) -> None:
        oldest = self._clock() - self._window
        while self._inputs and self._inputs[0] < oldest:
            self._inputs.popleft()
        while self._outputs and self._outputs[0][0] < oldest:
            self._outputs.popleft()


def judge(
    snapshot: Snapshot, state: str, topic: str, failure: str | None = None, engine: str = ""
) -> tuple[bytes, str]:
    """Level and message of the status: `failure` says why the node could not be configured.

    `engine` is how the building of an engine stands, `building 25 s`; empty if none is built.
    """
    if failure is not None:
        return DiagnosticStatus.ERROR, failure
    if state != "active":
        return DiagnosticStatus.OK, f"{state}: frames are not processed"
    if snapshot.recent_error is not None:
        level = DiagnosticStatus.WARN if snapshot.output_hz else DiagnosticStatus.ERROR
        return level, snapshot.recent_error
    if not snapshot.input_hz:
        return DiagnosticStatus.WARN, f"no image on {topic}"
    if not snapshot.output_hz:
        return DiagnosticStatus.WARN, f"images come in, no mask in the last {WINDOW_S:.0f} s"
    if engine.startswith("failed"):
        return DiagnosticStatus.WARN, f"active, engine {engine}"
    return DiagnosticStatus.OK, f"active, engine {engine}" if engine else "active"


def to_diagnostics(
    snapshot: Snapshot, verdict: tuple[bytes, str], name: str, facts: Mapping[str, str], stamp: Time
) -> DiagnosticArray:
    """One DiagnosticArray for /diagnostics; `facts` (weights, device, state ...) are added to the figures."""
    values = {
        "input_hz": f"{snapshot.input_hz:.2f}",
        "output_hz": f"{snapshot.output_hz:.2f}",
        "latency_p50_ms": _milliseconds(snapshot.latency_p50_ms),
        "latency_p95_ms": _milliseconds(snapshot.latency_p95_ms),
        "frames_in": str(snapshot.frames_in),
        "masks_out": str(snapshot.masks_out),
        "dropped": str(snapshot.dropped),
        "errors": str(snapshot.errors),
        **facts,
    }
    status = DiagnosticStatus(level=verdict[0], message=verdict[1], name=f"{name}: anomaly segmentation")
    status.hardware_id = facts.get("device", "")
    status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    message = DiagnosticArray(status=[status])
    message.header.stamp = stamp
    return message


def _milliseconds(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"
