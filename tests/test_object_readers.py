"""Readers of objects to paste, on small trees in the published layouts."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from mgcda_core.data.coco import load_coco_objects
from mgcda_core.data.cutouts import load_cutouts
from mgcda_core.data.pascal_voc import NAMES, load_pascal_voc_objects, read_voc_mask
from mgcda_core.data.sample import DataError


def gradient(height: int, width: int) -> np.ndarray:
    """RGB picture whose red is the row and green the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.dstack([rows, columns, np.full_like(rows, 7)]).clip(0, 255).astype(np.uint8)


def write_picture(path: Path, height: int, width: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), gradient(height, width)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One picture with a dog (id 1), a car (2) and a small dog (3)."""
    mask = np.zeros((60, 90), np.uint8)
    mask[5:45, 5:45], mask[10:50, 50:85], mask[0:3, 0:3] = 1, 2, 3
    (tmp_path / "masks").mkdir()
    write_picture(tmp_path / "images" / "x.jpg", 60, 90)
    cv2.imwrite(str(tmp_path / "masks" / "x.png"), mask)
    (tmp_path / "instances.json").write_text(
        json.dumps({"x": {"1": {"class": "dog"}, "2": {"class": "car"}, "3": {"class": "dog"}}})
    )
    return tmp_path


def test_cutouts_leave_out_road_classes_and_small_objects(folder: Path) -> None:
    (cutout,) = load_cutouts(folder)
    assert cutout.name == f"{folder.name}/x#1"
    assert (cutout.picture, cutout.top, cutout.left, cutout.category) == (f"{folder.name}/x", 5, 5, "dog")
    assert cutout.rgba.shape == (40, 40, 4)
    assert (cutout.rgba[..., 3] == 255).all()
    assert [c.name[-2:] for c in load_cutouts(folder, min_pixels=9)] == ["#1", "#3"]
    with pytest.raises(DataError, match="no object"):
        load_cutouts(folder, min_pixels=100_000)


def test_every_bad_cutout_file_is_named(folder: Path) -> None:
    write_picture(folder / "images" / "a.jpg", 60, 90)
    cv2.imwrite(str(folder / "masks" / "a.png"), np.ones((5, 5), np.uint8))
    (folder / "masks" / "x.png").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"a\.png is \(5, 5\).*2 files are at fault") as caught:
        load_cutouts(folder)
    assert [("a.png" in p, "x.png" in p) for p in caught.value.problems] == [(True, False), (False, True)]


CATEGORIES = {1: "person", 18: "dog", 7: "train", 52: "banana", 10: "traffic light"}


def write_coco(root: Path, pictures: dict[int, tuple[int, int]], annotations: list[dict[str, Any]]) -> Path:
    for number, (height, width) in pictures.items():
        write_picture(root / "val2017" / f"{number:012d}.jpg", height, width)
    file = {
        "images": [{"id": n, "file_name": f"{n:012d}.jpg", "height": h, "width": w} for n, (h, w) in pictures.items()],
        "annotations": [{"id": i, "iscrowd": 0, **a} for i, a in enumerate(annotations, 100)],
        "categories": [{"id": i, "name": name} for i, name in CATEGORIES.items()],
    }
    path = root / "annotations" / "instances_val2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(file))
    return path


def box(top: int, left: int, height: int, width: int) -> list[list[float]]:
    bottom, right = top + height, left + width
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(image: int, category: str, segmentation: object) -> dict[str, Any]:
    number = next(i for i, name in CATEGORIES.items() if name == category)
    return {"image_id": image, "category_id": number, "segmentation": segmentation}


def test_coco_drops_pictures_with_road_classes_small_pictures_and_road_objects(tmp_path: Path) -> None:
    write_coco(
        tmp_path,
        {3: (480, 500), 1: (480, 500), 2: (400, 500), 4: (480, 500)},
        [
            annotation(3, "dog", box(10, 20, 40, 50)),
            annotation(3, "train", box(100, 20, 40, 50)),  # left out alone: its picture stays
            annotation(3, "banana", box(200, 20, 5, 5)),  # too small
            annotation(1, "dog", box(10, 20, 40, 50)),
            annotation(1, "traffic light", box(0, 0, 2, 2)),  # however small, its picture goes
            annotation(2, "dog", box(10, 20, 40, 50)),  # picture below 480
            annotation(4, "banana", box(60, 70, 50, 40)),
        ],
    )
    cutouts = load_coco_objects(tmp_path, "val")
    assert [(c.name, c.category) for c in cutouts] == [
        ("val2017/000000000003#100", "dog"), ("val2017/000000000004#106", "banana"),
    ]  # fmt: skip
    assert [c.picture for c in cutouts] == ["val2017/000000000003", "val2017/000000000004"]
    kept = load_coco_objects(tmp_path, "val", drop_pictures_with=frozenset(), min_side=1)
    assert [c.name[-4:] for c in kept] == ["#103", "#105", "#100", "#106"]
    published = load_coco_objects(tmp_path, "val", drop_objects=frozenset(), min_pixels=1)
    assert [c.name[-4:] for c in published] == ["#100", "#101", "#102", "#106"]


def test_coco_polygons_and_both_run_lengths_give_the_pixels_of_the_picture(tmp_path: Path) -> None:
    mask = np.zeros((480, 500), np.uint8)
    mask[30:90, 40:100] = 1
    mask[50:60, 60:70] = 0  # a hole
    packed: Any = coco_mask.encode(np.asfortranarray(mask))
    text = packed["counts"].decode()
    counts, run, value = [], 0, 0
    for pixel in mask.T.ravel():
        if pixel != value:
            counts, run, value = [*counts, run], 0, int(pixel)
        run += 1
    write_coco(
        tmp_path,
        {1: (480, 500)},
        [
            annotation(1, "dog", box(30, 40, 60, 60)),
            annotation(1, "dog", {"size": [480, 500], "counts": text}),
            {**annotation(1, "dog", {"size": [480, 500], "counts": [*counts, run]}), "iscrowd": 1},
        ],
    )
    polygon, compressed, crowd = load_coco_objects(tmp_path, "val")
    for cutout in (polygon, compressed, crowd):
        assert (cutout.top, cutout.left) == (30, 40)
        assert cutout.rgba.shape == (60, 60, 4)
        np.testing.assert_allclose(cutout.rgba[30, 0, :2], (60, 40), atol=3)  # jpeg
    assert polygon.rgba[25, 25, 3] == 255
    assert (compressed.rgba[20:30, 20:30, 3] == 0).all()
    np.testing.assert_array_equal(compressed.rgba, crowd.rgba)
    assert (compressed.rgba[..., 3] == 255 * mask[30:90, 40:100]).all()


def test_coco_objects_are_read_when_asked_for_and_travel_to_workers(tmp_path: Path) -> None:
    write_coco(tmp_path, {1: (480, 500)}, [annotation(1, "dog", box(10, 20, 40, 50))])
    (cutout,) = load_coco_objects(tmp_path, "val")
    assert len(pickle.dumps(cutout)) < 2000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cutout)).rgba, cutout.rgba)
    write_picture(tmp_path / "val2017" / "000000000001.jpg", 500, 480)
    with pytest.raises(DataError, match=r"000000000001\.jpg is \(500, 480\), its annotations \(480, 500\)"):
        _ = cutout.rgba
    (tmp_path / "val2017" / "000000000001.jpg").unlink()
    with pytest.raises(DataError, match=r"000000000001\.jpg is missing"):
        _ = cutout.rgba


def test_coco_faults_name_the_annotation_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"instances_val2017\.json is missing"):
        load_coco_objects(tmp_path, "val")
    path = write_coco(tmp_path, {1: (480, 500)}, [{**annotation(1, "dog", box(0, 0, 9, 9)), "category_id": 99}])
    with pytest.raises(DataError, match=r"instances_val2017\.json is no COCO instance file: 99 is missing"):
        load_coco_objects(tmp_path, "val")
    path.write_text("{")
    with pytest.raises(DataError, match=r"instances_val2017\.json is not JSON"):
        load_coco_objects(tmp_path, "val")


def write_voc(root: Path, stem: str, objects: np.ndarray, classes: np.ndarray, palette: bool = True) -> None:
    write_picture(root / "JPEGImages" / f"{stem}.jpg", *objects.shape)
    colours = [
        sum(((index >> (3 * j + c)) & 1) << (7 - j) for j in range(8)) for index in range(256) for c in range(3)
    ]  # the palette as VOC's development kit builds it
    for folder, mask in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        (root / folder).mkdir(exist_ok=True)
        picture = Image.fromarray(mask, "L")
        if palette:
            picture = Image.fromarray(mask, "P")
            picture.putpalette(colours)
        picture.save(root / folder / f"{stem}.png")


@pytest.mark.parametrize("palette", [True, False])
def test_voc_masks_keep_every_index(tmp_path: Path, palette: bool) -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_voc(tmp_path, "x", every, every, palette)
    np.testing.assert_array_equal(read_voc_mask(tmp_path / "SegmentationObject" / "x.png"), every)


def test_voc_objects_carry_their_class_and_leave_out_borders_and_road_classes(tmp_path: Path) -> None:
    objects, classes = np.zeros((100, 120), np.uint8), np.zeros((100, 120), np.uint8)
    for number, (name, top) in enumerate((("cow", 0), ("person", 50)), 1):
        objects[top : top + 42, 28:72] = classes[top : top + 42, 28:72] = 255
        objects[top : top + 40, 30:70], classes[top : top + 40, 30:70] = number, NAMES.index(name)
    write_voc(tmp_path, "2007_000001", objects, classes)
    (cutout,) = load_pascal_voc_objects(tmp_path)
    assert (cutout.picture, cutout.top, cutout.left) == (f"{tmp_path.name}/2007_000001", 0, 30)
    assert cutout.category == "cow"
    assert cutout.rgba.shape == (40, 40, 4)
    assert (cutout.rgba[..., 3] == 255).all()
    np.testing.assert_allclose(cutout.rgba[20, 10, :2], (20, 40), atol=3)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cutout)).rgba, cutout.rgba)


def test_voc_faults_are_all_named(tmp_path: Path) -> None:
    whole = np.ones((40, 40), np.uint8)
    for stem in ("a", "b", "c", "d"):
        write_voc(tmp_path, stem, whole, whole)
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    cv2.imwrite(str(tmp_path / "SegmentationObject" / "b.png"), np.full((40, 40, 3), 1, np.uint8))
    write_voc(tmp_path, "c", whole, whole * 21)
    with pytest.raises(DataError) as caught:
        load_pascal_voc_objects(tmp_path)
    assert len(caught.value.problems) == 3
    missing, colour, value = list(caught.value.problems)
    assert "a.jpg is missing" in missing
    assert "b.png holds the colour #010101" in colour
    assert "c.png: object 1 has the class 21" in value
    with pytest.raises(DataError, match="SegmentationObject holds no"):
        load_pascal_voc_objects(tmp_path / "JPEGImages")
