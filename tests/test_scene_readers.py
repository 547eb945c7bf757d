"""Readers of road scenes and cut-outs, on small trees in the data sets' layouts."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_core.data.camvid import load_camvid
from mgcda_core.data.cityscapes import load_cityscapes_train_ids
from mgcda_core.data.cutouts import load_cutouts
from mgcda_core.data.folder import read_mask
from mgcda_core.data.idd import load_idd_lite
from mgcda_core.data.sample import DataError, read_label, read_rgb


def write_pair(images: Path, labels: Path, stem: str, label: np.ndarray, suffix: str = ".jpg") -> None:
    images.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(images / f"{stem}{suffix}"), np.full((*label.shape, 3), 100, np.uint8))
    cv2.imwrite(str(labels / f"{stem}.png"), label)


def striped(values: int) -> np.ndarray:
    return np.tile(np.arange(values, dtype=np.uint8), (6, 2))


def test_camvid_void_is_255_and_coarse_classes_list_their_train_ids(tmp_path: Path) -> None:
    write_pair(tmp_path / "train/images", tmp_path / "train/labels", "a", striped(12))
    scenes = load_camvid(tmp_path, "train")
    label, table = scenes[0].label, scenes.train_id_table()
    assert set(np.unique(label)) == {*range(11), 255}
    assert table[3].nonzero()[0].tolist() == [0]
    assert table[8].nonzero()[0].tolist() == [13, 14, 15, 16]
    assert not table[255].any()


def test_idd_splits_by_the_file_name(tmp_path: Path) -> None:
    for stem in ("train_0_1", "train_0_2", "val_0_1"):
        write_pair(tmp_path / "images", tmp_path / "masks", stem, striped(7))
    assert len(load_idd_lite(tmp_path, "train")) == 2
    assert [load_idd_lite(tmp_path, "val")[0].name] == ["idd-lite/val_0_1"]


def test_an_unknown_label_value_names_file_and_value(tmp_path: Path) -> None:
    write_pair(tmp_path / "images", tmp_path / "masks", "x", np.full((4, 4), 19, np.uint8))
    with pytest.raises(DataError, match=r"x\.png holds the value 19"):
        load_cityscapes_train_ids(tmp_path)[0]


def test_sizes_that_differ_and_missing_labels_are_named(tmp_path: Path) -> None:
    write_pair(tmp_path / "images", tmp_path / "masks", "x", striped(7))
    cv2.imwrite(str(tmp_path / "masks/x.png"), np.zeros((3, 3), np.uint8))
    with pytest.raises(DataError, match=r"x\.png is \(3, 3\)"):
        load_cityscapes_train_ids(tmp_path)[0]
    (tmp_path / "masks/x.png").unlink()
    with pytest.raises(DataError, match=r"no label.*x\.png"):
        load_cityscapes_train_ids(tmp_path)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path / "images", tmp_path / "masks", "x", striped(7))
    (tmp_path / "images/x.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"x\.jpg is not a readable image"):
        load_cityscapes_train_ids(tmp_path)[0]


def test_cutouts_leave_out_road_classes_and_small_objects(tmp_path: Path) -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[5:45, 5:45], mask[10:50, 50:85], mask[0:3, 0:3] = 1, 2, 3
    write_pair(tmp_path / "images", tmp_path / "masks", "x", mask)
    (tmp_path / "instances.json").write_text(
        json.dumps({"x": {"1": {"class": "dog"}, "2": {"class": "car"}, "3": {"class": "dog"}}})
    )
    (cutout,) = load_cutouts(tmp_path)
    assert cutout.name.endswith("x#1")
    assert cutout.rgba.shape == (40, 40, 4)
    assert (cutout.rgba[..., 3] == 255).all()
    with pytest.raises(DataError, match="no object"):
        load_cutouts(tmp_path, min_pixels=100_000)


@pytest.mark.parametrize("read", [read_rgb, read_label, read_mask])
def test_a_png_that_claims_a_huge_size_is_named(tmp_path: Path, read: Callable[[Path], np.ndarray]) -> None:
    path = tmp_path / "huge.png"
    assert cv2.imwrite(str(path), np.zeros((2, 2), np.uint8))
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">2I", 60000, 60000)  # width and height in the header, then its checksum
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"huge\.png is not a readable image"):
        read(path)
