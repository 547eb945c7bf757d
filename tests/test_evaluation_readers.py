"""Readers of the anomaly benchmarks, on small trees in the published layouts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_core.data.bdd_anomaly import load_bdd_anomaly
from mgcda_core.data.fishyscapes import load_fishyscapes_lost_and_found, load_fishyscapes_static
from mgcda_core.data.folder import LabelledPairs
from mgcda_core.data.lost_and_found import load_lost_and_found
from mgcda_core.data.road_anomaly import load_road_anomaly
from mgcda_core.data.sample import DataError
from mgcda_core.data.smiyc import load_smiyc_anomaly, load_smiyc_obstacle
from mgcda_core.data.streethazards import load_streethazards

SIZE = (8, 12)


def write_image(path: Path, value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((*SIZE, 3), value, np.uint8))
    return path


def write_mask(path: Path, values: list[int]) -> Path:
    """The values as stripes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros(SIZE, np.uint8)
    mask[:, : len(values)] = values
    mask[:, len(values) :] = values[-1]
    assert cv2.imwrite(str(path), mask)
    return path


def stripes(data: LabelledPairs, count: int, index: int = 0) -> list[int]:
    return data[index].label[0, :count].tolist()


def road_anomaly(root: Path, values: list[int]) -> Path:
    write_image(root / "frames" / "cow.jpg")
    return write_mask(root / "frames" / "cow.labels" / "labels_semantic.png", values)


def smiyc(root: Path, track: str, name: str, values: list[int]) -> Path:
    write_image(root / f"dataset_{track}Track" / "images" / name)
    stem = name.split(".")[0]
    return write_mask(root / f"dataset_{track}Track" / "labels_masks" / f"{stem}_labels_semantic.png", values)


def lost_and_found(root: Path, values: list[int], split: str = "test") -> Path:
    scene, frame = "04_Maurener_Weg_8", "04_Maurener_Weg_8_000000_000030"
    write_image(root / "leftImg8bit" / split / scene / f"{frame}_leftImg8bit.png", 60)
    return write_mask(root / "gtCoarse" / split / scene / f"{frame}_gtCoarse_labelIds.png", values)


def fishyscapes_lost_and_found(root: Path, values: list[int]) -> Path:
    lost_and_found(root, [1])
    return write_mask(root / "fishyscapes_lostandfound" / "0000_04_Maurener_Weg_8_000000_000030_labels.png", values)


def fishyscapes_static(root: Path, values: list[int], number: str = "0007") -> Path:
    frame = "frankfurt_000000_000294"
    write_image(root / "leftImg8bit" / "val" / "frankfurt" / f"{frame}_leftImg8bit.png", 100)
    mask = write_mask(root / "fs_val_v3" / f"{number}_{frame}_labels.png", values)
    overlay = np.zeros((*SIZE, 3), np.int16)
    overlay[0, :3] = ((-300, 0, 300), (-1, 0, 1), (100, 20, -30))
    np.savez(root / "fs_val_v3" / f"{number}_{frame}_rgb.npz", rgb=overlay)
    return mask


def streethazards(root: Path, values: list[int], town: str = "t5") -> Path:
    write_image(root / "test" / "images" / "test" / town / "300.png")
    return write_mask(root / "test" / "annotations" / "test" / town / "300.png", values)


def bdd(root: Path, values: list[int], split: str = "train", stem: str = "0a") -> Path:
    write_image(root / "seg" / "images" / split / f"{stem}.jpg")
    return write_mask(root / "seg" / "labels" / split / f"{stem}_train_id.png", values)


