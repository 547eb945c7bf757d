"""Tracks: ids, confirmation, velocity and decay; stamps as cameras really send them; a drawn drive."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mgcda_core.bench.hazards import follow
from mgcda_core.config import ConfigError
from mgcda_core.data.rendered import DEMO_SEED_BASE, drive
from mgcda_core.hazards.ground_plane import Camera
from mgcda_core.hazards.lens import Lens
from mgcda_core.hazards.mount import Mount
from mgcda_core.hazards.regions import Hazard, to_hazards
from mgcda_core.hazards.tracks import LONGEST_GAP_S, MOST, Track, Tracker
from mgcda_core.prediction import Prediction, Region


def hazard(x: float, y: float = 0.0, std: float = 0.2, score: float = 0.8) -> Hazard:
    region = Region(0, 0, 4, 4, 16, score, 1.5, 3.5)
    return Hazard((x, y, 0.0), 0.5, 0.5, math.hypot(x, y), score, region, (std**2, 0.0, std**2))


def run(tracker: Tracker, frames: int, *things: tuple[float, float], start: float = 0.0, speed: float = 8.0,
        rate: float = 15.0) -> list[Track]:  # fmt: skip
    """Things (x, y) at rest, as a vehicle at `speed` sees them; returns the last frame's tracks."""
    tracks: list[Track] = []
    for i in range(frames):
        tracks = tracker.update([hazard(x - speed * i / rate, y) for x, y in things], start + i / rate)
    return tracks


def test_a_thing_keeps_its_id_and_its_velocity_is_found() -> None:
    tracker = Tracker()
    tracks = run(tracker, 30, (30.0, 1.0), (28.0, -2.0))
    assert [t.id for t in tracks] == [2, 1] or [t.id for t in tracks] == [1, 2]
    for track in tracks:
        assert track.hits == 30 and track.confirmed and track.unseen_s == 0
        assert track.velocity == pytest.approx((-8.0, 0.0), abs=0.3)
        assert max(track.velocity_std) < 1.0
        assert track.hazard.distance_std_m < 0.2  # more is known than from one frame
        assert track.age_s == pytest.approx(29 / 15)


def test_n_of_m_confirms() -> None:
    tracker = Tracker(confirm_hits=3, confirm_window=5)
    seen = [True, False, True, False, True]
    confirmed = [
        any(t.confirmed for t in tracker.update([hazard(20.0)] if there else [], i / 15))
        for i, there in enumerate(seen)
    ]
    assert confirmed == [False, False, False, False, True]


def test_a_flicker_is_dropped_unconfirmed() -> None:
    tracker = Tracker(confirm_hits=2, confirm_window=3)
    tracker.update([hazard(20.0)], 0.0)
    assert len(tracker.update([], 1 / 15)) == 1
    assert tracker.update([], 2 / 15) == []


def test_a_hidden_thing_is_predicted_on_fades_and_ends() -> None:
    tracker = Tracker(timeout_s=0.5)
    (before,) = run(tracker, 20, (30.0, 0.0))
    stamp, last = 19 / 15, before
    for i in range(1, 8):
        (track,) = tracker.update([], stamp + i / 15)
        assert track.unseen_s > 0 and track.id == before.id and track.hits == before.hits
        assert track.confidence < last.confidence
        assert track.hazard.position[0] == pytest.approx(before.hazard.position[0] - 8 * i / 15, abs=0.3)
        assert track.hazard.distance_std_m > last.hazard.distance_std_m
        last = track
    x = before.hazard.position[0] - 8 * 7 / 15
    (again,) = tracker.update([hazard(x)], stamp + 7.4 / 15)
    assert again.id == before.id and again.unseen_s == 0
    assert tracker.update([], stamp + 7.4 / 15 + 0.51) == []


def test_equal_stamps_change_nothing_and_a_jump_starts_anew() -> None:
    tracker = Tracker()
    tracks = run(tracker, 5, (20.0, 0.0), start=100.0)
    assert tracker.update([], 100.0 + 4 / 15) == tracks
    (anew,) = tracker.update([hazard(20.0)], 50.0)  # the recording starts again
    assert anew.id > tracks[0].id and anew.hits == 1
    (later,) = tracker.update([hazard(20.0)], 50.1 + LONGEST_GAP_S)
    assert later.id > anew.id
    for stamp in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match="finite"):
            tracker.update([], stamp)


def test_trackers_that_share_ids_give_none_twice() -> None:
    ids = itertools.count(1)
    first, second = (run(Tracker(ids=ids), 3, (20.0, 0.0), (30.0, 4.0)) for _ in range(2))
    assert sorted(track.id for track in (*first, *second)) == [1, 2, 3, 4]


@pytest.mark.parametrize("rate", [1.0, 5.0, 60.0])
def test_the_frame_rate_does_not_matter(rate: float) -> None:
    (track,) = run(Tracker(), 12, (40.0, 0.0), speed=3.0, rate=rate)
    assert (track.id, track.hits) == (1, 12)


