"""Several items in work at a time, in order: one a core on a CPU; beside a GPU the next is read and the last written.

One frame a core beats one frame on all cores: nobody waits for the slowest part of every layer.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mgcda_core.config import SegmenterConfig

Item = TypeVar("Item")
Made = TypeVar("Made")

MOST_AT_A_TIME = 4
"""Each frame in work takes the memory of a run."""


def in_flight(
    work: Callable[[Item], Made], items: Iterable[Item], threads: int, prepare: Callable[[], object] | None = None
) -> Iterator[Made]:
    """work(item) of each item in order, made by `threads` threads that stay that many items ahead of the consumer.

    `items` are drawn here, in the consumer's thread, when one is needed; `prepare` is called once in each of the
    others. What `work` or `items` raise comes when it is its turn, after all that was made of the items before. A
    consumer that leaves waits for the items in work, no others are begun.
    """
    with ThreadPoolExecutor(threads, initializer=prepare) as pool:
        waiting: deque[Future[Made]] = deque()
        try:
            for future in _submitted(pool, work, items):
                waiting.append(future)
                if len(waiting) > threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _submitted(pool: ThreadPoolExecutor, work: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Future[Made]]:
    """A future of every item; if drawing them fails, the last one holds the error."""
    try:
        for item in items:
            yield pool.submit(work, item)
    except Exception as error:
        failed: Future[Made] = Future()
        failed.set_exception(error)
        yield failed


def side_by_side(device: str, config: SegmenterConfig) -> bool:
    """Whether several frames may be computed at a time: on a CPU, by networks that do not need gigabytes a frame."""
    height, width = config.segmentation.size
    return device == "cpu" and height * width <= 512 * 1024


def at_a_time(device: str, config: SegmenterConfig) -> int:
    """How many frames to compute at a time: one a core up to MOST_AT_A_TIME, or 1 where they may not run so."""
    return min(MOST_AT_A_TIME, os.cpu_count() or 1) if side_by_side(device, config) else 1


def use_one_core() -> None:
    """Keep PyTorch, if it is what runs here, to one core in the calling thread."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
