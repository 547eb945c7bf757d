"""Zones: polygons and the own vehicle's outline cut the score; only what stands on the road is a hazard."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_core.config import ConfigError
from mgcda_core.hazards.zones import LARGEST_PICTURE, Zones, load_ego_mask
from mgcda_core.prediction import Prediction

SIZE = (60, 80)


def prediction(*boxes: tuple[slice, slice], road: bool = True) -> Prediction:
    """Anomalies in these windows; road in the lower half of the picture, and below it nothing but the anomalies."""
    logits = np.full(SIZE, -9, np.float32)
    segmentation = np.full(SIZE, 2, np.uint8)
    segmentation[30:] = 0
    for part in boxes:
        logits[part] = 9
        segmentation[part] = 13  # "car": whatever the segmentation makes of it
    return Prediction(logits, 0.5, segmentation if road else None)


def test_nothing_is_cut_without_a_zone() -> None:
    whole = prediction()
    assert Zones().cut(whole) is whole


def test_the_region_of_interest_is_in_shares_of_the_image() -> None:
    everywhere = Prediction(np.full(SIZE, 9.0, np.float32))
    zones = Zones(roi=(0.0, 0.5, 1.0, 0.5, 1.0, 1.0, 0.0, 1.0))
    mask = zones.cut(everywhere).mask
    assert mask[30:].all() and not mask[:29].any()
    assert everywhere.mask.all()  # the one given is as it was
    larger = zones.cut(Prediction(np.full((120, 160), 9.0, np.float32))).mask  # the camera changes its resolution
    assert larger[60:].all() and not larger[:59].any()


def test_the_own_vehicle_is_cut_at_any_size(tmp_path: Path) -> None:
    picture = np.zeros((30, 40), np.uint8)
    picture[25:] = 255
    cv2.imwrite(str(tmp_path / "ego.png"), picture)
    everywhere = Prediction(np.full(SIZE, 9.0, np.float32))
    mask = Zones(ego_mask=load_ego_mask(tmp_path / "ego.png")).cut(everywhere).mask
    assert mask[:50].all() and not mask[50:].any()
    ego = load_ego_mask(str(tmp_path / "ego.png"))
    both = Zones(roi=(0, 0, 0.5, 0, 0.5, 1, 0, 1), ego_mask=ego).cut(everywhere).mask
    assert both[:50, :39].all() and not both[50:].any() and not both[:, 41:].any()


def test_only_what_stands_on_the_road_is_kept() -> None:
    standing, flying, cut_off = np.s_[20:40, 10:20], np.s_[5:15, 30:40], np.s_[40:60, 50:70]
    seen = prediction(standing, flying, cut_off)
    kept = Zones().on_road(seen.regions(), seen)
    assert sorted(region.x for region in kept) == [10, 50]  # the last one's foot is below the image, road beside it
    assert Zones().on_road([], seen) == []


def test_what_fills_the_lower_border_is_kept_though_no_road_is_left_to_see() -> None:
    wall, hidden = prediction(np.s_[20:60, :]), prediction(np.s_[20:50, :])
    assert len(Zones().on_road(wall.regions(), wall)) == 1
    assert Zones().on_road(hidden.regions(), hidden) != []  # there is road below it
    bonnet = np.zeros(SIZE, np.uint8)
    bonnet[50:] = 1
    above = Zones(ego_mask=bonnet).cut(wall)
    assert len(Zones().on_road(above.regions(), above)) == 1
    building = prediction(np.s_[20:60, 30:50])
    segmentation = np.full(SIZE, 2, np.uint8)
    beside = Prediction(building.logits, 0.5, segmentation)
    assert Zones().on_road(beside.regions(), beside) == []  # it is cut as well, but no road is where some could be


def test_outside_of_the_zones_nothing_is_masked_whatever_the_threshold() -> None:
    ego = np.zeros(SIZE, np.uint8)
    ego[50:] = 1
    zones = Zones(roi=(0.0, 0.5, 1.0, 0.5, 1.0, 1.0, 0.0, 1.0), ego_mask=ego)
    mask = zones.cut(Prediction(np.full(SIZE, -30.0, np.float32), 0.0)).mask
    assert mask[30:50].all() and not mask[:29].any() and not mask[50:].any()


def test_the_lane_counts_as_road() -> None:
    seen = prediction(np.s_[5:15, 30:40])
    assert Zones().on_road(seen.regions(), seen) == []
    lane = (0.3, 0.1, 0.6, 0.1, 0.6, 1.0, 0.3, 1.0)
    assert len(Zones(lane=lane).on_road(seen.regions(), seen)) == 1
    blind = prediction(np.s_[5:15, 30:40], road=False)
    assert len(Zones(lane=lane).on_road(blind.regions(), blind)) == 1
    with pytest.raises(ConfigError, match="road_only needs"):
        Zones().on_road(blind.regions(), blind)


@pytest.mark.parametrize("values", [(0.1, 0.2), (0, 0, 1, 0, 1), (0, 0, 1, 0, 1, 1.5), (0, 0, float("nan"), 0, 1, 1)])
def test_a_polygon_has_three_points_in_the_image(values: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="roi must hold"):
        Zones(roi=values)
    with pytest.raises(ConfigError, match="lane must hold"):
        Zones(lane=values)


def test_an_ego_mask_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    for name, said in (("missing.png", "cannot be read"), ("text.png", "no.* picture"), ("empty.png", "not a picture")):
        with pytest.raises(ConfigError, match=f"{name}.*{said}"):
            load_ego_mask(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.png")  # nobody writes into it: reading it would never end
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(LARGEST_PICTURE + 1)
    for path in (tmp_path, tmp_path / "pipe.png", tmp_path / "large.png"):
        with pytest.raises(ConfigError, match=r"cannot be read \(no file of at most 32 MiB\)"):
            load_ego_mask(path)