def test_a_nearer_measurement_does_not_steal() -> None:
    """Two things side by side, measured crosswise noisy: each keeps its own."""
    rng, tracker = np.random.default_rng(0), Tracker()
    ids: set[tuple[int, ...]] = set()
    for i in range(60):
        noise = rng.normal(0, 0.2, 4)
        pair = [hazard(20 + noise[0], 1.0 + noise[1]), hazard(20 + noise[2], -1.0 + noise[3])]
        tracks = tracker.update(pair[:: (-1) ** i], i / 15)
        ids.add(tuple(t.id for t in sorted(tracks, key=lambda t: -t.hazard.position[1])))
    assert len(ids) == 1


def test_the_filters_uncertainty_is_honest() -> None:
    rng, inside = np.random.default_rng(1), []
    for _ in range(60):
        tracker, tracks, truth = Tracker(), [], 30.0
        for i in range(20):
            truth = 30 - 8 * i / 15
            tracks = tracker.update([hazard(truth + rng.normal(0, 0.5), rng.normal(0, 0.5), std=0.5)], i / 15)
        nearest = max(tracks, key=lambda t: t.hits)
        inside.append(abs(nearest.hazard.position[0] - truth) < nearest.hazard.distance_std_m)
    assert 0.5 < np.mean(inside) < 0.95


def test_many_hazards_are_bounded() -> None:
    tracker, tracks = Tracker(), list[Track]()
    for i in range(3):
        tracks = tracker.update([hazard(5.0 + j % 40, j / 20 - 20) for j in range(1000)], i / 15)
        assert len(tracks) <= MOST
    assert all(track.hazard.distance_m < 25 for track in tracks)  # the nearest ones
    far, tracker = [hazard(60.0 + j % 20 * 2, j // 20 * 2 - 10) for j in range(MOST)], Tracker()
    for i in range(6):
        tracks = tracker.update(far if i < 3 else [*far, hazard(8.0)], i / 15)
        assert len(tracks) == MOST
    assert tracks[0].hazard.distance_m == pytest.approx(8.0) and tracks[0].hits == 3  # it came last


@pytest.mark.parametrize(
    "wrong", [{"confirm_hits": 0}, {"confirm_hits": 4}, {"timeout_s": -1}, {"timeout_s": math.nan}]
)
def test_figures_that_make_no_tracker_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Tracker(**wrong)  # pyright: ignore[reportArgumentType]


PLACES = st.tuples(st.floats(-120, 120), st.floats(-120, 120), st.floats(0, 200), st.floats(0, 1))
FRAMES = st.lists(st.tuples(st.lists(PLACES, max_size=6), st.floats(-1e9, 1e10) | st.floats(0, 3)), max_size=12)


def test_a_thing_keeps_its_id_where_the_image_cuts_it() -> None:
    camera, tracker = Camera(Lens(500, 500, 319.5, 179.5), Mount.from_angles(1.5)), Tracker()
    tracks, ways = list[Track](), 9.0 - 8 * np.arange(14) / 15
    for i, x in enumerate(ways):
        left, foot = camera.project(np.array([(x, 0.4, 0.0)]))[0].round().astype(int)
        logits = np.full((360, 640), -9, np.float32)
        logits[170:foot, left : 640 - left] = 9
        tracks = tracker.update(to_hazards(Prediction(logits).regions(), camera), i / 15)
        assert [track.id for track in tracks] == [1]
        assert abs(tracks[0].hazard.position[0] - x) < 0.5
    assert tracks[0].hazard.region.cut and ways[-1] < 2.5


@settings(max_examples=60, deadline=None)
@given(frames=FRAMES)
def test_whatever_comes_ids_are_new_and_figures_finite(frames) -> None:
    tracker, ended, alive = Tracker(), set[int](), set[int]()
    for places, stamp in frames:
        tracks = tracker.update([hazard(*place) for place in places], stamp)
        ids = [track.id for track in tracks]
        assert len(set(ids)) == len(ids) and not ended & set(ids)
        ended, alive = ended | (alive - set(ids)), set(ids)
        for t in tracks:
            assert np.isfinite((*t.hazard.position, *t.velocity, *t.velocity_std, t.hazard.distance_std_m)).all()
            assert 0 <= t.confidence <= 1 and t.age_s >= t.unseen_s >= 0


def test_on_a_drawn_drive_nothing_changes_its_id() -> None:
    scenes = drive(DEMO_SEED_BASE + 702, 45, (300, 600), speed_mps=8.0, rate_hz=15.0, anomalies=3)
    result = follow(scenes, 8.0, 15.0)
    assert result.things >= 2 and result.sightings >= 25
    assert result.switches == 0
    assert result.missed <= result.things  # the frame in which a thing appears: nothing is confirmed by one
    assert np.median(np.abs(result.velocity_errors)) < 0.5
