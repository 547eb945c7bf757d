"""The moments of a drive a person should look at: how suspicious a frame is, and peaks in time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import cv2
import numpy as np

from mgcda_core.labels import TRAIN_NAMES

ROAD = TRAIN_NAMES.index("road")
Content = TypeVar("Content")


@dataclass(frozen=True)
class RoadShare:
    """What of the road is anomalous in one frame."""

    road: int
    """Pixels segmented as road, and the mask's regions that lie on it."""
    anomalous: int
    """Those in the mask."""
    suspicion: float
    """Sum of their scores over `road`: the anomalous share of the road, weighted by the score, in [0, 1]."""


def anomalous_road(score: np.ndarray, mask: np.ndarray, segmentation: np.ndarray) -> RoadShare:
    """Anomalous road of a frame: score float32, mask bool, segmentation uint8 train ids, all [H, W].

    An 8-connected region of the mask lies on the road if one of its pixels is segmented as road or is an 8-neighbour of
    such a pixel; then all of it counts. So a thing that stands on the road counts whatever class it was given, and a
    mask in the sky or on a facade does not.
    """
    road = segmentation == ROAD
    count, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    regions = np.asarray(labels, np.int32)
    near = cv2.dilate(road.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    touching = np.zeros(count, bool)
    touching[regions[near]] = True
    touching[0] = False
    anomalous = touching[regions]
    pixels = int((road | anomalous).sum())
    suspicion = float(score[anomalous].sum(dtype=np.float64)) / pixels if pixels else 0.0
    return RoadShare(pixels, int(anomalous.sum()), suspicion)


@dataclass(frozen=True, order=True)
class Peak(Generic[Content]):
    """A frame that stands for its surroundings."""

    value: float
    age: int
    """Minus its stamp in nanoseconds: of equal values the earlier moment is the greater."""
    content: Content = field(compare=False)

    @property
    def stamp_ns(self) -> int:
        """Stamp of the frame."""
        return -self.age


class Peaks(Generic[Content]):
    """The `most` frames of the highest values above 0 that are at least `gap_ns` apart, chosen greedily.

    This is non-maximum suppression in time among the best frame of each half gap, so that a drive may be of any length:
    a chosen frame rules out those of two half gaps on either side, hence the five times `most` highest are enough.
    """

    def __init__(self, gap_ns: int, most: int) -> None:
        self._gap, self._most = gap_ns, most
        self._start: int | None = None
        self._stretch = 0
        self._candidate: Peak[Content] | None = None
        self._highest: list[Peak[Content]] = []

    def add(self, stamp_ns: int, value: float, content: Callable[[], Content]) -> None:
        """The next frame in time; `content` is made only if the frame may be chosen."""
        self._start = stamp_ns if self._start is None else self._start
        stretch = 2 * (stamp_ns - self._start) // self._gap if self._gap else stamp_ns
        if stretch != self._stretch:
            self._settle()
            self._stretch = stretch
        least = 0.0 if self._candidate is None else self._candidate.value
        if len(self._highest) == 5 * self._most:
            least = max(least, self._highest[0].value)
        if value > least:
            self._candidate = Peak(value, -stamp_ns, content())

    def best(self) -> list[Peak[Content]]:
        """The chosen frames, the highest first; call it when all frames were added."""
        self._settle()
        chosen: list[Peak[Content]] = []
        for peak in sorted(self._highest, reverse=True):
            if len(chosen) < self._most and all(abs(peak.age - other.age) >= self._gap for other in chosen):
                chosen.append(peak)
        return chosen

    def _settle(self) -> None:
        """The candidate is the best of its stretch."""
        if self._candidate is not None:
            heapq.heappush(self._highest, self._candidate)
            if len(self._highest) > 5 * self._most:
                heapq.heappop(self._highest)
        self._candidate = None
