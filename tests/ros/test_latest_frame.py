"""The mailbox keeps the newest item only, nothing is lost between two workers, no handler's error ends one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mgcda_ros.latest_frame import FrameWorker, LatestFrame


def test_the_newest_item_wins_and_drops_are_told():
    box: LatestFrame[int] = LatestFrame()
    assert [box.put(n) for n in (1, 2, 3)] == [False, True, True]
    assert box.take(0.0) == 3
    assert box.take(0.0) is None
    assert not box.put(4)


def test_closing_wakes_the_taker_and_refuses_items():
    box: LatestFrame[int] = LatestFrame()
    taken: list[int | None] = [7]
    thread = threading.Thread(target=lambda: taken.append(box.take(30.0)))
    thread.start()
    box.close()
    thread.join(5.0)
    assert taken == [7, None]
    assert not box.put(1)
    assert box.take(0.0) is None


def test_worker_sees_the_first_and_the_newest_while_it_is_busy():
    seen: list[int] = []
    started, release = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        seen.append(item)
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


def test_exceptions_are_reported_and_the_next_item_is_handled():
    errors: list[Exception] = []
    handled = threading.Event()

    def handle(item: int) -> None:
        if item == 0:
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

    def handle(_: int) -> None:
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


def test_what_is_handed_over_is_neither_lost_nor_overtaken_and_only_one_waits():
    seen: list[int] = []
    turns = threading.Semaphore(0)

    def slow(item: int) -> None:
        seen.append(item)
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

    def slow(item: int) -> None:
        seen.append(item)
        begun.set()
        release.wait(5.0)

    second = FrameWorker(slow, lambda _: None)
    first = FrameWorker(second.hand_over, lambda _: None)
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

    def slow(_: int) -> None:
        begun.set()
        release.wait(5.0)

    second = FrameWorker(slow, lambda _: None)
    first = FrameWorker(second.hand_over, lambda _: None)
    first.put(1)
    assert begun.wait(5.0)
    first.put(2)
    time.sleep(0.05)
    assert not second.stop(0.05)
    assert first.stop(5.0)
    release.set()
    assert second.stop(5.0)
