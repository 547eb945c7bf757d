"""The moments of a drive a person should look at: how suspicious a frame is, and peaks in time."""

from __future__ import annotations

import heapq
from collections import deque
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
    """A frame with no higher value within the gap before and after it."""

    value: float
    age: int
    """Minus its stamp in nanoseconds: of equal values the earlier moment is the greater."""
    content: Content = field(compare=False)

    @property
    def stamp_ns(self) -> int:
        """Stamp of the frame."""
        return -self.age


class Peaks(Generic[Content]):
    """The highest peaks in time of a value over the frames: non-maximum suppression within `gap_ns` on both sides.

    A frame is a peak if its value is above 0, above all values in the gap before it and not below those in the gap
    after it. Only the peaks and one candidate are kept, so a drive may be of any length.
    """

    def __init__(self, gap_ns: int, most: int) -> None:
        self._gap, self._most = gap_ns, most
        self._window: deque[tuple[int, float]] = deque()  # falling values of the last gap
        self._candidate: Peak[Content] | None = None
        self._peaks: list[Peak[Content]] = []

    def add(self, stamp_ns: int, value: float, content: Callable[[], Content]) -> None:
        """The next frame in time; `content` is made only if the frame may be a peak."""
        while self._window and self._window[0][0] < stamp_ns - self._gap:
            self._window.popleft()
        if self._candidate is not None and self._candidate.stamp_ns < stamp_ns - self._gap:
            self._settle()
        leads = value > max(self._window[0][1] if self._window else 0.0, 0.0)
        while self._window and self._window[-1][1] < value:
            self._window.pop()
        self._window.append((stamp_ns, value))
        if leads:
            self._candidate = Peak(value, -stamp_ns, content())

    def best(self) -> list[Peak[Content]]:
        """The peaks so far, the highest first; call it when all frames were added."""
        self._settle()
        return sorted(self._peaks, reverse=True)

    def _settle(self) -> None:
        """The candidate has outlived the gap after it."""
        if self._candidate is not None:
            heapq.heappush(self._peaks, self._candidate)
            if len(self._peaks) > self._most:
                heapq.heappop(self._peaks)
        self._candidate = None
