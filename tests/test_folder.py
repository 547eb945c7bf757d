"""LabelledFolder: pairing, label mapping, and every bad file named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from mgcda_core.config import ConfigError
from mgcda_core.data.folder import LabelledFolder
from mgcda_core.data.sample import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two pairs: a.jpg / a.png with 0, 1, 255 and b.webp / b.bmp with 0 only."""
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    image = np.full((20, 30, 3), (200, 100, 0), np.uint8)
    cv2.imwrite(str(tmp_path / "images" / "a.jpg"), image)
    cv2.imwrite(str(tmp_path / "images" / "b.webp"), image)
    mask = np.zeros((20, 30), np.uint8)
    cv2.imwrite(str(tmp_path / "masks" / "b.bmp"), mask)
    mask[5:10, 5:10], mask[:2] = 1, 255
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), mask)
    (tmp_path / "images" / "README.txt").touch()
    return tmp_path


def open_folder(root: Path, **values: tuple[int, ...]) -> LabelledFolder:
    return LabelledFolder(root / "images", root / "masks", **values)


def write_mask(root: Path, mask: np.ndarray) -> None:
    assert cv2.imwrite(str(root / "masks" / "a.png"), mask)


def test_pairs_by_stem_and_reads_rgb(root: Path) -> None:
    data = open_folder(root)
    assert [data[i].stem for i in range(len(data))] == ["a", "b"]
    assert np.abs(data[0].image[10, 20].astype(int) - (0, 100, 200)).max() < 12
    assert np.unique(data[0].label).tolist() == [0, 1, 255]
    assert (data[0].label == 1).sum() == 25
    assert not data[1].label.any()


def test_values_are_mapped(root: Path) -> None:
    write_mask(root, np.repeat(np.array([[0, 1, 2, 7, 200]], np.uint8), 20, 0).repeat(6, 1))
    data = open_folder(root, anomaly_values=(2, 7), ignore_values=(0,), normal_values=(1, 200))
    assert data[0].label[0, ::6].tolist() == [255, 0, 1, 1, 0]


def test_an_unknown_value_names_file_value_and_flags(root: Path) -> None:
    write_mask(root, np.full((20, 30), 2, np.uint8))
    with pytest.raises(DataError, match=r"masks/a.png holds the value 2.*--anomaly_values.*now 1, 255 and 0"):
        open_folder(root)[0]


def test_grey_masks_saved_in_colour_and_16_bit_masks_are_read(root: Path) -> None:
    for mask in (np.ones((20, 30, 3), np.uint8), np.ones((20, 30), np.uint16)):
        write_mask(root, mask)
        assert (open_folder(root)[0].label == 1).all()
    write_mask(root, np.full((20, 30), 1000, np.uint16))
    with pytest.raises(DataError, match="value 1000"):
        open_folder(root)[0]


def test_colour_masks_are_refused(root: Path) -> None:
    write_mask(root, np.dstack([np.zeros((20, 30), np.uint8)] * 2 + [np.ones((20, 30), np.uint8)]))
    with pytest.raises(DataError, match=r"a.png is a colour picture"):
        open_folder(root)[0]


def test_sizes_must_agree(root: Path) -> None:
    write_mask(root, np.zeros((10, 30), np.uint8))
    with pytest.raises(DataError, match=r"a.png is 10x30 .* image .*a.jpg 20x30"):
        open_folder(root)[0]


def test_missing_masks_are_named(root: Path) -> None:
    (root / "masks" / "a.png").unlink()
    with pytest.raises(DataError, match=r"images/a.jpg has no mask: .* named a\.\*"):
        open_folder(root)


@pytest.mark.parametrize("name", ["images/a.jpg", "masks/a.png"])
def test_unreadable_files_are_named(root: Path, name: str) -> None:
    (root / name).write_bytes(b"rubbish")
    with pytest.raises(DataError, match=f"{name} is not a readable image"):
        open_folder(root)[0]


def test_two_files_of_one_stem_are_refused(root: Path) -> None:
    (root / "images" / "a.png").write_bytes((root / "images" / "a.jpg").read_bytes())
    with pytest.raises(DataError, match=r"a.jpg and .*a.png have the same stem"):
        open_folder(root)


def test_missing_and_empty_folders_are_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere is not a folder"):
        LabelledFolder(root / "images", root / "nowhere")
    (root / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no image"):
        LabelledFolder(root / "empty", root / "masks")


def test_a_value_has_one_meaning(root: Path) -> None:
    with pytest.raises(ConfigError, match="value 1 is named twice"):
        open_folder(root, anomaly_values=(1,), ignore_values=(1, 255))
    with pytest.raises(ConfigError, match="anomaly_values is empty"):
        open_folder(root, anomaly_values=())
