"""Readers of road scenes, on small trees in the data sets' layouts."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_core.config import DataConfig
from mgcda_core.data.camvid import load_camvid
from mgcda_core.data.check import check
from mgcda_core.data.cityscapes import load_cityscapes, load_cityscapes_train_ids
from mgcda_core.data.folder import read_mask
from mgcda_core.data.gta5 import load_gta5
from mgcda_core.data.idd import load_idd_lite
from mgcda_core.data.sample import DataError, read_label, read_rgb
from mgcda_core.data.synthia import load_synthia
from mgcda_core.labels import SYNTHIA_NAMES, TRAIN_NAMES
from mgcda_core.training.scenes import load_scenes, scene_sets


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


def write_palette_png(path: Path, indices: np.ndarray, bits: int = 8) -> None:
    """A PNG whose every index has the same colour, as several of GTA5's do."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = indices.shape
    header = struct.pack(">2I5B", width, height, bits, 3, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in indices))  # each with its filter: none
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"PLTE", bytes([0, 0, 142]) * 256)
        + chunk(b"IDAT", rows[:9])
        + chunk(b"IDAT", rows[9:])
        + chunk(b"IEND", b"")
    )


def test_gta5_reads_the_palettes_indices_as_label_ids(tmp_path: Path) -> None:
    label_ids = np.tile(np.arange(35, dtype=np.uint8), (4, 1))
    write_pair(tmp_path / "images", tmp_path / "labels", "00001", label_ids, ".png")
    write_pair(tmp_path / "images", tmp_path / "labels", "00002", label_ids, ".png")
    write_palette_png(tmp_path / "labels/00001.png", label_ids)
    scenes = load_gta5(tmp_path)
    coloured, grey = scenes[0], scenes[1]
    assert coloured.raw is not None and (coloured.raw == label_ids).all()
    assert (coloured.label == grey.label).all() and coloured.name == "gta5/00001"
    table = scenes.train_id_table()
    found = [table[value].nonzero()[0].tolist() for value in coloured.label[0]]
    assert found == [[CITY.index(i)] if i in CITY else [] for i in range(35)]
    write_palette_png(tmp_path / "labels/00001.png", label_ids, bits=4)
    with pytest.raises(DataError, match=r"00001\.png has a palette of 4 bits"):
        scenes[0]
    write_palette_png(tmp_path / "labels/00001.png", np.full((4, 35), 35, np.uint8))
    with pytest.raises(DataError, match=r"00001\.png holds the value 35; gta5 labels are 0\.\.34"):
        scenes[0]
    (tmp_path / "labels/00001.png").write_bytes((tmp_path / "labels/00002.png").read_bytes()[:40])
    with pytest.raises(DataError, match=r"00001\.png is not a readable image"):
        scenes[0]
    (tmp_path / "labels/00002.png").unlink()
    with pytest.raises(DataError, match=r"no label.*00002\.png"):
        load_gta5(tmp_path)


def test_synthia_has_the_class_in_the_first_channel(tmp_path: Path) -> None:
    classes = np.tile(np.arange(23, dtype=np.uint16), (4, 1))
    label = np.stack([classes * 0, classes + 300, classes], -1)  # OpenCV writes blue, green, red
    write_pair(tmp_path / "RGB", tmp_path / "GT/LABELS", "0000000", classes.astype(np.uint8), ".png")
    cv2.imwrite(str(tmp_path / "GT/LABELS/0000000.png"), label)
    scenes = load_synthia(tmp_path)
    scene, table = scenes[0], scenes.train_id_table()
    assert scene.raw is not None and (scene.raw == classes).all()
    names = [TRAIN_NAMES[table[value].argmax()] if table[value].any() else "" for value in scene.label[0]]
    renamed = {"pedestrian": "person", "void": "", "parking slot": "", "road work": "", "lane marking": ""}
    assert names == [renamed.get(name, name) for name in SYNTHIA_NAMES]
    cv2.imwrite(str(tmp_path / "GT/LABELS/0000000.png"), label + np.uint16(5))
    with pytest.raises(DataError, match=r"0000000\.png holds the value 23; synthia labels are 0\.\.22"):
        scenes[0]
    cv2.imwrite(str(tmp_path / "GT/LABELS/0000000.png"), label.astype(np.uint8))
    with pytest.raises(DataError, match="16 bit"):
        scenes[0]
    cv2.imwrite(str(tmp_path / "GT/LABELS/0000000.png"), label + np.uint16(600))
    with pytest.raises(DataError, match="holds the class 622"):
        scenes[0]


def test_drawn_cities_are_training_scenes_and_can_be_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label_ids = np.full((8, 16), 26, np.uint8)
    label_ids[:2], label_ids[2] = 34, 7
    write_pair(tmp_path / "gta5/images", tmp_path / "gta5/labels", "00001", label_ids, ".png")
    write_palette_png(tmp_path / "gta5/labels/00001.png", label_ids)
    write_pair(tmp_path / "synthia/RGB", tmp_path / "synthia/GT/LABELS", "0000000", label_ids, ".png")
    label = np.zeros((8, 16, 3), np.uint16)
    label[..., 2] = 8
    cv2.imwrite(str(tmp_path / "synthia/GT/LABELS/0000000.png"), label)
    data = DataConfig(gta5=str(tmp_path / "gta5"), synthia=str(tmp_path / "synthia"))
    loaded = load_scenes(data, "train")
    assert [np.unique(scenes[0].label).tolist() for scenes in loaded] == [[0, 13, 255], [13]]
    assert scene_sets(data, "val") == []
    for name in ("gta5", "synthia"):
        check(name, tmp_path / name, None, tmp_path / "sheets", ((), (), ()))
    text = capsys.readouterr().out
    assert "26   62.50 %  car" in text and "34   25.00 %  license plate" in text
    assert " 8  100.00 %  car" in text
    assert (tmp_path / "sheets/gta5-gta5.png").is_file()
