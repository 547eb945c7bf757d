"""The mailbox keeps the newest item only, and nothing a handler does ends the worker."""

from __future__ import annotations

import threading
import time

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
