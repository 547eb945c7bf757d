"""The temporal filter: what it averages, how the past follows the road, when it begins anew, how late it answers."""

from __future__ import annotations

import math
import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from resident import growth_mb

from mgcda_core.config import ConfigError
from mgcda_core.inference.temporal import KINDS, MOST_GAP_S, Kind, RoadMotion, TemporalFilter
from mgcda_core.prediction import UNSEEN_LOGIT, Prediction

SIZE = (120, 240)
RATE_HZ = 15.0
FILTERS = ("ema", "vote")
ROAD, BUILDING = 0, 2


def plane(seed: int = 0, size: tuple[int, int] = (300, 500)) -> np.ndarray:
    """uint8 [H, W, 3] RGB of a textured plane, larger than the picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 2), None, 0, 255, cv2.NORM_MINMAX)  # pyright: ignore


def view(source: np.ndarray, x: float, y: float = 60.0, degrees: float = 0.0) -> np.ndarray:
    """A picture of SIZE from (x, y) of the plane on, turned about its middle."""
    turn = cv2.getRotationMatrix2D((x + SIZE[1] / 2, y + SIZE[0] / 2), degrees, 1.0)
    turn[:, 2] -= (x, y)
    return cv2.warpAffine(source, turn, SIZE[::-1])


def said(logits: np.ndarray, road: int = ROAD) -> Prediction:
    return Prediction(np.asarray(logits, np.float32), 0.5, np.full(logits.shape, road, np.uint8), {"inference": 1.0})


def flat(value: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full(size, value, np.float32)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_none_costs_nothing() -> None:
    prediction = said(flat(3.0))
    assert TemporalFilter()(prediction, np.empty(0), math.nan) is prediction


@pytest.mark.parametrize("kind", FILTERS)
def test_a_constant_scene_converges_to_its_own_score_details_included(kind: Kind) -> None:
    steady, image = TemporalFilter(kind, 0.2), view(plane(), 0)
    logits = np.random.default_rng(1).normal(0, 4, SIZE).astype(np.float32)
    steady(said(logits - 6), image, 0.0)
    errors = []
    for i in range(1, 60):
        score = steady(said(logits), image, i / RATE_HZ).score
        assert score.min() >= 0.0 and score.max() <= 1.0
        errors.append(np.abs(score - said(logits).score).max())
    assert errors[0] > 0.4 and errors[-1] < 1e-4


@pytest.mark.parametrize("rate_hz", [5.0, 15.0, 60.0])
@pytest.mark.parametrize("kind", FILTERS)
def test_the_response_depends_on_time_not_on_the_rate(kind: Kind, rate_hz: float) -> None:
    steady, image = TemporalFilter(kind, 0.3), view(plane(), 0)
    steady(said(flat(-5)), image, 0.0)
    frames = round(0.6 * rate_hz)
    out = [steady(said(flat(5)), image, (i + 1) / rate_hz).logits for i in range(frames)]
    # Whole where the past was in view: at the edge the followed corners' noise lets a pixel of nothing in.
    np.testing.assert_allclose(out[-1][8:-8, 8:-8], 5 - 10 * math.exp(-frames / rate_hz / 0.3), atol=2e-2)
    passed = next(i + 1 for i, logits in enumerate(out) if np.median(logits) >= 2.0)
    assert passed == math.ceil(0.3 * rate_hz * math.log(10 / 3))  # the formula of docs/temporal.md


@pytest.mark.parametrize("kind", FILTERS)
def test_a_flash_of_one_frame_is_suppressed(kind: Kind) -> None:
    steady, image = TemporalFilter(kind), view(plane(), 0)
    flash = flat(-5)
    flash[40:80, 100:140] = 5
    flash = cv2.GaussianBlur(flash, (0, 0), 3)  # as soft as a network's: what is finer is not averaged
    for i in range(8):
        shown = said(flash if i == 5 else flat(-5))
        assert shown.mask.any() == (i == 5)
        assert not steady(shown, image, i / RATE_HZ).mask.any()


def followed(kind: Kind, places: list[tuple[float, float, float]]) -> list[float]:
    """IoU of the filtered mask with the truth of each view of a plane on which an object lies."""
    source, steady = plane(), TemporalFilter(kind, 0.3)
    thing = np.full(source.shape[:2], -6, np.float32)
    thing[100:130, 180:210] = 6
    found = []
    for i, (x, y, degrees) in enumerate(places):
        logits = view(thing + 6, x, y, degrees) - 6
        found.append(iou(steady(said(logits), view(source, x, y, degrees), i / RATE_HZ).mask, logits > 0))
    assert steady.lost == 0
    return found


@pytest.mark.parametrize(
    "places",
    [[(20.0 + 9 * i, 40.0 + 3 * i, 0.0) for i in range(7)], [(20.0, 50.0, 6.0 * i) for i in range(7)]],
    ids=["shift", "rotation"],
)
def test_the_past_moves_along_with_the_plane(places: list[tuple[float, float, float]]) -> None:
    assert min(followed("vote", places)) > 0.93
    assert min(followed("ema", places)) < 0.75


def test_the_motion_of_a_camera_over_the_road_is_found() -> None:
    source, motion = plane(), RoadMotion()
    road = np.full(SIZE, ROAD, np.uint8)
    assert motion(view(source, 20), road) is None
    found = motion(view(source, 32, 54), road)
    assert found is not None
    shift = np.array([[1, 0, -12 / SIZE[1]], [0, 1, 6 / SIZE[0]], [0, 0, 1]])
    corners = np.array([[0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]])
    places = found @ corners
    np.testing.assert_allclose(places[:2] / places[2], (shift @ corners)[:2], atol=0.004)


def test_only_the_road_is_followed() -> None:
    """The upper half, a facade, moves otherwise and has as many corners."""
    source, motion = plane(), RoadMotion()
    segmentation = np.full(SIZE, ROAD, np.uint8)
    segmentation[: SIZE[0] // 2] = BUILDING
    for known in (segmentation, None):
        found = None
        for x in (20, 30):
            image = view(source, x)
            image[: SIZE[0] // 2] = view(plane(1), 200 - 2 * x)[: SIZE[0] // 2]
            found = motion(image, known)
        assert found is not None
        assert (found / found[2, 2])[0, 2] == pytest.approx(-10 / SIZE[1], abs=0.01)
        motion = RoadMotion()


def test_without_a_motion_a_frame_stands_alone_and_is_counted() -> None:
    steady, last = TemporalFilter("vote"), flat(4)
    steady(said(flat(-5)), view(plane(0), 0), 0.0)
    cut = steady(said(last), view(plane(7), 0), 0.1)
    np.testing.assert_array_equal(cut.logits, last)
    bare = steady(said(flat(-3)), np.full((*SIZE, 3), 90, np.uint8), 0.2)
    np.testing.assert_array_equal(bare.logits, flat(-3))
    assert steady.lost == 2


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize(
    ("stamp_s", "alone"),
    [(1.1, False), (1.0, True), (0.5, True), (1.01 + MOST_GAP_S, True), (math.nan, True), (math.inf, True)],
)
def test_what_begins_anew(kind: Kind, stamp_s: float, alone: bool) -> None:
    steady, image = TemporalFilter(kind), view(plane(), 0)
    steady(said(flat(-5)), image, 1.0)
    out = steady(said(flat(5)), image, stamp_s)
    assert (out.logits == 5).all() == alone
    assert (out.threshold, set(out.timings_ms)) == (0.5, {"inference", "temporal"})
    after = steady(said(flat(-5)), image, stamp_s + 0.05)
    assert (after.logits == -5).all() == (not math.isfinite(stamp_s))  # it goes on from the new stamp


@pytest.mark.parametrize("kind", FILTERS)
def test_another_size_begins_anew(kind: Kind) -> None:
    steady = TemporalFilter(kind)
    sizes = [SIZE, (60, 88), (61, 89), (2, 3), (2, 900), (900, 2), SIZE]  # (60, 88) and the next look alike, reduced
    for i, size in enumerate(sizes):
        image, logits = cv2.resize(view(plane(), 0), size[::-1]), flat(5 if i % 2 else -5, size)
        np.testing.assert_array_equal(steady(said(logits), image, i / RATE_HZ).logits, logits)


@pytest.mark.parametrize("kind", FILTERS)
def test_another_image_or_crop_begins_anew_though_the_logits_are_as_large(kind: Kind) -> None:
    steady = TemporalFilter(kind)
    for i, (image_size, top) in enumerate([(SIZE, 0), ((480, 640), 0), ((240, 480), 0), ((240, 480), 1)]):
        image, logits = cv2.resize(view(plane(), 0), image_size[::-1]), flat(5 if i % 2 else -5, (60, 88))
        logits[:top] = UNSEEN_LOGIT
        np.testing.assert_array_equal(steady(said(logits), image, i / RATE_HZ).logits, logits)


def test_logits_of_another_size_than_the_image() -> None:
    """The node's mask_scale network: the motion is found in the image, the past moves in the logits."""
    source, steady = plane(), TemporalFilter("vote", 1.0)
    left = flat(-6)
    left[:, : SIZE[1] // 2] = 6
    steady(said(cv2.resize(left, (90, 60), interpolation=cv2.INTER_AREA)), view(source, 20), 0.0)
    row = steady(said(flat(-6, (60, 90))), view(source, 32), 1 / RATE_HZ).logits[30]
    assert row.shape == (90,)
    assert (row[2:37] > 4).all() and (row[45:80] < -5.99).all()  # the edge at 45 of 90 went 12 of 240 to the left: 40.5


def test_rows_that_were_not_looked_at_are_no_past() -> None:
    source, steady = plane(), TemporalFilter("vote", 1.0)
    logits = flat(4)
    logits[:40] = UNSEEN_LOGIT
    outs = [steady(said(logits), view(source, 50, 90 - 8.0 * i), i / RATE_HZ).logits for i in range(4)]
    assert steady.lost == 0
    np.testing.assert_array_equal(outs[-1][:40], logits[:40])
    np.testing.assert_allclose(outs[-1][40:], 4, atol=1e-4)  # 24 rows have come down out of the unseen part


@pytest.mark.parametrize("kind", FILTERS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_nothing_that_is_not_finite_comes_out(kind: Kind, data: st.DataObject) -> None:
    steady = TemporalFilter(kind, data.draw(st.floats(1e-300, 1e300)))
    sizes = st.tuples(st.integers(2, 40), st.integers(2, 40))
    source = plane(2)
    for _ in range(4):
        size = data.draw(st.sampled_from([(24, 32), data.draw(sizes)]))
        logits = data.draw(arrays.arrays(np.float32, size, elements=st.floats(allow_nan=False, allow_infinity=False,
                                                                               width=32)))  # fmt: skip
        seen = data.draw(st.sampled_from([None, np.full(size, ROAD, np.uint8), np.full(size, BUILDING, np.uint8)]))
        image = data.draw(
            st.one_of(
                st.builds(view, st.just(source), st.floats(0, 200), st.floats(0, 150), st.floats(-180, 180)),
                arrays.arrays(np.uint8, (*size, 3)),
            )
        )  # fmt: skip
        out = steady(Prediction(logits, 0.5, seen), image, data.draw(st.floats(0, 2) | st.floats()))
        assert out.logits.dtype == np.float32 and out.logits.shape == size
        assert np.isfinite(out.logits).all() and np.isfinite(out.score).all()


def test_it_repeats_exactly() -> None:
    frames = [view(plane(), 6.0 * i, 60, 2.0 * i) for i in range(5)]
    logits = np.random.default_rng(0).normal(0, 3, (5, *SIZE))
    first, second = (
        [steady(said(logits[i]), frames[i], i / RATE_HZ).logits for i in range(5)]
        for steady in (TemporalFilter("vote"), TemporalFilter("vote"))
    )
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first[-1], logits[-1].astype(np.float32))


@pytest.mark.parametrize("kind", FILTERS)
def test_memory_stays_as_it_is(kind: Kind) -> None:
    steady, source = TemporalFilter(kind), plane()
    frames = [view(source, 3.0 * i) for i in range(8)]
    stamps = iter(range(1000))
    prediction = said(np.random.default_rng(0).normal(0, 3, SIZE))

    def run(image: np.ndarray) -> None:
        steady(prediction, image, next(stamps) / RATE_HZ)

    assert growth_mb(run, frames, 200) < 4
    tracemalloc.start()
    run(frames[0])
    before = tracemalloc.get_traced_memory()[0]
    for i in range(200):
        run(frames[i % 8])
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 20_000


def test_wrong_use_is_named() -> None:
    assert ("none", *FILTERS) == KINDS
    with pytest.raises(ConfigError, match="the temporal filter is 'median'; choose from none, ema, vote"):
        TemporalFilter("median")  # pyright: ignore
    for seconds in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match=r"time constant is .* must be positive and finite"):
            TemporalFilter("ema", seconds)
    with pytest.raises(ValueError, match="expected uint8"):
        TemporalFilter("vote")(said(flat(0)), np.zeros(SIZE, np.uint8), 0.0)
