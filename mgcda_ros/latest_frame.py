"""One-slot mailbox and its worker thread: a slow network sees the newest frame, never a queue of old ones.

Two workers make a pipeline: the first one `put`s frames over one another, the second gets each result by `hand_over`.
"""

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
            self._condition.notify_all()
            return dropped

    def wait_taken(self) -> None:
        """Wait until the item inside is taken, or dropped because the mailbox was closed."""
        with self._condition:
            self._condition.wait_for(lambda: not self._items)

    def take(self, timeout: float | None = None) -> T | None:
        """Wait for an item and remove it; None after `timeout` seconds or once the mailbox is closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._items or self._closed, timeout)
            if not self._items:
                return None
            self._condition.notify_all()
            return self._items.pop()

    def close(self) -> None:
        """Drop what is inside and wake everybody for good."""
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

    def __init__(
        self, handle: Callable[[T], None], on_error: Callable[[Exception], None], name: str = "mgcda-worker"
    ) -> None:
        self._handle = handle
        self._on_error = on_error
        self._mailbox: LatestFrame[T] = LatestFrame()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T) -> bool:
        """Queue `item` for the thread; True if it replaced one that was still waiting."""
        return self._mailbox.put(item)

    def hand_over(self, item: T) -> None:
        """Give `item` to the thread and wait until it begins with it, so that none is lost; for one giver only.

        It returns at once, `item` forgotten, if the thread was stopped.
        """
        self._mailbox.put(item)
        self._mailbox.wait_taken()

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
