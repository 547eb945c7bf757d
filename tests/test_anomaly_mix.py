"""AnomalyMix composites and their replay; their seams: test_blend, what follows them: test_augment."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal, get_args

import cv2
import numpy as np
import pytest
from composite_case import SCENE, ball

from mgcda_core.config import AnomalyMixConfig, ConfigError
from mgcda_core.data import anomaly_mix
from mgcda_core.data.anomaly_mix import Composite, Paste, compose, replay
from mgcda_core.data.cutouts import Cutout
from mgcda_core.data.sample import DataError

Seam = Literal["none", "feather", "poisson"]
SEAMS: tuple[Seam, ...] = get_args(Seam)
PUBLISHED = AnomalyMixConfig(
    group=True,
    p_mix=0.0908,
    objects=(1, 1),
    scale=(1, 1),
    on_road=0,
    flip=0,
    jitter=0,
    blend="none",
    colour_match=(0, 0),
    known=0,
)
"""PEBAL's literal settings."""
PLAIN = replace(PUBLISHED, group=False, p_mix=1)


def train_ids() -> np.ndarray:
    ids = np.full((80, 160), 10, np.uint8)
    ids[40:] = 0
    ids[:, :8] = 255
    return ids


def draw(config: AnomalyMixConfig, seed: int, *objects: Cutout, known: tuple[Cutout, ...] = ()) -> Composite:
    return compose(SCENE, train_ids(), objects or (ball(),), known, config, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(12))
def test_hard_paste_by_hand(seed: int) -> None:
    """Literal settings: the object's own pixels where its alpha is, label 1 there, also over void; else 0 and 255."""
    cutout = ball(radius=30)  # large enough to lie over the void stripe now and then
    composite = draw(PLAIN, seed, cutout)
    [paste] = composite.provenance["pastes"]
    top, left, height, width = paste["box"]
    assert (height, width) == (61, 61)
    image, label = SCENE.copy(), np.where(train_ids() == 255, 255, 0)
    solid = cutout.rgba[..., 3] > 127
    image[top : top + 61, left : left + 61][solid] = cutout.rgba[..., :3][solid]
    label[top : top + 61, left : left + 61][solid] = 1
    assert np.array_equal(composite.image, image)
    assert np.array_equal(composite.label, label)
    assert paste["area"] == solid.sum() == (composite.label == 1).sum()


def test_some_of_these_objects_cover_void() -> None:
    covered = [(draw(PLAIN, seed, ball(radius=30)).label[:, :8] == 1).any() for seed in range(12)]
    assert any(covered)
    assert not all(covered)


@pytest.mark.parametrize("seam", SEAMS)
@pytest.mark.parametrize("seed", range(14))
def test_every_option_at_once(seam: Seam, seed: int) -> None:
    """Fully inside the frame, bounded, deterministic, and again from its provenance after a trip through JSON."""
    config = AnomalyMixConfig(blend=seam, group=seed % 2 == 0, objects=(1, 4), height=(0.01, 1.5), p_mix=0.9)
    objects = [ball(f"o{i}", 3 + 9 * i, 5 * i, 40 * i, f"p{i // 2}") for i in range(5)]
    known = (ball("k0", 9), ball("k1", 14))
    first, second = (draw(config, seed, *objects, known=known) for _ in range(2))
    recorded = json.loads(json.dumps(first.provenance))
    third = replay(SCENE, train_ids(), recorded, {o.name: o for o in objects}, {k.name: k for k in known})
    for other in (second, third):
        assert np.array_equal(first.image, other.image)
        assert np.array_equal(first.label, other.label)
        assert first.provenance == other.provenance
    touched = np.zeros((80, 160), bool)
    for paste in first.provenance["pastes"]:
        top, left, height, width = paste["box"]
        assert top >= 0 and left >= 0 and top + height <= 80 and left + width <= 160
        assert paste["area"] >= 1
        touched[top : top + height, left : left + width] = True
    assert np.array_equal(first.image[~touched], SCENE[~touched])
    assert not (first.label[~touched] == 1).any()
    assert [p["label"] for p in first.provenance["pastes"][:2]] == [0, 0]


@pytest.mark.parametrize("seam", SEAMS)
@pytest.mark.parametrize("scale", [0.2, 1.0, 3.7])
def test_pixels_off_the_object_stay(seam: Seam, scale: float) -> None:
    """A pixel outside the label changes only under feather, and there only next to it."""
    config = replace(PLAIN, blend=seam, scale=(scale, scale), feather=(1.5, 1.5))
    for seed in range(5):
        composite = draw(config, seed, ball(radius=10))
        pasted = (composite.label == 1).astype(np.uint8)
        away = (cv2.dilate(pasted, np.ones((3, 3))) if seam == "feather" else pasted) == 0
        assert np.array_equal(composite.image[away], SCENE[away])
        assert (composite.image != SCENE).any(-1)[pasted == 1].mean() > 0.9


