"""Items in flight: their order, how many at a time, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from mgcda_core.config import PROFILES
from mgcda_core.inference.pipeline import MOST_AT_A_TIME, at_a_time, in_flight, side_by_side

THREADS = 3


def counted(drawn: list[int], count: int = 20) -> Iterator[int]:
    for number in range(count):
        drawn.append(number)
        yield number


def test_in_order_side_by_side_and_not_far_ahead() -> None:
    """The barrier opens only for as many threads as were asked for; of 18 items none is left without company."""
    together, drawn, prepared = threading.Barrier(THREADS), list[int](), list[str]()

    def work(number: int) -> int:
        together.wait(10.0)
        return number * number

    items = counted(drawn, 18)
    for place, made in enumerate(in_flight(work, items, THREADS, lambda: prepared.append("thread"))):
        assert made == place * place
        assert len(drawn) <= place + THREADS + 1
    assert drawn == list(range(18))
    assert len(prepared) == THREADS


def failing_at(number: int) -> Iterator[int]:
    yield from range(number)
    raise OSError("the source broke")


def no_seven(number: int) -> int:
    if number == 7:
        raise ValueError("seven")
    return number


@pytest.mark.parametrize(
    ("items", "error", "before"),
    [(range(20), "seven", 7), (failing_at(5), "the source broke", 5), (failing_at(0), "the source broke", 0)],
    ids=["work", "source", "empty source"],
)
def test_an_error_comes_after_what_was_before_it(items: Iterator[int], error: str, before: int) -> None:
    made: list[int] = []
    with pytest.raises((ValueError, OSError), match=error):
        for number in in_flight(no_seven, items, THREADS):
            made.append(number)
    assert made == list(range(before))


def test_a_consumer_that_leaves_ends_it() -> None:
    drawn, begun = list[int](), list[int]()
    before = threading.active_count()
    flight = in_flight(lambda number: begun.append(number) or number, counted(drawn), THREADS)
    assert [next(flight), next(flight)] == [0, 1]
    del flight
    assert threading.active_count() == before
    assert len(begun) <= len(drawn) <= 2 + THREADS


def test_how_many_at_a_time() -> None:
    lite, reference = PROFILES["lite"], PROFILES["reference"]
    assert side_by_side("cpu", lite) and 1 <= at_a_time("cpu", lite) <= MOST_AT_A_TIME
    assert at_a_time("cuda:0 NVIDIA Orin", lite) == 1
    assert at_a_time("cpu", reference) == 1
