"""One-slot mailbox and its worker thread: a slow network sees the newest frame, never a queue of old ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestFrame(Generic[T]):
    """Hands the newest item from one thread to another; an item not taken before the next one comes is dropped."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._items: list[T] = []
        self._closed = False

    def put(self, item: T) -> bool:
        """Store `item`; True if an older one, not yet taken, was dropped for it. A closed mailbox takes nothing."""
        with self._condition:
            if self._closed:
                return False
            dropped = bool(self._items)
            self._items = [item]
            self._condition.notify()
            return dropped

    def take(self, timeout: float | None = None) -> T | None:
        """Wait for an item and remove it; None after `timeout` seconds or once the mailbox is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._items or self._closed, timeout)
            return self._items.pop() if self._items and not self._closed else None

    def close(self) -> None:
        """Drop what is inside and wake the taker for good."""
        with self._condition:
            self._closed = True
            self._items = []
            self._condition.notify_all()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed


class FrameWorker(Generic[T]):
    """A daemon thread that calls `handle(item)` for the newest item; an exception goes to `on_error`, not further."""

    def __init__(self, handle: Callable[[T], None], on_error: Callable[[Exception], None]) -> None:
        self._handle = handle
        self._on_error = on_error
        self._mailbox: LatestFrame[T] = LatestFrame()
        self._thread = threading.Thread(target=self._run, name="mgcda-worker", daemon=True)
        self._thread.start()

    def put(self, item: T) -> bool:
        """Queue `item` for the thread; True if it replaced one that was still waiting."""
        return self._mailbox.put(item)

    @property
    def stopping(self) -> bool:
        """True once `stop` was called: a handler that is still busy must not publish any more."""
        return self._mailbox.closed

    def stop(self, timeout: float) -> bool:
        """Let the running item end, forget the waiting one, end the thread; False if it runs on after `timeout` s."""
        self._mailbox.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._mailbox.closed:
            item = self._mailbox.take()
            if item is None:
                continue
            try:
                self._handle(item)
            except Exception as error:  # one bad frame, whatever is wrong with it, must not end the node
                self._report(error)

    def _report(self, error: Exception) -> None:
        try:
            self._on_error(error)
        except Exception:  # a logger that fails while ROS shuts down
            self._mailbox.close()
