"""`mgcda data check`: figures, faults that do not end it, sheets."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from command_line import Run

from mgcda_core import cli
from mgcda_core.data.check import DATASETS
from mgcda_core.data.sample import read_rgb


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


@pytest.fixture
def camvid(tmp_path: Path) -> Path:
    """Four train frames, a quarter void and the rest road, and one val frame all sky; no test split."""
    label = np.full((40, 60), 3, np.uint8)
    label[:10] = 11
    for split, stem, values in (*(("train", f"f{i}", label) for i in range(4)), ("val", "v", label * 0)):
        write(tmp_path / "camvid" / split / "images" / f"{stem}.jpg", np.full((40, 60, 3), 100, np.uint8))
        write(tmp_path / "camvid" / split / "labels" / f"{stem}.png", values)
    return tmp_path / "camvid"


def check(mgcda: Run, root: Path, dataset: str, *words: object) -> tuple[int, str, str]:
    return mgcda("data", "check", "--dataset", dataset, "--root", root, "--out", root / "sheets", *words)


def test_it_counts_and_draws(mgcda: Run, camvid: Path) -> None:
    code, text, _ = check(mgcda, camvid, "camvid", "--split", "train")
    assert code == 0
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["camvid", "train:", "images", "4,", "all", "40x60", "(height", "x", "width)"]
    assert ["3", "75.00", "%", "road"] in lines
    assert ["11", "25.00", "%", "void"] in lines
    assert "warning: never there: sky, building, pole, pavement" in text
    sheet = read_rgb(camvid / "sheets" / "camvid-train.png")
    painted = {tuple(colour) for colour in sheet.reshape(-1, 3).tolist()}
    assert {(100, 100, 100), (40, 193, 193), (116, 78, 116)} <= painted  # the image, void, road: 0.6 of the colour


def test_faults_are_all_listed_and_do_not_end_it(mgcda: Run, camvid: Path) -> None:
    train = camvid / "train"
    write(train / "labels" / "f0.png", np.full((40, 60), 12, np.uint8))
    (train / "images" / "f1.jpg").write_bytes(b"rubbish")
    write(train / "labels" / "f2.png", np.zeros((5, 5), np.uint8))
    code, text, error = check(mgcda, camvid, "camvid")
    assert code == 1
    assert "camvid train: images 1," in text
    faults = [line for line in text.splitlines() if "fault:" in line]
    for fault, words in zip(faults, ("f0.png holds the value 12", "f1.jpg is not a readable", "f2.png is (5, 5)",
                                     "test/images is not a folder"), strict=True):  # fmt: skip
        assert words in fault
    assert "camvid val: images 1," in text
    assert error == f"error: camvid: 4 faults below {camvid}, listed above\n"


def test_every_missing_label_is_listed(mgcda: Run, camvid: Path) -> None:
    for stem in ("f1", "f3"):
        (camvid / "train" / "labels" / f"{stem}.png").unlink()
    code, text, _ = check(mgcda, camvid, "camvid", "--split", "train")
    assert code == 1
    assert [f"{stem}.png" in line for stem, line in zip(("f1", "f3"), text.splitlines()[1:], strict=True)] == [True] * 2


def test_folder_takes_label_values_and_warns(mgcda: Run, drive: Path) -> None:
    write(drive / "masks" / "f3.png", np.full((64, 96), 255, np.uint8))
    write(drive / "masks" / "f2.png", np.zeros((64, 96), np.uint8))
    code, text, _ = check(mgcda, drive, "folder", "--anomaly_values", "2")
    assert code == 0
    assert "anomaly, stored as 2" in text
    assert "warning: masks without an anomaly: 1, the first " in text
    assert "warning: masks that ignore every pixel: 1, the first " in text
    assert (drive / "sheets" / f"folder-{drive.name}.png").is_file()
    assert check(mgcda, drive, "folder")[0] == 1  # without the flag, 2 has no meaning


def test_objects_are_counted_by_class(mgcda: Run, tmp_path: Path) -> None:
    mask = np.zeros((60, 90), np.uint8)
    mask[5:45, 5:45], mask[10:50, 50:85] = 1, 2
    write(tmp_path / "images" / "x.jpg", np.full((60, 90, 3), 250, np.uint8))
    write(tmp_path / "masks" / "x.png", mask)
    (tmp_path / "instances.json").write_text('{"x": {"1": {"class": "dog"}, "2": {"class": "cup"}}}')
    code, text, _ = check(mgcda, tmp_path, "cutouts")
    assert code == 0
    assert "objects 2, pictures 1" in text
    assert "longer side, pixels: 40 to 40" in text
    assert "area, pixels:        1400 to 1600" in text
    assert "dog:1, cup:1" in text
    sheet = read_rgb(tmp_path / "sheets" / f"cutouts-{tmp_path.name}.png")
    assert (sheet == 250).all(-1).sum() == 3000
    assert (sheet == 128).all(-1).any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("kitti",), "unknown data set kitti: choose from camvid, "),
        (("camvid", "--split", "minival"), "camvid has no split minival: train, val, test"),
        (("cutouts", "--split", "train"), "cutouts has no split train: leave --split out"),
    ],
)
def test_wrong_use_is_named(mgcda: Run, camvid: Path, words: tuple[str, ...], said: str) -> None:
    code, _, error = check(mgcda, camvid, *words)
    assert code == 2
    assert said in error


def test_the_help_names_every_data_set() -> None:
    text = " ".join((cli.data_check.__doc__ or "").replace(",", " ").split())
    assert [name for name in DATASETS if f" {name} " not in text] == []


@pytest.mark.data
@pytest.mark.parametrize(
    ("dataset", "folder", "said"),
    [
        ("camvid", "camvid", "camvid test: images 233"),
        ("idd_lite", "idd-lite", "idd_lite train: images 1403"),
        ("cutouts", "ecssd-cutouts", "objects 506, pictures 506"),
        ("folder", "road-anomaly21", "folder road-anomaly21: images 10"),
    ],
)
def test_the_real_sets_are_without_fault(mgcda: Run, tmp_path: Path, dataset: str, folder: str, said: str) -> None:
    root = Path(os.environ.get("MGCDA_SHARED", "../shared")) / "data" / folder
    code, text, _ = mgcda("data", "check", "--dataset", dataset, "--root", root, "--out", tmp_path)
    assert code == 0
    assert said in text
