"""Rates and latencies of a camera, the verdict on them, and the DiagnosticArray that says both."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from mgcda_ros.node_parameters import NodeParameters

WINDOW_S = 5.0
"""Rates and latencies are those of the last seconds."""
OLDEST_STAMP_S = 600.0
"""A stamp that is older, or later than now, is not of this clock: it tells nothing about latency."""


@dataclass(frozen=True)
class Passage:
    """How long one frame took, in seconds."""

    latency_s: float
    """From its arrival to its published mask."""
    processing_s: float = 0.0
    """Of that, from the moment that the network was free."""
    network_s: float = 0.0
    """Of that, the network itself; the rest is what the node adds."""
    age_s: float | None = None
    """From its header's stamp to its published mask; None if the stamp is not of this clock."""


@dataclass(frozen=True)
class Snapshot:
    """Counts since the start and rates over the window."""

    frames_in: int
    masks_out: int
    dropped: int
    """Frames that got no mask on purpose: a newer one came, or the network was switched off, loaded or stopped."""
    errors: int
    """Frames that could not be decoded or processed."""
    decode_errors: int
    """Those of them that could not be decoded."""
    other_errors: int
    """Errors that took no mask: of hazards and pictures, of callbacks."""
    input_hz: float
    output_hz: float
    latency_ms: tuple[float, float] | None
    """50th and 95th percentile of `Passage.latency_s`; None without a mask in the window."""
    processing_ms: tuple[float, float] | None
    network_ms: tuple[float, float] | None
    age_ms: tuple[float, float] | None
    recent_error: str | None
    """The last error, if it lies within the window."""
    quiet_s: float
    """Seconds since the last frame, or since the node became active."""


