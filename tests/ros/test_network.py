"""The network and what takes its place, without ROS: stand-ins for `load`, and a clock of our own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from mgcda_ros import loading as loading_module
from mgcda_ros import network as module
from mgcda_ros.network import Choice, Network


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(f"info {message}")

    def warning(self, message: str) -> None:
        self.lines.append(f"warning {message}")

    def error(self, message: str) -> None:
        self.lines.append(f"error {message}")


class Opener:
    """Stands in for `load`: what it was asked for, and which backends do not open."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.broken: set[str] = set()
        self.hung: set[str] = set()
        self.released = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, weights: str, device: str, backend: str, precision: str) -> Any:
        self.gate.wait(10.0)
        self.asked.append((device, backend))
        if backend in self.hung:
            self.released.wait(10.0)
        if backend in self.broken:
            raise RuntimeError(f"{backend} does not open")
        named = SimpleNamespace(name=f"{backend} {weights}", device=device, sha256="0" * 64, max_size=(100, 100))
        return SimpleNamespace(backend=named, size=None, warm_up=lambda: None)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture()
def opener(monkeypatch: pytest.MonkeyPatch) -> Opener:
    opener = Opener()
    monkeypatch.setattr(module, "load", opener)
    monkeypatch.setattr(module, "pending_engine", lambda *_: None)
    return opener


def opened(log: Log, clock: Clock, backend: str = "tensorrt") -> Network:
    network = Network(log, clock)
    network.open(Choice("lite", "cuda:0", backend))
    return network