def test_feather_softens_the_outline() -> None:
    """A white square on black: a step without feather, a ramp of the drawn width with it, white in its middle."""
    white = Cutout(np.full((31, 31, 4), 255, np.uint8), "white")
    rows = []
    for sigma in (0.0, 1.5):
        config = replace(PLAIN, blend="feather", feather=(sigma, sigma))
        composite = compose(SCENE * 0, train_ids(), [white], [], config, np.random.default_rng(0))
        top, left, *_ = composite.provenance["pastes"][0]["box"]
        rows.append(composite.image[top + 15, left : left + 31, 0].astype(int))
    assert (rows[0] == 255).all()
    assert (np.diff(rows[1][:5]) > 0).all()
    assert rows[1][0] < 170
    assert rows[1][15] == 255


def test_feather_shows_no_part_too_thin_for_a_label() -> None:
    """A wire shrunk to a third of a pixel is not the object; it must not be left in the picture as normal."""
    rgba = np.zeros((30, 90, 4), np.uint8)
    rgba[:, :30], rgba[15, 30:] = 255, 255
    config = replace(PLAIN, blend="feather", scale=(1 / 3, 1 / 3), feather=(0, 0))
    composite = draw(config, 0, Cutout(rgba, "wire"))
    near = cv2.dilate((composite.label == 1).astype(np.uint8), np.ones((3, 3))) > 0
    assert (composite.label == 1).sum() == 100
    assert np.array_equal(composite.image[~near], SCENE[~near])


@pytest.mark.parametrize("seam", SEAMS)
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (80, 160), (200, 500)])
def test_tiny_and_frame_filling_objects(seam: Seam, size: tuple[int, int]) -> None:
    cutout = Cutout(np.full((*size, 4), 255, np.uint8), "o")
    composite = draw(replace(PLAIN, blend=seam), 0, cutout)
    scale = min(1, 80 / size[0], 160 / size[1])
    assert (composite.label == 1).sum() == round(size[0] * scale) * round(size[1] * scale)


def test_a_group_keeps_its_relative_positions() -> None:
    group = [ball("a", 5, 10, 20, "one"), ball("b", 8, 14, 60, "one")]
    for seed in range(6):
        composite = draw(replace(PLAIN, group=True), seed, *group)
        [paste] = composite.provenance["pastes"]
        assert paste["objects"] == ("a", "b")
        assert paste["box"][2:] == (21, 57)  # rows 10..30, columns 20..76
        label = np.zeros((21, 57), bool)
        label[0:11, 0:11] = group[0].rgba[..., 3] > 127
        label[4:21, 40:57] = group[1].rgba[..., 3] > 127
        top, left = paste["box"][:2]
        assert np.array_equal(composite.label[top : top + 21, left : left + 57] == 1, label)


def test_a_group_is_of_one_picture_and_its_windows_do_not_hide_its_objects() -> None:
    """The window of the second covers part of the first, as where objects stand close together."""
    one, two = ball("a", 8, 0, 0, "one"), ball("b", 8, 0, 11, "one")
    solid = np.zeros((17, 28), bool)
    solid[:, :17] |= one.rgba[..., 3] > 127
    solid[:, 11:] |= two.rgba[..., 3] > 127
    chosen = set()
    for seed in range(10):
        [paste] = draw(replace(PLAIN, group=True), seed, one, ball("c", 5, picture="two"), two).provenance["pastes"]
        chosen.add(paste["objects"])
        assert paste["area"] == (
            solid.sum() if paste["objects"] == ("a", "b") else (ball("c", 5).rgba[..., 3] > 0).sum()
        )
    assert chosen == {("a", "b"), ("c",)}


def test_the_share_of_mixed_scenes_and_the_count() -> None:
    mixed = sum(bool(draw(PUBLISHED, seed).provenance["pastes"]) for seed in range(600))
    assert mixed == pytest.approx(54.5, abs=21)  # three deviations
    assert not draw(replace(PLAIN, p_mix=0), 0).provenance["pastes"]
    counts = {len(draw(replace(PLAIN, objects=(0, 3)), seed).provenance["pastes"]) for seed in range(60)}
    assert counts == {0, 1, 2, 3}


def test_size_options() -> None:
    def sizes(**options: object) -> np.ndarray:
        config = replace(PLAIN, **options)  # pyright: ignore[reportArgumentType]
        return np.array([draw(config, s).provenance["pastes"][0]["box"][2] for s in range(150)])

    assert (sizes(scale=(1, 1)) == 25).all()
    uniform = sizes(scale=(0.5, 2))
    assert uniform.min() < 14
    assert uniform.max() > 47
    assert uniform.mean() == pytest.approx(1.25 * 25, rel=0.1)
    by_height = sizes(scale=None, height=(0.1, 0.9))
    assert by_height.min() >= 8
    assert by_height.max() <= 72
    assert np.median(by_height) == pytest.approx(80 * 0.3, rel=0.15)  # log-uniform: the geometric mean


def test_min_area_leaves_small_objects_out() -> None:
    composite = draw(replace(PLAIN, min_area=300), 0, ball(radius=9))
    assert composite.provenance == {"pastes": []}
    assert np.array_equal(composite.image, SCENE)
    assert draw(replace(PLAIN, min_area=200), 0, ball(radius=9)).provenance["pastes"]


