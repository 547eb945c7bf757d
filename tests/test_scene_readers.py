"""Readers of road scenes, on small trees in the data sets' layouts."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_core.data.camvid import load_camvid
from mgcda_core.data.cityscapes import load_cityscapes, load_cityscapes_train_ids
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
    scene, table = scenes[0], scenes.train_id_table()
    assert set(np.unique(scene.label)) == {*range(11), 255}
    assert scene.raw is not None
    assert set(np.unique(scene.raw)) == set(range(12))
    assert ((scene.raw == 11) == (scene.label == 255)).all()
    assert scenes.void_values == (11,)
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


CITY = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
"""Label ids of the train ids 0..18 (spec 1.3)."""


def write_cityscapes(root: Path, stem: str, label_ids: np.ndarray, instances: np.ndarray, split: str = "train") -> Path:
    """One frame in the published layout; returns its labelIds file."""
    city = stem.split("_")[0]
    image = root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
    truth = root / "gtFine" / split / city
    image.parent.mkdir(parents=True, exist_ok=True)
    truth.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(image), np.full((*label_ids.shape, 3), 100, np.uint8))
    cv2.imwrite(str(truth / f"{stem}_gtFine_labelIds.png"), label_ids)
    cv2.imwrite(str(truth / f"{stem}_gtFine_instanceIds.png"), instances)
    return truth / f"{stem}_gtFine_labelIds.png"


def test_published_cityscapes_gives_train_ids_label_ids_and_instances(tmp_path: Path) -> None:
    label_ids = np.tile(np.arange(34, dtype=np.uint8), (4, 1))
    instances = label_ids.astype(np.uint16)
    instances[:2, 26] = 26_003
    write_cityscapes(tmp_path, "ulm_000001_000019", label_ids, instances)
    write_cityscapes(tmp_path, "aachen_000000_000019", label_ids, instances)
    write_cityscapes(tmp_path, "lindau_000000_000019", label_ids, instances, "val")
    scenes = load_cityscapes(tmp_path, "train")
    assert [scenes[i].name for i in range(len(scenes))] == [
        "cityscapes/aachen_000000_000019", "cityscapes/ulm_000001_000019"
    ]  # fmt: skip
    scene = scenes[0]
    assert scene.label[0].tolist() == [CITY.index(i) if i in CITY else 255 for i in range(34)]
    assert scene.raw is not None and (scene.raw == label_ids).all()
    assert scene.instances is not None and scene.instances.dtype == np.int32
    assert scene.instances[:, 26].tolist() == [26_003, 26_003, 26, 26]
    assert scenes.void_values == (4, 5)
    assert scenes.train_id_table()[18].nonzero()[0].tolist() == [18]
    assert len(load_cityscapes(tmp_path, "val")) == 1


def test_faults_of_published_cityscapes_name_file_and_value(tmp_path: Path) -> None:
    label_ids = np.full((4, 6), 26, np.uint8)
    label = write_cityscapes(tmp_path, "ulm_000000_000019", label_ids, np.full((4, 6), 34_001, np.uint16))
    with pytest.raises(DataError, match=r"ulm_000000_000019_gtFine_instanceIds\.png holds the instance 34001"):
        load_cityscapes(tmp_path, "train")[0]
    write_cityscapes(tmp_path, "ulm_000000_000019", label_ids, label_ids)
    with pytest.raises(DataError, match=r"instanceIds\.png is uint8 .* must be 16 bit"):
        load_cityscapes(tmp_path, "train")[0]
    write_cityscapes(tmp_path, "ulm_000000_000019", np.full((4, 6), 34, np.uint8), label_ids.astype(np.uint16))
    with pytest.raises(DataError, match=r"labelIds\.png holds the value 34"):
        load_cityscapes(tmp_path, "train")[0]
    label.unlink()
    with pytest.raises(DataError, match=r"labelIds\.png is missing \(1 of 2 label files are\)"):
        load_cityscapes(tmp_path, "train")
    with pytest.raises(DataError, match=r"leftImg8bit/val holds no"):
        load_cityscapes(tmp_path, "val")


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path / "images", tmp_path / "masks", "x", striped(7))
    (tmp_path / "images/x.jpg").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"x\.jpg is not a readable image"):
        load_cityscapes_train_ids(tmp_path)[0]


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
