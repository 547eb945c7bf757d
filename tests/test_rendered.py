"""Rendered scenes: the same by seed, labels that agree with the masks, positions that project onto their boxes."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from mgcda_core.data.rendered import DEMO_SEED_BASE, RenderedScene, drive, render_scene
from mgcda_core.data.rendered_objects import ANOMALY_NAMES, anomalous_object
from mgcda_core.labels import TRAIN_NAMES


@functools.lru_cache
def scenes() -> list[RenderedScene]:
    return [render_scene(seed, (180, 320)) for seed in range(14)]


def test_same_seed_same_bytes() -> None:
    first, second, other = render_scene(5, (120, 200)), render_scene(5, (120, 200)), render_scene(6, (120, 200))
    for name in ("image", "labels", "anomaly"):
        assert getattr(first, name).tobytes() == getattr(second, name).tobytes()
    assert first.objects == second.objects and first.camera == second.camera
    assert (first.image != other.image).mean() > 0.5


def test_shapes_and_value_ranges() -> None:
    for scene in scenes():
        assert scene.image.shape == (180, 320, 3) and scene.image.dtype == np.uint8
        assert scene.labels.shape == scene.anomaly.shape == (180, 320)
        assert scene.labels.dtype == scene.anomaly.dtype == np.uint8
        assert set(np.unique(scene.anomaly)) <= {0, 1}
        assert set(np.unique(scene.labels)) <= {*range(19), 255}
        assert scene.image.std() > 20


def test_ignore_label_exactly_under_anomalies() -> None:
    for scene in scenes():
        assert np.array_equal(scene.labels == 255, scene.anomaly == 1)


def test_number_of_anomalies() -> None:
    assert not render_scene(3, (180, 320), anomalies=0).anomaly.any()
    found = [render_scene(seed, (180, 320), anomalies=3) for seed in range(4)]
    assert all(scene.anomaly.any() for scene in found)
    assert max(sum(o.anomaly for o in scene.objects) for scene in found) == 3


def test_every_main_class_occurs() -> None:
    seen = {TRAIN_NAMES[v] for scene in scenes() for v in np.unique(scene.labels) if v < 19}
    assert {"road", "sidewalk", "building", "pole", "vegetation", "terrain", "sky", "person", "car"} <= seen


def test_positions_project_onto_their_boxes() -> None:
    checked = 0
    for scene in scenes():
        height, width = scene.labels.shape
        for thing in scene.objects:
            pixel, depth = scene.camera.project(np.array([(thing.x, thing.y, 0.0)]))
            left, top, w, h = thing.box
            assert depth[0] > 0
            if top + h < height - 1:
                assert abs(pixel[0, 1] - (top + h)) < 2
            assert left - 2 < pixel[0, 0] < left + w + 2
            whole = left > 0 and left + w < width - 1
            if whole and thing.name not in ("car", "van", "truck", "bus"):
                assert abs(pixel[0, 0] - (left + w / 2)) < 2
                checked += 1
    assert checked > 15


def test_uncovered_anomaly_fills_its_box() -> None:
    checked = 0
    for seed in range(100, 118):
        scene = render_scene(seed, (180, 320), anomalies=1)
        things = [o for o in scene.objects if o.anomaly and o.visible > 0.999]
        if not things or things[0].box[1] + things[0].box[3] > 178:
            continue
        rows, columns = np.nonzero(scene.anomaly)
        left, top, w, h = things[0].box
        assert abs(rows.max() + 0.5 - (top + h)) <= 2 and abs(rows.min() - 0.5 - top) <= 2
        if left > 0 and left + w < 319:
            assert abs(columns.min() - 0.5 - left) <= 2 and abs(columns.max() + 0.5 - (left + w)) <= 2
        checked += 1
    assert checked > 6


def test_drive_brings_standing_things_nearer() -> None:
    frames = list(drive(DEMO_SEED_BASE, 8, (180, 320), speed_mps=15.0, rate_hz=10.0))
    assert len(frames) == 8
    assert len({f.camera for f in frames}) == 1
    tracks: dict[tuple[str, float], list[tuple[float, float]]] = {}
    for frame in frames:
        for o in frame.objects:
            if o.anomaly:
                tracks.setdefault((o.name, o.width_m), []).append((o.x, o.y))
    longest = max(tracks.values(), key=len)
    assert len(longest) >= 5
    steps = np.linalg.norm(np.diff(np.array(longest), axis=0), axis=1)
    assert np.allclose(steps, 1.5, atol=0.05)
    assert longest[-1][0] < longest[0][0]


@pytest.mark.parametrize("name", ANOMALY_NAMES)
def test_every_kind_of_object_is_drawn(name: str) -> None:
    kind, texture, height = anomalous_object(np.random.default_rng(1), name)
    alpha = texture.pixels[..., 3]
    assert kind == name and 0.1 < height < 3
    assert (alpha > 127).mean() > 0.15
    assert (alpha[-2:] > 127).any() and (alpha[:2] > 127).any()


def test_too_small_a_size_is_named() -> None:
    with pytest.raises(ValueError, match="32 x 32"):
        render_scene(0, (8, 640))
