"""One slot a camera, and the worker thread behind them: a slow network sees the newest frames, never a queue.

Two workers make a pipeline: the first one's frames replace one another, the second gets each result by `hand_over`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestFrames(Generic[T]):
    """Hands the newest item of each source from other threads to one; one not taken before the next comes is dropped.

    Sources take turns: whose item has waited longest, or took the place of one that had, goes first.
    """

    def __init__(self, sources: int = 1) -> None:
        self._condition = threading.Condition()
        self._items: dict[str, T] = {}
        self._sources = sources
        self._closed = False

    def put(self, item: T, source: str = "") -> bool:
        """Store `item`; True if an older one of `source`, not yet taken, was dropped. A closed one takes nothing."""
        with self._condition:
            if self._closed:
                return False
            dropped = source in self._items
            self._items[source] = item  # keeps the place in the row that the older one had
            self._condition.notify_all()
            return dropped

    def wait_taken(self) -> None:
        """Wait until all items are taken, or dropped because it was closed."""
        with self._condition:
            self._condition.wait_for(lambda: not self._items)

    def take(self, timeout: float | None = None, most: int = 1, wait: float = 0.0) -> list[T]:
        """Wait for an item and remove up to `most`, of a source each; [] after `timeout` s or once it is closed.

        If there is a place left, they wait up to `wait` seconds for items of the other sources.
        """
        with self._condition:
            self._condition.wait_for(lambda: self._items or self._closed, timeout)
            full = min(most, self._sources)
            if self._items and len(self._items) < full:
                self._condition.wait_for(lambda: len(self._items) >= full or self._closed, wait)
            taken = [self._items.pop(source) for source in list(self._items)[:most]]
            self._condition.notify_all()
            return taken

    def close(self) -> list[T]:
        """Wake everybody for good; what was inside is dropped, and given here."""
        with self._condition:
            self._closed = True
            left = list(self._items.values())
            self._items.clear()
            self._condition.notify_all()
            return left

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._closed


class FrameWorker(Generic[T]):
    """A daemon thread that calls `handle(items)` for the newest items; exceptions go to `on_error`, not further.

    `most` items of as many of the `sources` come together, after at most `wait` seconds; both may be set at any time.
    """

    def __init__(
        self,
        handle: Callable[[list[T]], None],
        on_error: Callable[[Exception], None],
        name: str = "mgcda-worker",
        sources: int = 1,
    ) -> None:
        self.most, self.wait = 1, 0.0
        self.forgotten: list[T] = []
        """What was still waiting when it was stopped."""
        self.in_work: list[T] = []
        """What `handle` was called with last, and has not come back from."""
        self._handle = handle
        self._on_error = on_error
        self._mailbox: LatestFrames[T] = LatestFrames(sources)
        self._begun: float | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, item: T, source: str = "") -> bool:
        """Queue `item` for the thread; True if it replaced one of `source` that was still waiting."""
        return self._mailbox.put(item, source)

    def hand_over(self, item: T) -> None:
        """Give `item` to the thread and wait until it begins with it, so that none is lost; for one giver only.

        It returns at once, `item` forgotten, if the thread was stopped.
        """
        self._mailbox.put(item)
        self._mailbox.wait_taken()

    @property
    def busy_s(self) -> float:
        """Seconds since the thread began with the items in work, or a step of them; 0 while it waits."""
        begun = self._begun
        return 0.0 if begun is None else max(0.0, time.monotonic() - begun)

    def begin_step(self, grace_s: float = 0.0) -> None:
        """For `handle`: `busy_s` counts from now on, or from `grace_s` seconds later for a step that may take long."""
        self._begun = time.monotonic() + grace_s

    @property
    def stopping(self) -> bool:
        """True once `stop` was called: a handler that is still busy must not publish any more."""
        return self._mailbox.closed

    def stop(self, timeout: float) -> bool:
        """Let the running items end, forget the waiting ones, end the thread; False if it runs on after `timeout` s."""
        self.forgotten += self._mailbox.close()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._mailbox.closed:
            items = self._mailbox.take(None, self.most, self.wait)
            if not items:
                continue
            self.in_work = items
            self.begin_step()
            try:
                self._handle(items)
            except Exception as error:  # one bad frame, whatever is wrong with it, must not end the node
                self._report(error)
            self._begun, self.in_work = None, []

    def _report(self, error: Exception) -> None:
        try:
            self._on_error(error)
        except Exception:  # a logger that fails while ROS shuts down
            self._mailbox.close()
