"""Temporal flicker, the anomalous share of the road, and peaks in time."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mgcda_core.evaluation.bag.flicker import Flicker
from mgcda_core.evaluation.bag.moments import Peaks, anomalous_road

SIZE = (120, 200)


def texture(seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)  # pyright: ignore


def square(left: int, top: int = 40) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + 30, left : left + 30] = True
    return mask


def test_a_mask_that_moves_with_the_picture_does_not_flicker() -> None:
    wide, flicker = texture(0, (120, 260)), Flicker()
    changes = [flicker.add(wide[:, 4 * i : 4 * i + 200], square(80 - 4 * i)) for i in range(6)]
    assert changes[0] is None
    assert all(change is not None and change < 0.05 for change in changes[1:])
    assert flicker.value is not None and flicker.value < 0.05
    assert (flicker.pairs, flicker.cuts) == (5, 0)


def test_a_mask_that_stays_behind_flickers_and_one_that_jumps_changes_wholly() -> None:
    wide, behind = texture(0, (120, 260)), Flicker()
    for i in range(6):
        behind.add(wide[:, 4 * i : 4 * i + 200], square(80))
    assert behind.value == pytest.approx(1 - 26 / 34, abs=0.05)
    jumping = Flicker()
    changes = [jumping.add(texture(0), square(20 if i % 2 else 120)) for i in range(3)]
    assert changes[1:] == [pytest.approx(1.0), pytest.approx(1.0)]


def test_cuts_and_clear_roads_say_nothing() -> None:
    flicker = Flicker()
    assert [flicker.add(texture(i), square(20)) for i in range(3)] == [None] * 3
    assert (flicker.cuts, flicker.pairs, flicker.value) == (2, 0, None)
    assert flicker.add(texture(2), np.zeros(SIZE, bool)) == 1.0  # the mask went out
    assert flicker.add(texture(2), np.zeros(SIZE, bool)) is None
    assert flicker.add(texture(2, (60, 100)), np.zeros((60, 100), bool)) is None
    assert (flicker.cuts, flicker.pairs, flicker.value) == (3, 2, 1.0)


def test_only_what_lies_on_the_road_counts() -> None:
    segmentation, mask = np.full((20, 20), 2, np.uint8), np.zeros((20, 20), bool)
    segmentation[10:] = 0
    segmentation[8:12, 4:6] = 11  # a thing that the segmentation took for a person
    mask[8:12, 4:6] = True
    mask[7, 5] = True  # of the same region, above the road
    mask[0:3] = True  # a facade
    score = np.full((20, 20), 0.5, np.float32)
    share = anomalous_road(score, mask, segmentation)
    assert share.anomalous == 9
    assert share.road == 200 - 4 + 9
    assert share.suspicion == pytest.approx(0.5 * 9 / 205)
    nothing = anomalous_road(score, mask, np.full((20, 20), 2, np.uint8))
    assert (nothing.road, nothing.anomalous, nothing.suspicion) == (0, 0, 0.0)


def chosen(stamps: list[int], values: list[float], gap: int, most: int) -> list[int]:
    peaks: Peaks[int] = Peaks(gap, most)
    for i, (stamp, value) in enumerate(zip(stamps, values, strict=True)):
        peaks.add(stamp, value, lambda i=i: i)
    return [peak.content for peak in peaks.best()]


def by_definition(stamps: list[int], values: list[float], gap: int, most: int) -> list[int]:
    """Greedy suppression among the best of each half gap, all of them kept."""
    stretches: dict[int, list[int]] = {}
    for i, stamp in enumerate(stamps):
        stretches.setdefault((stamp - stamps[0]) * 2 // gap, []).append(i)
    best = [min(members, key=lambda i: (-values[i], i)) for members in stretches.values()]
    found: list[int] = []
    for i in sorted(best, key=lambda i: (-values[i], i)):
        if values[i] > 0 and all(abs(stamps[i] - stamps[j]) >= gap for j in found):
            found.append(i)
    return found[:most]


@pytest.mark.parametrize("seed", range(20))
def test_moments_are_the_highest_that_keep_the_gap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (rng.integers(0, 9, 200) / 10).tolist()
    stamps = np.cumsum(rng.integers(1, 4, 200)).tolist()
    assert chosen(stamps, values, 6, 4) == by_definition(stamps, values, 6, 4)
    assert len(chosen(stamps, values, 6, 99)) > 20


def test_moments_by_hand() -> None:
    at = list(range(0, 100, 10))
    falling = [1 - 0.05 * i for i in range(10)]
    assert chosen(at, falling, 20, 20) == [0, 2, 4, 6, 8]  # exactly the gap apart
    assert chosen(at, falling[::-1], 20, 20) == [9, 7, 5, 3, 1]
    assert chosen(at, falling, 20, 3) == [0, 2, 4]
    assert chosen(at, [0.5] * 10, 1000, 20) == [0]
    assert chosen(at, falling, 0, 20) == list(range(10))
    assert chosen(at, [0.0] * 10, 20, 20) == []
