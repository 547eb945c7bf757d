"""Counts, window and verdict of the diagnostics, with a clock of our own."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus

from mgcda_ros.device_health import memory_mb, temperature
from mgcda_ros.diagnostics import (
    Condition,
    FrameStatistics,
    Passage,
    age,
    judge,
    precision,
    to_diagnostics,
    to_status,
)
from mgcda_ros.node_parameters import NodeParameters

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
ACTIVE = Condition("active")
LIMITS = NodeParameters()
USUAL = Passage(latency_s=0.04, processing_s=0.03)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def ten_hertz(seconds: float, passage: Passage = USUAL) -> tuple[FrameStatistics, Clock]:
    clock = Clock()
    statistics = FrameStatistics(window_s=5.0, clock=clock)
    for _ in range(round(seconds * 10)):
        clock.now += 0.1
        statistics.received()
        statistics.published(passage)
    return statistics, clock


def verdict(statistics: FrameStatistics, condition: Condition = ACTIVE, limits: Any = LIMITS) -> tuple[bytes, str]:
    return judge(statistics.snapshot(), condition, "/image", limits)


def test_rates_are_those_of_the_window():
    statistics, clock = ten_hertz(20.0)
    snapshot = statistics.snapshot()
    assert 9.5 <= snapshot.input_hz <= 10.5
    assert snapshot.frames_in == snapshot.masks_out == 200
    clock.now += 6.0
    snapshot = statistics.snapshot()
    assert (snapshot.input_hz, snapshot.latency_ms, snapshot.quiet_s) == (0.0, None, 6.0)
    assert snapshot.frames_in == 200


def test_rates_are_right_before_the_window_is_full():
    assert 9.5 <= ten_hertz(2.0)[0].snapshot().input_hz <= 10.5


def test_percentiles():
    statistics = FrameStatistics(clock=Clock())
    for milliseconds in range(1, 101):
        statistics.published(
            Passage(milliseconds / 1000, milliseconds / 2000, 0.01, 1.0 if milliseconds > 50 else None)
        )
    snapshot = statistics.snapshot()
    assert snapshot.latency_ms == pytest.approx((50.5, 95.05))
    assert snapshot.processing_ms == pytest.approx((25.25, 47.525))
    assert snapshot.network_ms == (10.0, 10.0)
    assert snapshot.age_ms == (1000.0, 1000.0)


@pytest.mark.parametrize(
    ("stamp", "expected"),
    [
        (Time(sec=99, nanosec=500_000_000), 0.5),
        (Time(), None),  # none was set
        (Time(sec=101), None),  # from the future: another clock
        (Time(sec=-2_000_000_000), None),
    ],
)
def test_a_stamp_of_another_clock_tells_no_age(stamp: Time, expected: float | None):
    assert age(stamp, 100_000_000_000) == expected


def test_verdicts_of_the_frames():
    statistics, clock = ten_hertz(3.0)
    assert verdict(statistics) == (OK, "active")
    statistics.failed("cut off", decoding=True)
    assert verdict(statistics) == (WARN, "cut off")
    clock.now += 6.0
    assert verdict(statistics) == (WARN, "no image on /image for 6 s")
    statistics.received()
    assert verdict(statistics) == (WARN, "images come in, no mask in the last 5 s")
    statistics.failed("all are bad")
    assert verdict(statistics) == (ERROR, "all are bad")
    snapshot = statistics.snapshot()
    assert (snapshot.errors, snapshot.decode_errors) == (2, 1)


@pytest.mark.parametrize(
    ("condition", "level", "said"),
    [
        (Condition("inactive"), OK, "inactive: frames are not processed"),
        (Condition("unconfigured", failure="no weights"), ERROR, "no weights"),
        (Condition("active", enabled=False), OK, "switched off by ~/enable: frames are not processed"),
        (Condition("active", engine="building 7 s"), OK, "active, engine building 7 s"),
        (Condition("active", engine="failed: no kernel"), WARN, "active, engine failed: no kernel"),
        (
            Condition("active", network_problem="another backend stands in for the chosen one: CUDA error"),
            WARN,
            "another backend stands in for the chosen one: CUDA error",
        ),
        (Condition("active", input_problem="best effort"), WARN, "best effort"),
        (Condition("active", temperature=99.0), WARN, "the device has 99 degrees Celsius"),
        (Condition("active", temperature=60.0), OK, "active"),
    ],
)
def test_verdicts_of_the_node(condition: Condition, level: bytes, said: str):
    assert verdict(ten_hertz(3.0)[0], condition) == (level, said)


@pytest.mark.parametrize(
    ("passage", "level"),
    [
        (Passage(0.4, 0.4), OK),
        (Passage(0.6, 0.4), WARN),
        (Passage(2.1, 0.4), ERROR),
        (Passage(0.1, 0.1, 0.1, 0.6), WARN),  # late already when it arrived
    ],
)
def test_latency_is_judged_by_its_limits(passage: Passage, level: bytes):
    assert verdict(ten_hertz(3.0, passage)[0])[0] == level
    assert verdict(ten_hertz(3.0, passage)[0], limits=NodeParameters(latency_warn=9.0, latency_error=9.0))[0] == OK


def test_restart_forgets_the_window_but_not_the_counts():
    statistics, clock = ten_hertz(3.0)
    statistics.failed("old")
    statistics.dropped()
    clock.now += 60.0
    statistics.restart()
    snapshot = statistics.snapshot()
    assert (snapshot.input_hz, snapshot.recent_error, snapshot.quiet_s) == (0.0, None, 0.0)
    assert (snapshot.frames_in, snapshot.errors, snapshot.dropped) == (30, 1, 1)


def test_message():
    statistics, _ = ten_hertz(3.0)
    status = to_status(statistics.snapshot(), (OK, "active"), "/mgcda_node: x", {"weights": "lite", "device": "cpu"})
    array: Any = to_diagnostics([status], Time(sec=9))
    values = {pair.key: pair.value for pair in array.status[0].values}
    assert array.header.stamp.sec == 9
    assert (values["latency_p50_ms"], values["processing_p95_ms"], values["age_p50_ms"]) == ("40.0", "30.0", "n/a")
    assert (values["weights"], array.status[0].hardware_id) == ("lite", "cpu")
    assert {"input_hz", "output_hz", "dropped", "errors", "decode_errors"} <= set(values)


def test_memory_and_temperature(tmp_path: Path):
    assert 10.0 < float(memory_mb("cpu")["process_memory_mb"]) < 1e5
    assert temperature(zones=tmp_path) is None
    for name, text in (("0", "41500\n"), ("1", "67000\n"), ("2", "no number")):
        (tmp_path / f"thermal_zone{name}").mkdir()
        (tmp_path / f"thermal_zone{name}" / "temp").write_text(text)
    (tmp_path / "thermal_zone3").mkdir()  # a zone that has no reading
    assert temperature(zones=tmp_path) == 67.0
    assert temperature("cuda:0 Orin", tmp_path) == 67.0  # no NVML here


def test_a_gpu_tells_memory_and_temperature_and_a_lost_one_neither(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def lost(_: int) -> Any:
        raise RuntimeError("CUDA error: unspecified launch failure")

    cuda = SimpleNamespace(
        is_initialized=lambda: True, mem_get_info=lambda n: (n << 30, 4 << 30), temperature=lambda n: n
    )
    monkeypatch.setitem(sys.modules, "torch", cast("Any", SimpleNamespace(cuda=cuda)))
    assert memory_mb("cuda:3 Orin")["device_memory_mb"] == "1024 of 4096"
    assert temperature("cuda:71 L4") == 71.0
    cuda.mem_get_info = cuda.temperature = lost
    assert memory_mb("cuda:3 Orin")["device_memory_mb"] == "n/a"
    assert temperature("cuda:71 L4", tmp_path) is None


@pytest.mark.parametrize(
    ("backend", "runs"),
    [("torch lite", "fp32"), ("torch-compile my fp16", "fp32"), ("onnxruntime-cuda my lite fp16", "fp16")],
)
def test_the_precision_is_what_runs(backend: str, runs: str):
    assert precision(backend) == runs


def test_a_run_that_hung_is_a_warning_while_another_backend_is_loaded():
    statistics = FrameStatistics()
    statistics.received()
    statistics.failed("TimeoutError: a run took more than 20 s")
    condition = Condition("active", network_problem="a run hung; a fresh backend is loaded")
    assert verdict(statistics, condition) == (WARN, "a run hung; a fresh backend is loaded")
    assert verdict(statistics)[0] == ERROR
