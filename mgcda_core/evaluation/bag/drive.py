"""The frames of a recorded drive in the order of their stamps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from mgcda_core.data.rendered_bag import ANOMALY_TOPIC, LABELS_TOPIC
from mgcda_core.evaluation.bag.truth import readable_stamps
from mgcda_core.inference.bags import IMAGE_TYPES, BrokenFrame, RecordedFrame, bag_images, bag_topics
from mgcda_core.inference.sources import SourceError

Item = TypeVar("Item")


class Drive:
    """Frames of one image topic by ascending stamp; only what must wait for its turn is kept in memory.

    Recordings keep the order of arrival, in which a frame may come after a younger one: such frames are sorted in,
    `out_of_order` counts them and stderr says so. `damaged`: the recording was cut off, the stamps are those before.
    `undecodable` counts the frames that were skipped so far because they cannot be decoded. Raises SourceError naming
    recording and topic if there is no such topic or frame, or if two frames have one stamp (a camera driver that does
    not stamp).
    """

    def __init__(self, path: Path, topic: str | None = None) -> None:
        self.path = path
        self.topic = _image_topic(path, topic)
        self.undecodable = 0
        arrived, self.damaged = readable_stamps(path, self.topic)
        if not arrived:
            raise SourceError(f"{path} holds no message on topic {self.topic}")
        self.stamps = sorted(arrived)
        self.out_of_order = int(np.sum(np.array(arrived) < np.maximum.accumulate(arrived)))
        if self.out_of_order:
            late = f"{self.out_of_order} of {len(arrived)} frames came after a younger one and are sorted in by stamp"
            print(f"warning: {path}, topic {self.topic}: {late}", file=sys.stderr)
        repeated = [stamp for stamp, after in zip(self.stamps, self.stamps[1:], strict=False) if stamp == after]
        if repeated:
            raise SourceError(
                f"{path}, topic {self.topic}: frames share a stamp, {repeated[0]} ns first: "
                "answers and labels could not be told apart; record with a driver that stamps each frame"
            )

    def __len__(self) -> int:
        return len(self.stamps)

    @property
    def rate_hz(self) -> float:
        """Frames a second by the median distance of two frames, within what a video can hold; 10 for one frame."""
        period_ns = self._period_ns()
        return float(np.clip(1e9 / period_ns, 1.0, 60.0)) if period_ns else 10.0

    def seconds(self, count: int) -> float:
        """How long the first `count` frames last, the last one as long as the others; 0 for a single frame."""
        return (self.stamps[count - 1] - self.stamps[0] + self._period_ns()) / 1e9

    def _period_ns(self) -> float:
        return float(np.median(np.diff(self.stamps))) if len(self.stamps) > 1 else 0.0

    def frames(self) -> Iterator[RecordedFrame]:
        """All frames; a recording that was cut off gives what is readable, then raises SourceError.

        Frames that cannot be decoded are skipped, counted, and named on stderr at the end; SourceError if all are so.
        """
        first = ""
        try:
            for frame in in_order(bag_images(self.path, self.topic), self.stamps, lambda frame: frame.stamp_ns):
                if isinstance(frame, BrokenFrame):
                    self.undecodable += 1
                    first = first or frame.fault
                else:
                    yield frame
        finally:
            if first:
                skipped = f"{self.undecodable} of {len(self)} frames cannot be decoded and are skipped"
                print(f"warning: {skipped}, first {first}", file=sys.stderr)
        if self.undecodable == len(self):
            raise SourceError(f"no frame can be decoded: {first}")


def in_order(items: Iterable[Item], stamps: Sequence[int], stamp_of: Callable[[Item], int]) -> Iterator[Item]:
    """The items sorted by stamp, given all stamps ascending; an item waits until all older ones have come.

    If reading them fails with SourceError, those that wait come before it.
    """
    waiting: dict[int, Item] = {}
    turn = 0
    try:
        for item in items:
            waiting[stamp_of(item)] = item
            while turn < len(stamps) and stamps[turn] in waiting:
                yield waiting.pop(stamps[turn])
                turn += 1
    except SourceError:
        yield from (waiting[stamp] for stamp in sorted(waiting))
        raise


def _image_topic(path: Path, topic: str | None) -> str:
    """The named image topic, or the only one that is no truth."""
    found = sorted(name for name, kind in bag_topics(path).items() if kind in IMAGE_TYPES)
    cameras = [name for name in found if name not in (ANOMALY_TOPIC, LABELS_TOPIC)]
    if topic is not None and topic not in found:
        raise SourceError(f"{path} has no image topic {topic}; it has {', '.join(found) or 'none'}")
    if topic is None and len(cameras) != 1:
        raise SourceError(
            f"{path} has {len(cameras)} image topics"
            + (f", choose one with --image: {', '.join(cameras)}" if cameras else "")
        )
    return topic or cameras[0]