Writer = Callable[[Path, list[int]], Path]
Loader = Callable[[Path], LabelledPairs]
READERS: dict[str, tuple[Writer, Loader, list[int], list[int], int]] = {
    # writer, loader, stored values, their labels, a value that has no meaning
    "road_anomaly": (road_anomaly, load_road_anomaly, [0, 1, 2], [0, 0, 1], 255),
    "smiyc_anomaly": (
        lambda root, v: smiyc(root, "Anomaly", "validation0001.jpg", v), load_smiyc_anomaly,
        [0, 1, 255], [0, 1, 255], 2,
    ),
    "smiyc_obstacle": (
        lambda root, v: smiyc(root, "Obstacle", "validation_1.webp", v), load_smiyc_obstacle,
        [0, 1, 255], [0, 1, 255], 2,
    ),
    "lost_and_found": (
        lost_and_found, lambda root: load_lost_and_found(root, "test"), [0, 1, 2, 43, 200], [255, 0, 1, 1, 1], 201
    ),
    "fishyscapes_lost_and_found": (
        fishyscapes_lost_and_found, load_fishyscapes_lost_and_found, [0, 1, 255], [0, 1, 255], 2
    ),
    "fishyscapes_static": (fishyscapes_static, load_fishyscapes_static, [0, 1, 255], [0, 1, 255], 254),
    "streethazards": (streethazards, load_streethazards, [0, 1, 13, 14], [255, 0, 0, 1], 15),
    "bdd_anomaly": (bdd, load_bdd_anomaly, [0, 15, 16, 17, 18, 255], [0, 0, 1, 1, 1, 255], 19),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_values_become_0_1_and_255(tmp_path: Path, name: str) -> None:
    write, load, stored, expected, _ = READERS[name]
    mask = write(tmp_path, stored)
    data = load(tmp_path)
    assert len(data) == 1
    assert stripes(data, len(stored)) == expected
    assert data.pairs[0][1] == mask
    assert data[0].image.shape == (*SIZE, 3)
    assert data[0].stem == data.pairs[0][0].stem


@pytest.mark.parametrize("name", READERS)
def test_an_unknown_value_names_file_and_value(tmp_path: Path, name: str) -> None:
    write, load, stored, _, unknown = READERS[name]
    mask = write(tmp_path, [*stored, unknown])
    with pytest.raises(DataError, match=rf"{mask} holds the value {unknown}, which .* does not know: normal is "):
        load(tmp_path)[0]


@pytest.mark.parametrize("name", READERS)
def test_missing_files_and_another_layout_are_named(tmp_path: Path, name: str) -> None:
    write, load, stored, *_ = READERS[name]
    mask = write(tmp_path, stored)
    mask.unlink()
    # of Fishyscapes only the masks are published: without any, the set is empty
    said = f"{mask.parent} holds no image" if name.startswith("fishyscapes") else f"{mask} is missing"
    with pytest.raises(DataError, match=said):
        load(tmp_path)
    with pytest.raises(DataError, match="holds no image of this set"):
        load(tmp_path / "nowhere")


def test_obstacle_validation_leaves_out_what_the_benchmark_leaves_out(tmp_path: Path) -> None:
    names = ["validation_2", "validation_18", "validation_19", "validation_20", "validation_21", "validation_29_1",
             "validation_30", "curvy-street_1"]  # fmt: skip
    for name in names:
        smiyc(tmp_path, "Obstacle", f"{name}.webp", [0, 1])
    stems = [image.stem for image, _ in load_smiyc_obstacle(tmp_path).pairs]
    assert stems == ["validation_18", "validation_2", "validation_20", "validation_30"]
    assert len(load_smiyc_obstacle(tmp_path / "dataset_ObstacleTrack")) == 4


def test_anomaly_track_takes_the_labelled_frames_only(tmp_path: Path) -> None:
    smiyc(tmp_path, "Anomaly", "validation0000.jpg", [0, 1])
    write_image(tmp_path / "dataset_AnomalyTrack" / "images" / "airplane0001.jpg")
    assert len(load_smiyc_anomaly(tmp_path)) == 1


def test_static_overlay_is_added_and_clipped(tmp_path: Path) -> None:
    fishyscapes_static(tmp_path, [0, 1])
    image = load_fishyscapes_static(tmp_path)[0].image
    assert image[0, :4].tolist() == [[0, 100, 255], [99, 100, 101], [200, 120, 70], [100, 100, 100]]
    assert (image[1:] == 100).all()


def test_static_keeps_two_masks_of_one_photograph_apart(tmp_path: Path) -> None:
    fishyscapes_static(tmp_path, [0, 1], "0001")
    fishyscapes_static(tmp_path, [1, 0], "0000")
    data = load_fishyscapes_static(tmp_path)
    assert [stripes(data, 2, i) for i in (0, 1)] == [[1, 0], [0, 1]]


def test_static_faults_are_named(tmp_path: Path) -> None:
    mask = fishyscapes_static(tmp_path, [0, 1])
    (overlay,) = mask.parent.glob("*.npz")
    np.savez(overlay, rgb=np.array([{"a": 1}], object))  # a pickle must never be loaded
    with pytest.raises(DataError, match=f"{overlay} is no overlay"):
        load_fishyscapes_static(tmp_path)[0]
    overlay.write_bytes(b"PK rubbish")
    with pytest.raises(DataError, match=f"{overlay} is no overlay"):
        load_fishyscapes_static(tmp_path)[0]
    np.savez(overlay, rgb=np.zeros((2, 2, 3), np.int16))
    with pytest.raises(DataError, match=rf"{overlay} is \(2, 2, 3\)"):
        load_fishyscapes_static(tmp_path)[0]
    np.savez(overlay, rgb=np.zeros((*SIZE, 3), np.float32))
    with pytest.raises(DataError, match=f"{overlay} holds float32 values"):
        load_fishyscapes_static(tmp_path)[0]
    overlay.unlink()
    with pytest.raises(DataError, match=f"{mask} has no overlay 0007"):
        load_fishyscapes_static(tmp_path)[0]


def test_fishyscapes_names_every_missing_photograph(tmp_path: Path) -> None:
    fishyscapes_lost_and_found(tmp_path, [0, 1])
    for number in (1, 2):
        write_mask(tmp_path / "fishyscapes_lostandfound" / f"000{number}_elsewhere_{number}_labels.png", [0])
    with pytest.raises(DataError, match=r"elsewhere_1_labels\.png has no photograph elsewhere_1_.*2 of 3") as caught:
        load_fishyscapes_lost_and_found(tmp_path)
    assert len(caught.value.problems) == 2


def test_lost_and_found_splits_apart(tmp_path: Path) -> None:
    lost_and_found(tmp_path, [1], "train")
    assert len(load_lost_and_found(tmp_path, "train")) == 1
    with pytest.raises(DataError, match="leftImg8bit/test holds no image"):
        load_lost_and_found(tmp_path, "test")


def test_streethazards_towns_that_number_alike_have_their_own_stems(tmp_path: Path) -> None:
    streethazards(tmp_path, [1, 14], "t5")
    streethazards(tmp_path, [14, 1], "t6")
    data = load_streethazards(tmp_path)
    assert [data[i].stem for i in range(2)] == ["t5_300", "t6_300"]


def test_bdd_keeps_the_frames_with_an_anomalous_class(tmp_path: Path) -> None:
    bdd(tmp_path, [0, 1, 255], stem="plain")
    bdd(tmp_path, [0, 18], "val", "bicycle")
    bdd(tmp_path, [0, 17, 18], stem="motorcycle")
    assert [image.stem for image, _ in load_bdd_anomaly(tmp_path).pairs] == ["motorcycle", "bicycle"]
    first_paper = load_bdd_anomaly(tmp_path, (16, 17))
    assert len(first_paper) == 1
    assert stripes(first_paper, 3) == [0, 1, 0]
    with pytest.raises(DataError, match=r"holds no pixel of the train ids \(16,\)"):
        load_bdd_anomaly(tmp_path, (16,))
