"""VoidClass: which regions become anomalies, and SynBoost's instance swap."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mgcda_core.config import ConfigError, VoidClassConfig
from mgcda_core.data.void_class import SWAP_IDS, label_regions, swap_instances
from mgcda_core.labels import TRAIN_TO_LABEL_ID

ALL = VoidClassConfig(min_area=0)


def regions_of(
    raw: np.ndarray, config: VoidClassConfig, void: tuple[int, ...] = (4, 5), seed: int = 0
) -> tuple[np.ndarray, list[dict]]:
    ignored = ~np.isin(raw, TRAIN_TO_LABEL_ID)
    return label_regions(raw, void, config, np.random.default_rng(seed), ignored)


def test_label_rule_by_hand() -> None:
    raw = np.array([[7, 5, 5, 7, 0], [7, 7, 7, 4, 1], [3, 9, 7, 7, 6]], np.uint8)
    label, regions = regions_of(raw, ALL)
    assert label.tolist() == [[0, 1, 1, 0, 255], [0, 0, 0, 1, 255], [255, 255, 0, 0, 255]]
    assert label.dtype == np.uint8
    assert regions == [{"area": 3, "box": [0, 1, 2, 3]}]  # the diagonal joins them
    assert json.loads(json.dumps(regions)) == regions


def test_static_void_can_be_left_out() -> None:
    """As SynBoost's code: dynamic objects only; static ones are ignored."""
    label, _ = regions_of(np.array([[4, 7, 5]], np.uint8), ALL, void=(5,))
    assert label.tolist() == [[255, 0, 1]]


@pytest.mark.parametrize("never", [0, 1, 2, 3, 6])
def test_ids_that_are_never_anomalies(never: int) -> None:
    with pytest.raises(ConfigError, match=f"cityscapes_ids holds {never}, which is never an anomaly"):
        VoidClassConfig(cityscapes_ids=(5, never))
    raw = np.random.default_rng(never).choice([0, 1, 2, 3, 4, 5, 6, 7, 29], (40, 60)).astype(np.uint8)
    label, _ = regions_of(raw, ALL, VoidClassConfig(cityscapes_ids=(4, 5, 29)).cityscapes_ids)
    assert (label[raw == never] == 255).all()
    assert np.array_equal(label == 1, np.isin(raw, (4, 5, 29)))


@pytest.mark.parametrize("road", [7, 26, 33, 35])
def test_a_class_with_a_train_id_is_refused(road: int) -> None:
    with pytest.raises(ConfigError, match="choose from 4, 5, 9"):
        VoidClassConfig(cityscapes_ids=(road,))


def test_min_area_scales_with_the_image() -> None:
    """100 pixels of 1024x2048 are 25 of 512x1024: 5x5 stays, 24 pixels go."""
    for size, side in (((1024, 2048), 10), ((512, 1024), 5)):
        raw = np.full(size, 7, np.uint8)
        raw[20 : 20 + side, 30 : 30 + side] = 5
        raw[200 : 200 + side, 30 : 30 + side], raw[200, 30] = 5, 7
        label, regions = regions_of(raw, VoidClassConfig())
        assert regions == [{"area": side**2, "box": [20, 30, side, side]}]
        assert (label == 255).sum() == side**2 - 1


def test_keep_prob_is_a_share_of_regions_and_the_rest_is_ignored() -> None:
    raw = np.full((80, 80), 7, np.uint8)
    raw[::2, ::2] = 5
    label, regions = regions_of(raw, VoidClassConfig(min_area=0, keep_prob=0.25))
    assert len(regions) == (label == 1).sum() == pytest.approx(400, abs=60)
    assert np.array_equal(label > 0, raw == 5)
    again, _ = regions_of(raw, VoidClassConfig(min_area=0, keep_prob=0.25))
    other, _ = regions_of(raw, VoidClassConfig(min_area=0, keep_prob=0.25), seed=1)
    assert np.array_equal(label, again)
    assert not np.array_equal(label, other)
    assert regions_of(raw, VoidClassConfig(min_area=0, keep_prob=0.0))[1] == []


def test_a_scene_without_void_has_no_region() -> None:
    label, regions = regions_of(np.full((4, 5), 7, np.uint8), ALL)
    assert not label.any()
    assert not regions


def swap_scene() -> tuple[np.ndarray, np.ndarray]:
    """Eight cars and persons of 4x4 pixels on a road, a void stripe, and a car group (26, no number of its own)."""
    instances = np.full((40, 80), 7, np.int32)
    instances[:2], instances[36:] = 4, 26
    for k in range(8):
        instances[10:14, 10 * k : 10 * k + 4] = (26 if k % 2 else 24) * 1000 + k
    return np.where(instances >= 10_000, instances // 1000, instances).astype(np.uint8), instances


def test_swaps_change_class_and_stay_below_all() -> None:
    label_ids, instances = swap_scene()
    counts, drawn = set(), []
    for seed in range(200):
        swapped, label, regions = swap_instances(label_ids, instances, label_ids == 4, np.random.default_rng(seed))
        counts.add(len(regions))
        chosen = [r["instance"] for r in regions]
        assert len(set(chosen)) == len(chosen)
        assert np.array_equal(label == 1, np.isin(instances, chosen))
        assert np.array_equal(label == 255, label_ids == 4)
        assert np.array_equal(swapped[label != 1], label_ids[label != 1])
        for r in regions:
            assert r["label_id"] != r["instance"] // 1000
            assert (swapped[instances == r["instance"]] == r["label_id"]).all()
            assert (r["area"], r["box"]) == (16, [10, 10 * (r["instance"] % 1000), 4, 4])
        drawn += [r["label_id"] for r in regions if r["instance"] // 1000 == 24]
        json.dumps(regions)
    assert counts == set(range(8))  # floor(u * 8): none to seven, never all
    share = drawn.count(26) / len(drawn)
    assert share == pytest.approx(7 / 22, abs=0.06)  # 25 entries less the 3 of the own class
    assert set(drawn) == set(SWAP_IDS) - {24}


def test_the_multiset_in_force() -> None:
    assert len(SWAP_IDS) == 25
    assert [SWAP_IDS.count(i) for i in (7, 24, 26, 8)] == [3, 3, 7, 1]


def test_scenes_without_instances_swap_nothing() -> None:
    ids = np.full((4, 5), 26, np.uint8)
    swapped, label, regions = swap_instances(ids, ids.astype(np.int32), ids == 4, np.random.default_rng(0))
    assert np.array_equal(swapped, ids)
    assert not label.any()
    assert not regions
