"""Counts, window and verdict of the diagnostics, with a clock of our own."""

from __future__ import annotations

from typing import Any

from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus

from mgcda_ros.diagnostics import FrameStatistics, judge, to_diagnostics


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def ten_hertz(seconds: float, latency: float = 0.04) -> tuple[FrameStatistics, Clock]:
    clock = Clock()
    statistics = FrameStatistics(window_s=5.0, clock=clock)
    for _ in range(round(seconds * 10)):
        clock.now += 0.1
        statistics.received()
        statistics.published(latency)
    return statistics, clock


def test_rates_are_those_of_the_window():
    statistics, clock = ten_hertz(20.0)
    snapshot = statistics.snapshot()
    assert 9.5 <= snapshot.input_hz <= 10.5
    assert snapshot.frames_in == snapshot.masks_out == 200
    clock.now += 6.0
    snapshot = statistics.snapshot()
    assert (snapshot.input_hz, snapshot.latency_p50_ms) == (0.0, None)
    assert snapshot.frames_in == 200


def test_rates_are_right_before_the_window_is_full():
    assert 9.5 <= ten_hertz(2.0)[0].snapshot().input_hz <= 10.5


def test_percentiles():
    statistics = FrameStatistics(clock=Clock())
    for milliseconds in range(1, 101):
        statistics.published(milliseconds / 1000)
    snapshot = statistics.snapshot()
    assert snapshot.latency_p50_ms is not None
    assert snapshot.latency_p95_ms is not None
    assert abs(snapshot.latency_p50_ms - 50.5) < 0.1
    assert abs(snapshot.latency_p95_ms - 95.05) < 0.1


def test_verdicts():
    statistics, clock = ten_hertz(3.0)
    assert judge(statistics.snapshot(), "active", "/image") == (DiagnosticStatus.OK, "active")
    assert judge(statistics.snapshot(), "inactive", "/image")[0] == DiagnosticStatus.OK
    assert judge(statistics.snapshot(), "unconfigured", "/image", "no weights") == (
        DiagnosticStatus.ERROR,
        "no weights",
    )
    statistics.failed("cut off")
    assert judge(statistics.snapshot(), "active", "/image") == (DiagnosticStatus.WARN, "cut off")
    clock.now += 6.0
    level, message = judge(statistics.snapshot(), "active", "/image")
    assert (level, "/image" in message) == (DiagnosticStatus.WARN, True)
    statistics.received()
    assert judge(statistics.snapshot(), "active", "/image")[0] == DiagnosticStatus.WARN
    statistics.failed("all are bad")
    assert judge(statistics.snapshot(), "active", "/image")[0] == DiagnosticStatus.ERROR


def test_restart_forgets_the_window_but_not_the_counts():
    statistics, _ = ten_hertz(3.0)
    statistics.failed("old")
    statistics.dropped()
    statistics.restart()
    snapshot = statistics.snapshot()
    assert (snapshot.input_hz, snapshot.recent_error) == (0.0, None)
    assert (snapshot.frames_in, snapshot.errors, snapshot.dropped) == (30, 1, 1)


def test_message():
    statistics, _ = ten_hertz(3.0)
    facts = {"weights": "lite", "device": "cpu"}
    array: Any = to_diagnostics(
        statistics.snapshot(), (DiagnosticStatus.OK, "active"), "/mgcda_node", facts, Time(sec=9)
    )
    values = {pair.key: pair.value for pair in array.status[0].values}
    assert array.header.stamp.sec == 9
    assert values["latency_p50_ms"] == "40.0"
    assert values["weights"] == "lite"
    assert {"input_hz", "output_hz", "latency_p95_ms", "dropped", "errors"} <= set(values)
    assert array.status[0].name.startswith("/mgcda_node")