def polled(network: Network, done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5.0
    while not done():
        assert time.monotonic() < deadline
        network.poll()
        time.sleep(0.002)


def running(network: Network) -> str:
    return network.predictor.backend.name if network.predictor else ""


def test_it_opens_once_and_anew_only_for_another_choice(opener: Opener) -> None:
    network = opened(Log(), Clock())
    network.open(Choice("lite", "cuda:0", "tensorrt"))
    assert opener.asked == [("cuda:0", "tensorrt")]
    network.open(Choice("lite", "cpu", "torch"))
    assert running(network) == "torch lite"
    network.close()
    assert network.predictor is None


def test_one_failed_run_changes_nothing_two_in_a_row_call_a_stand_in_and_the_chosen_one_comes_back(
    opener: Opener,
) -> None:
    log, clock = Log(), Clock()
    network = opened(log, clock)
    opener.broken = {"tensorrt"}  # the GPU is gone
    network.failed(RuntimeError("CUDA error"))
    network.worked()
    network.failed(RuntimeError("CUDA error"))
    network.poll()
    assert (network.standing_in, network.loading) == (None, False)
    network.failed(RuntimeError("CUDA error"))
    assert running(network) == "tensorrt lite"
    polled(network, lambda: running(network) == "onnxruntime lite")
    assert network.standing_in == "CUDA error"
    assert "warning the network fails (CUDA error): onnxruntime on the CPU is loaded to stand in" in log.lines
    clock.now += module.FIRST_RETRY_S  # still broken
    polled(network, lambda: "warning recovery failed: tensorrt does not open" in log.lines)
    assert running(network) == "onnxruntime lite"
    opener.broken = set()
    network.poll()
    assert not network.loading  # the next try waits twice as long
    clock.now += 2 * module.FIRST_RETRY_S
    polled(network, lambda: running(network) == "tensorrt lite")
    assert network.standing_in is None
    assert log.lines[-1] == "info from now on tensorrt lite on cuda:0"


def test_a_stand_in_that_fails_as_well_gives_way_to_the_next_and_then_there_is_none(opener: Opener) -> None:
    log = Log()
    network = opened(log, Clock())
    opener.broken = {"onnxruntime"}
    for _ in range(2):
        network.failed(MemoryError())
    polled(network, lambda: running(network) == "torch lite")
    assert network.standing_in == "MemoryError"
    assert "warning stand-in failed: onnxruntime does not open" in log.lines
    for _ in range(5):
        network.failed(RuntimeError("torch as well"))
        network.poll()
    assert (running(network), network.loading) == ("torch lite", False)


def test_the_backend_that_failed_is_not_its_own_stand_in(opener: Opener) -> None:
    network = opened(Log(), Clock(), "onnxruntime")
    for _ in range(2):
        network.failed(RuntimeError("not finite"))
    polled(network, lambda: running(network) == "torch lite")
    assert opener.asked[1:] == [("cpu", "torch")]


def test_reload_opens_the_same_again_while_the_old_one_serves(opener: Opener) -> None:
    network = opened(Log(), Clock())
    before = network.predictor
    opener.gate.clear()
    loading = network.reload()
    network.poll()
    assert network.predictor is before
    with pytest.raises(RuntimeError, match="being loaded already"):
        network.reload()
    opener.gate.set()
    polled(network, lambda: network.predictor is not before)
    assert loading.done
    assert network.predictor is loading.predictor


def test_a_reload_that_fails_leaves_the_network_as_it_is(opener: Opener) -> None:
    log = Log()
    network = opened(log, Clock())
    before = network.predictor
    opener.broken = {"tensorrt"}
    loading = network.reload()
    polled(network, lambda: not network.loading)
    assert network.predictor is before
    assert str(loading.error) == "tensorrt does not open"
    assert "warning reload failed: tensorrt does not open" in log.lines


def test_nothing_is_reloaded_before_it_was_loaded() -> None:
    with pytest.raises(RuntimeError, match="nothing is loaded: configure the node, or if it is active"):
        Network(Log()).reload()


def test_an_abandoned_network_is_replaced_by_a_fresh_one(opener: Opener) -> None:
    network = opened(Log(), Clock())
    hung = network.predictor
    network.abandon()
    assert network.predictor is None
    assert network.stuck
    polled(network, lambda: network.predictor is not None)
    assert network.predictor is not hung


def test_a_fresh_backend_that_hangs_as_well_gives_way_to_a_stand_in_and_is_not_tried_again(opener: Opener) -> None:
    log, clock = Log(), Clock()
    network = opened(log, clock)
    opener.hung = {"tensorrt"}
    network.abandon()
    network.poll()
    assert network.problem == "a run hung; a fresh backend is loaded"
    clock.now += module.SOON_S + 1.0
    polled(network, lambda: running(network) == "onnxruntime lite")
    assert "warning fresh start failed: it took more than 180 s and is abandoned" in log.lines
    assert network.problem == "another backend stands in for the chosen one: it took more than 180 s and is abandoned"
    clock.now += 10.0 * module.LAST_RETRY_S
    network.poll()
    assert not network.loading  # each try would leave a thread behind
    opener.released.set()  # the late one changes nothing
    time.sleep(0.05)
    network.poll()
    assert (running(network), network.stuck, network.failure) == ("onnxruntime lite", True, None)


def test_without_any_stand_in_left_it_says_so_until_something_is_loaded(opener: Opener) -> None:
    log, clock = Log(), Clock()
    network = opened(log, clock)
    opener.hung, opener.broken = {"tensorrt"}, {"onnxruntime", "torch"}
    network.abandon()
    clock.now += module.SOON_S + 1.0
    polled(network, lambda: network.failure is not None)
    said = (
        "no backend runs (it took more than 180 s and is abandoned): deactivate and activate the node to try once more"
    )
    assert network.failure == said
    assert f"error {said}" in log.lines
    opener.hung = set()
    opener.released.set()
    network.reload()
    polled(network, lambda: running(network) == "tensorrt lite")
    assert (network.failure, network.problem) == (None, None)


def test_a_reload_that_hangs_is_given_up_and_the_present_network_stays(opener: Opener) -> None:
    clock = Clock()
    network = opened(Log(), clock)
    opener.hung = {"tensorrt"}
    loading = network.reload()
    clock.now += module.SOON_S + 1.0
    network.poll()
    assert network.loading  # another runs: there is time
    clock.now += module.LATE_S
    network.poll()
    assert (network.loading, running(network), loading.done) == (False, "tensorrt lite", True)
    opener.released.set()


def test_the_first_run_of_a_shape_may_take_longer_where_it_is_compiled(opener: Opener) -> None:
    def named(name: str) -> Any:
        return SimpleNamespace(backend=SimpleNamespace(name=name))

    network, compiling = Network(Log()), named("torch-compile lite")
    shapes = [(1, 48, 70), (1, 48, 70), (2, 48, 70), (1, 48, 70)]
    assert [network.grace_s(compiling, shape) > 0.0 for shape in shapes] == [True, False, True, False]
    assert network.grace_s(named("torch-compile lite"), (1, 48, 70)) > 0.0  # another one compiles anew
    assert network.grace_s(named("onnxruntime lite fp32"), (1, 48, 70)) == 0.0


def test_closing_while_another_one_is_opened_lets_it_go(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading_module, "JOIN_TIMEOUT_S", 0.02)
    network = opened(Log(), Clock())
    opener.gate.clear()
    loading = network.reload()
    network.close()
    assert network.stuck
    assert loading.abandoned
    opener.gate.set()
    time.sleep(0.05)
    network.poll()
    assert (loading.predictor, network.predictor) == (None, None)


def test_a_fresh_start_that_fails_calls_a_stand_in(opener: Opener) -> None:
    """The GPU hung and is gone: without a predictor nothing else would ever fail, and nothing run."""
    log, clock = Log(), Clock()
    network = opened(log, clock)
    opener.broken = {"tensorrt", "onnxruntime"}
    network.abandon()
    polled(network, lambda: running(network) == "torch lite")
    assert network.standing_in == "tensorrt does not open"
    opener.broken = set()
    clock.now += module.FIRST_RETRY_S
    polled(network, lambda: running(network) == "tensorrt lite")
    assert network.standing_in is None
