"""Sets by name: every reader of an anomaly benchmark, its splits, label values, class labels beside the anomalies."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from test_evaluation_readers import READERS as LAYOUTS
from test_evaluation_readers import lost_and_found

from mgcda_core.config import ConfigError, EvaluationSet
from mgcda_core.data.evaluation_sets import READERS, Semantics, label_values, open_set, split_of
from mgcda_core.data.sample import DataError


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_set_opens_by_its_name(tmp_path: Path, name: str) -> None:
    write, load, stored, expected, _ = LAYOUTS[name]
    write(tmp_path, stored)
    data = open_set(EvaluationSet("x", dataset=name, root=str(tmp_path)))
    assert data.pairs == load(tmp_path).pairs
    assert data[0].label[0, : len(stored)].tolist() == expected


def test_every_reader_has_a_name() -> None:
    assert set(READERS) == set(LAYOUTS)


def test_the_first_split_is_meant_unless_another_is_named(tmp_path: Path) -> None:
    lost_and_found(tmp_path, [1, 2], "train")
    train = EvaluationSet("x", dataset="lost_and_found", root=str(tmp_path), split="train")
    assert len(open_set(train)) == 1
    assert split_of(train) == "train"
    default = EvaluationSet("x", dataset="lost_and_found", root=str(tmp_path))
    assert split_of(default) == "test"
    with pytest.raises(DataError, match="leftImg8bit/test holds no image"):
        open_set(default)


def test_wrong_descriptions_are_named(tmp_path: Path) -> None:
    root = str(tmp_path)
    with pytest.raises(ConfigError, match="unknown dataset imagenet: choose from folder, fishyscapes_lost"):
        open_set(EvaluationSet("x", dataset="imagenet", root=root))
    with pytest.raises(ConfigError, match="road_anomaly has no split val: choose from all"):
        open_set(EvaluationSet("x", dataset="road_anomaly", root=root, split="val"))
    with pytest.raises(DataError, match="nowhere is not a folder"):
        open_set(EvaluationSet("x", dataset="road_anomaly", root=str(tmp_path / "nowhere")))


def test_a_folder_keeps_its_values(drive: Path) -> None:
    chosen = EvaluationSet("x", str(drive / "images"), str(drive / "masks"), (2, 9))
    data = open_set(chosen)
    assert label_values(data) == {"normal": [0], "anomaly": [2, 9], "ignore": [255]}
    assert len(data) == 4
    assert split_of(chosen) == ""


def test_class_labels_pair_by_stem(drive: Path) -> None:
    data = open_set(EvaluationSet("x", str(drive / "images"), str(drive / "masks"), (2,)))
    (drive / "classes").mkdir()
    for number in range(4):
        cv2.imwrite(str(drive / "classes" / f"f{number}.png"), np.full((64, 96), number + 10, np.uint8))
    image = data[2].image
    assert (Semantics(drive / "classes", data).read(2, image) == 12).all()
    cv2.imwrite(str(drive / "classes" / "f2.png"), np.full((64, 96), 19, np.uint8))
    with pytest.raises(DataError, match=r"f2\.png holds the value 19; train id labels are 0\.\.18"):
        Semantics(drive / "classes", data).read(2, image)
    (drive / "classes" / "f1.png").unlink()
    with pytest.raises(DataError, match=r"f1\.png is missing: .* \(1 of 4"):
        Semantics(drive / "classes", data)