class FrameStatistics:
    """Counts what a camera's frames come to; every method may be called from any thread."""

    def __init__(self, window_s: float = WINDOW_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._window = window_s
        self._start = self._last = clock()
        self._inputs: deque[float] = deque()
        self._outputs: deque[tuple[float, Passage]] = deque()
        self._error: tuple[float, str] = (-np.inf, "")
        self._frames_in = self._masks_out = self._dropped = self._errors = self._decode_errors = self._other_errors = 0

    def restart(self) -> None:
        """Forget the window (not the counts), as when the node becomes active."""
        with self._lock:
            self._start = self._last = self._clock()
            self._inputs.clear()
            self._outputs.clear()
            self._error = (-np.inf, "")

    def received(self) -> None:
        """Count a frame that arrived."""
        with self._lock:
            self._frames_in += 1
            self._last = self._clock()
            self._inputs.append(self._last)
            self._forget()

    def published(self, passage: Passage) -> None:
        """Count a mask that went out."""
        with self._lock:
            self._masks_out += 1
            self._outputs.append((self._clock(), passage))
            self._forget()

    def dropped(self) -> None:
        """Count a frame that gets no mask on purpose."""
        with self._lock:
            self._dropped += 1

    def failed(self, reason: str, decoding: bool = False) -> None:
        """Count a frame that could not be processed, or not even decoded."""
        with self._lock:
            self._errors += 1
            self._decode_errors += decoding
            self._error = (self._clock(), reason)

    def erred(self, reason: str) -> None:
        """Count an error that took no mask."""
        with self._lock:
            self._other_errors += 1
            self._error = (self._clock(), reason)

    def snapshot(self) -> Snapshot:
        """The figures of this moment."""
        with self._lock:
            self._forget()
            now = self._clock()
            seconds = min(self._window, max(now - self._start, 1.0))
            passages = [passage for _, passage in self._outputs]
            return Snapshot(
                frames_in=self._frames_in,
                masks_out=self._masks_out,
                dropped=self._dropped,
                errors=self._errors,
                decode_errors=self._decode_errors,
                other_errors=self._other_errors,
                input_hz=len(self._inputs) / seconds,
                output_hz=len(self._outputs) / seconds,
                latency_ms=_percentiles(passage.latency_s for passage in passages),
                processing_ms=_percentiles(passage.processing_s for passage in passages),
                network_ms=_percentiles(passage.network_s for passage in passages),
                age_ms=_percentiles(passage.age_s for passage in passages if passage.age_s is not None),
                recent_error=self._error[1] if now - self._error[0] <= self._window else None,
                quiet_s=now - self._last,
            )

    def _forget(self) -> None:
        oldest = self._clock() - self._window
        while self._inputs and self._inputs[0] < oldest:
            self._inputs.popleft()
        while self._outputs and self._outputs[0][0] < oldest:
            self._outputs.popleft()


def age(stamp: Time, now_ns: int) -> float | None:
    """Seconds since `stamp`; None if it is zero or not of this clock."""
    if stamp.sec == 0 and stamp.nanosec == 0:
        return None
    seconds = (now_ns - (stamp.sec * 1_000_000_000 + stamp.nanosec)) / 1e9
    return seconds if 0.0 <= seconds <= OLDEST_STAMP_S else None


@dataclass(frozen=True)
class Condition:
    """What the verdict needs beside a camera's figures."""

    state: str
    """Lifecycle state."""
    enabled: bool = True
    failure: str | None = None
    """Why the node could not be configured, or stopped working; None if it works."""
    engine: str = ""
    """How the building of an engine stands, `building 25 s`; empty if none is built."""
    network_problem: str | None = None
    """What runs, or is opened, in place of the chosen backend, and why."""
    input_problem: str | None = None
    """What keeps images from coming, with the remedy."""
    temperature: float | None = None
    """Degrees Celsius."""


def judge(snapshot: Snapshot, condition: Condition, topic: str, limits: NodeParameters) -> tuple[bytes, str]:
    """Level and message of a camera's status: the worst that there is to say."""
    if condition.failure is not None:
        return DiagnosticStatus.ERROR, condition.failure
    if condition.state != "active":
        return DiagnosticStatus.OK, f"{condition.state}: frames are not processed"
    if not condition.enabled:
        return DiagnosticStatus.OK, "switched off by ~/enable: frames are not processed"
    found = [*_input_faults(snapshot, condition, topic, limits), *_output_faults(snapshot, condition, limits)]
    running = f"active, engine {condition.engine}" if condition.engine else "active"
    # Of equals the first: what is wrong with the input explains what is wrong behind it.
    return max(found, key=lambda fault: fault[0], default=(DiagnosticStatus.OK, running))


def _input_faults(
    snapshot: Snapshot, condition: Condition, topic: str, limits: NodeParameters
) -> Iterable[tuple[bytes, str]]:
    if condition.input_problem is not None:
        yield DiagnosticStatus.WARN, condition.input_problem
    if snapshot.quiet_s > limits.input_timeout:
        yield DiagnosticStatus.WARN, f"no image on {topic} for {snapshot.quiet_s:.0f} s"


def _output_faults(snapshot: Snapshot, condition: Condition, limits: NodeParameters) -> Iterable[tuple[bytes, str]]:
    if condition.network_problem is not None:
        yield DiagnosticStatus.WARN, condition.network_problem
    if snapshot.recent_error is not None:  # without a mask the worst, unless that is known and something is done
        known = snapshot.output_hz or condition.network_problem is not None
        yield DiagnosticStatus.WARN if known else DiagnosticStatus.ERROR, snapshot.recent_error
    if snapshot.input_hz and not snapshot.output_hz:
        yield DiagnosticStatus.WARN, f"images come in, no mask in the last {WINDOW_S:.0f} s"
    if condition.engine.startswith("failed"):
        yield DiagnosticStatus.WARN, f"active, engine {condition.engine}"
    latency = (snapshot.age_ms or snapshot.latency_ms or (0.0, 0.0))[1]
    for limit, level in ((limits.latency_error, DiagnosticStatus.ERROR), (limits.latency_warn, DiagnosticStatus.WARN)):
        if latency > 1000.0 * limit:
            yield level, f"latency (95th percentile) is {latency:.0f} ms, the limit {1000.0 * limit:.0f} ms"
    if condition.temperature is not None and condition.temperature >= limits.temperature_warn:
        yield DiagnosticStatus.WARN, f"the device has {condition.temperature:.0f} degrees Celsius"


def precision(backend: str) -> str:
    """What runs, by the name of the backend: an exported chain's last word; PyTorch runs fp32."""
    return "fp32" if backend.startswith("torch") else backend.rpartition(" ")[2]


def to_status(snapshot: Snapshot, verdict: tuple[bytes, str], name: str, facts: Mapping[str, str]) -> DiagnosticStatus:
    """A camera's status; `facts` (weights, device, state ...) are added to the figures."""
    values = {
        "input_hz": f"{snapshot.input_hz:.2f}",
        "output_hz": f"{snapshot.output_hz:.2f}",
        **_pair("latency", snapshot.latency_ms),
        **_pair("processing", snapshot.processing_ms),
        **_pair("network", snapshot.network_ms),
        **_pair("age", snapshot.age_ms),
        "frames_in": str(snapshot.frames_in),
        "masks_out": str(snapshot.masks_out),
        "dropped": str(snapshot.dropped),
        "errors": str(snapshot.errors),
        "decode_errors": str(snapshot.decode_errors),
        "other_errors": str(snapshot.other_errors),
        **facts,
    }
    status = DiagnosticStatus(level=verdict[0], message=verdict[1], name=name)
    status.hardware_id = facts.get("device", "")
    status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
    return status


def to_diagnostics(statuses: Iterable[DiagnosticStatus], stamp: Time) -> DiagnosticArray:
    """The message for /diagnostics."""
    message = DiagnosticArray(status=list(statuses))
    message.header.stamp = stamp
    return message


def _percentiles(seconds: Iterable[float]) -> tuple[float, float] | None:
    values = np.fromiter(seconds, float)
    if not values.size:
        return None
    p50, p95 = np.percentile(values * 1000.0, (50, 95))
    return float(p50), float(p95)


def _pair(name: str, milliseconds: tuple[float, float] | None) -> dict[str, str]:
    p50, p95 = ("n/a", "n/a") if milliseconds is None else (f"{value:.1f}" for value in milliseconds)
    return {f"{name}_p50_ms": p50, f"{name}_p95_ms": p95}
