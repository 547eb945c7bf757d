"""The mailbox keeps the newest item only, nothing is lost between two workers, no handler's error ends one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mgcda_ros.latest_frame import FrameWorker, LatestFrames


def test_the_newest_item_wins_and_drops_are_told():
    box: LatestFrames[int] = LatestFrames()
    assert [box.put(n) for n in (1, 2, 3)] == [False, True, True]
    assert box.take(0.0) == [3]
    assert box.take(0.0) == []
    assert not box.put(4)


def test_closing_wakes_the_taker_and_refuses_items():
    box: LatestFrames[int] = LatestFrames()
    taken: list[list[int]] = [[7]]
    thread = threading.Thread(target=lambda: taken.append(box.take(30.0)))
    thread.start()
    box.close()
    thread.join(5.0)
    assert taken == [[7], []]
    assert not box.put(1)
    assert box.take(0.0) == []


def test_cameras_take_turns_and_each_keeps_its_newest():
    box: LatestFrames[str] = LatestFrames(3)
    for item in ("a1", "b1", "a2", "c1", "b2"):
        box.put(item, item[0])
    assert box.take(0.0) == ["a2"]  # it took the place of a1, which had waited longest
    box.put("a3", "a")
    assert [box.take(0.0) for _ in range(4)] == [["b2"], ["c1"], ["a3"], []]


def test_items_of_several_sources_come_together_within_a_bounded_wait():
    box: LatestFrames[str] = LatestFrames(3)
    box.put("a1", "a")
    later = threading.Timer(0.05, lambda: box.put("b1", "b"))
    later.start()
    assert box.take(0.0, most=2, wait=5.0) == ["a1", "b1"]  # full: it waits no longer
    later.join()
    box.put("c1", "c")
    started = time.monotonic()
    assert box.take(0.0, most=3, wait=0.1) == ["c1"]
    assert 0.1 <= time.monotonic() - started < 2.0
    for name in "abc":
        box.put(name, name)
    assert box.take(0.0, most=2) == ["a", "b"]
    assert box.take(0.0, most=2) == ["c"]


def test_worker_sees_the_first_and_the_newest_while_it_is_busy():
    seen: list[int] = []
    started, release = threading.Event(), threading.Event()

    def handle(items: list[int]) -> None:
        seen.extend(items)
        started.set()
        release.wait(5.0)

    worker = FrameWorker(handle, lambda _: None)
    worker.put(0)
    assert started.wait(5.0)
    assert sum(worker.put(n) for n in range(1, 10)) == 8
    release.set()
    deadline = time.monotonic() + 5.0
    while len(seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    assert worker.stop(5.0)
    assert seen == [0, 9]
    assert worker.busy_s == 0.0


def test_it_tells_for_how_long_a_handler_is_at_work():
    begun, release = threading.Event(), threading.Event()

    def handle(_: list[int]) -> None:
        begun.set()
        release.wait(5.0)

    worker = FrameWorker(handle, lambda _: None)
    assert worker.busy_s == 0.0
    worker.put(1)
    assert begun.wait(5.0)
    time.sleep(0.05)
    assert 0.05 <= worker.busy_s < 5.0
    release.set()
    assert until(lambda: worker.busy_s == 0.0)
    assert worker.stop(5.0)


def test_exceptions_are_reported_and_the_next_item_is_handled():
    errors: list[Exception] = []
    handled = threading.Event()

    def handle(items: list[int]) -> None:
        if items == [0]:
            raise ValueError("bad frame")
        handled.set()

    worker = FrameWorker(handle, errors.append)
    worker.put(0)
    deadline = time.monotonic() + 5.0
    while not errors and time.monotonic() < deadline:
        time.sleep(0.005)
    worker.put(1)
    assert handled.wait(5.0)
    assert worker.stop(5.0)
    assert [str(error) for error in errors] == ["bad frame"]


def test_stop_tells_whether_the_handler_ended():
    release = threading.Event()

    def handle(_: list[int]) -> None:
        release.wait(5.0)

    worker = FrameWorker(handle, lambda _: None)
    worker.put(1)
    time.sleep(0.05)
    assert not worker.stop(0.05)
    assert worker.stopping
    release.set()
    assert worker.stop(5.0)


def until(done: Callable[[], object], timeout: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout
    while not done() and time.monotonic() < deadline:
        time.sleep(0.005)
    return bool(done())


def test_a_step_is_timed_alone_and_may_have_a_grace():
    steps: list[float] = []
    release = threading.Event()

    def handle(_: list[int]) -> None:
        time.sleep(0.05)
        steps.append(worker.busy_s)
        worker.begin_step()
        steps.append(worker.busy_s)
        worker.begin_step(60.0)
        release.wait(5.0)

    worker = FrameWorker(handle, lambda _: None)
    worker.put(7)
    assert until(lambda: len(steps) == 2)
    time.sleep(0.05)
    assert steps[0] >= 0.05 > steps[1]
    assert (worker.busy_s, worker.in_work) == (0.0, [7])
    release.set()
    assert until(lambda: worker.in_work == [])
    assert worker.stop(5.0)


def test_what_is_handed_over_is_neither_lost_nor_overtaken_and_only_one_waits():
    seen: list[int] = []
    turns = threading.Semaphore(0)

    def slow(items: list[int]) -> None:
        seen.extend(items)
        turns.acquire(timeout=5.0)

    second = FrameWorker(slow, lambda _: None)
    made: list[int] = []

    def give() -> None:
        for item in range(5):
            made.append(item)
            second.hand_over(item)

    giver = threading.Thread(target=give)
    giver.start()
    for number in range(5):
        assert until(lambda number=number: len(seen) == number + 1 and len(made) == min(number + 2, 5))
        time.sleep(0.02)
        assert len(made) <= number + 2  # one in work, one that waits: no third is made
        turns.release()
    giver.join(5.0)
    assert second.stop(5.0)
    assert seen == list(range(5))


def test_stopping_the_first_worker_waits_for_what_it_hands_over_and_then_the_second_ends():
    seen: list[int] = []
    begun, release = threading.Event(), threading.Event()

    def slow(items: list[int]) -> None:
        seen.extend(items)
        begun.set()
        release.wait(5.0)

    second = FrameWorker(slow, lambda _: None)
    first: FrameWorker[int] = FrameWorker(lambda items: second.hand_over(*items), lambda _: None)
    first.put(1)
    assert begun.wait(5.0)
    first.put(2)  # handed over, but the second is busy
    time.sleep(0.05)
    assert not first.stop(0.05)
    release.set()
    assert first.stop(5.0) and second.stop(5.0)
    assert seen == [1, 2]


def test_a_giver_does_not_wait_for_a_worker_that_was_stopped():
    begun, release = threading.Event(), threading.Event()

    def slow(_: list[int]) -> None:
        begun.set()
        release.wait(5.0)

    second = FrameWorker(slow, lambda _: None)
    first: FrameWorker[int] = FrameWorker(lambda items: second.hand_over(*items), lambda _: None)
    first.put(1)
    assert begun.wait(5.0)
    first.put(2)
    time.sleep(0.05)
    assert not second.stop(0.05)
    assert first.stop(5.0)
    release.set()
    assert second.stop(5.0)