def test_flip_jitter_and_colour_match() -> None:
    left = np.zeros((21, 21, 4), np.uint8)
    left[..., 3], left[:, :10, 0] = 255, 255
    cutout = Cutout(left, "left")
    flips = [draw(replace(PLAIN, flip=0.5), seed, cutout).provenance["pastes"][0]["flip"] for seed in range(200)]
    assert sum(flips) == pytest.approx(100, abs=25)
    mirrored = draw(replace(PLAIN, flip=1), 0, cutout)
    top, x, height, width = mirrored.provenance["pastes"][0]["box"]
    assert np.array_equal(mirrored.image[top : top + height, x : x + width], left[:, ::-1, :3])
    assert (draw(replace(PLAIN, jitter=0.3), 0).image != draw(PLAIN, 0).image).any()
    dark = Cutout(np.full((20, 20, 4), 255, np.uint8) * np.array([0, 0, 0, 1], np.uint8), "dark")
    means = [
        compose(SCENE, train_ids(), [dark], [], replace(PLAIN, colour_match=(s, s)), np.random.default_rng(1))
        for s in (0, 0.5, 1)
    ]
    shares = [c.image[c.label == 1].mean() / 99.5 for c in means]
    assert shares == pytest.approx([0, 0.5, 1], abs=0.05)


def test_feet_stand_on_the_road() -> None:
    """The middle of the lower edge; an object too tall for any road pixel lies anywhere."""
    config = replace(PLAIN, on_road=1, scale=(0.5, 3))
    feet = []
    for seed in range(40):
        top, left, height, width = draw(config, seed).provenance["pastes"][0]["box"]
        feet.append(top + height - 1)
        assert train_ids()[feet[-1], left + width // 2] == 0
    assert max(feet) > 70
    strip = np.full((80, 160), 10, np.uint8)
    strip[50] = 0  # a road of one row: the foot stands on it, not above or below
    for seed in range(10):
        top, _, height, _ = compose(SCENE, strip, [ball()], [], config, np.random.default_rng(seed)).provenance[
            "pastes"
        ][0]["box"]
        assert top + height - 1 == 50 or height > 51
    no_road = np.full((80, 160), 10, np.uint8)
    assert compose(SCENE, no_road, [ball()], [], config, np.random.default_rng(0)).provenance["pastes"]
    tops = [draw(PLAIN, seed).provenance["pastes"][0]["box"][0] for seed in range(60)]
    assert min(tops) < 5
    assert max(tops) > 50


def test_known_objects_get_label_0_and_lie_below() -> None:
    """All that are given are pasted; over void they are normal; an anomaly at the same place wins."""
    known = Cutout(np.full((80, 160, 4), 255, np.uint8), "scene#3")  # fills the frame
    composite = draw(replace(PLAIN, objects=(0, 0)), 3, known=(known,))
    assert (composite.image == 255).all()
    assert (composite.label == 0).all()
    both = draw(PLAIN, 3, known=(known,))
    assert (both.label == 1).sum() == (ball().rgba[..., 3] > 127).sum()
    assert [p["objects"] for p in both.provenance["pastes"]] == [("scene#3",), ("ball",)]


def test_errors_say_what_is_missing() -> None:
    with pytest.raises(ConfigError, match="no objects to paste: set data"):
        compose(SCENE, train_ids(), [], [], PLAIN, np.random.default_rng(0))
    assert compose(SCENE, train_ids(), [], [], replace(PLAIN, objects=(0, 0)), np.random.default_rng(0)).label.max()
    with pytest.raises(DataError, match="the composite holds ball, which is not among the objects given"):
        replay(SCENE, train_ids(), draw(PLAIN, 0).provenance, {}, {"ball": ball()})


@pytest.mark.parametrize(
    "wrong", [{"p_mix": 1.2}, {"flip": -1}, {"objects": (3, 1)}, {"height": (0.0, 0.5)}, {"scale": (2, 1)}]
)
def test_values_out_of_range(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=rf"mix\.{next(iter(wrong))} is"):
        AnomalyMixConfig(**wrong)


def test_provenance_names_every_field_of_a_paste() -> None:
    [paste] = draw(AnomalyMixConfig(objects=(1, 1)), 0).provenance["pastes"]
    assert set(paste) == set(Paste.__dataclass_fields__)
    assert len(paste["colour"]) == 7


def test_known_objects_are_cut_from_people_and_vehicles_off_the_border() -> None:
    ids = train_ids()
    ids[50:70, 60:90], ids[0:30, 100:140], ids[50:55, 20:24] = 13, 11, 13
    [found] = anomaly_mix.known_objects(SCENE, ids, "camvid/x")
    assert (found.top, found.left, found.picture) == (50, 60, "camvid/x")
    assert found.name.startswith("camvid/x#")
    assert np.array_equal(found.rgba[..., :3], SCENE[50:70, 60:90])
    assert (found.rgba[..., 3] == 255).all()
