"""~/save_frame: what it writes, and what it refuses."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from std_msgs.msg import Header

from mgcda_core.prediction import Prediction
from mgcda_ros import saved_frames
from mgcda_ros.camera_stream import Described
from mgcda_ros.node_parameters import NodeParameters
from mgcda_ros.saved_frames import SavedFrames, SaveError

IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
PREDICTION = Prediction(np.linspace(-3, 3, 600, dtype=np.float32).reshape(20, 30), 0.5)
HEADER = Header(stamp=Time(sec=12, nanosec=34), frame_id="../../../etc/passwd")
STREAM: Any = None
FRAME = Described(STREAM, HEADER, 12.0, IMAGE, PREDICTION, NodeParameters(min_region_area=5))


def test_image_score_and_json(tmp_path: Path):
    path = SavedFrames(str(tmp_path / "new" / "folder"), 1).save("front", FRAME, {"weights": "x"})
    assert sorted(file.name for file in path.parent.iterdir()) == [
        "12_000000034_front.json", "12_000000034_front.png", "12_000000034_front.score.npy",
    ]  # fmt: skip
    picture = cv2.imread(str(path.with_suffix(".png")))
    assert picture is not None
    np.testing.assert_array_equal(picture[..., ::-1], IMAGE)
    np.testing.assert_array_equal(np.load(path.with_suffix(".score.npy")), PREDICTION.score)
    said = json.loads(path.read_text())
    assert (said["weights"], said["height"], said["frame_id"]) == ("x", 20, HEADER.frame_id)


def test_frames_without_a_stamp_do_not_overwrite_each_other(tmp_path: Path):
    saved, frame = SavedFrames(str(tmp_path), 1), dataclasses.replace(FRAME, header=Header())
    names = [saved.save("", frame, {}).name for _ in range(3)]
    assert names == ["0_000000000_camera.json", "0_000000000_camera-2.json", "0_000000000_camera-3.json"]
    assert len(list(tmp_path.iterdir())) == 9


def test_only_regions_that_may_become_hazards_are_listed(tmp_path: Path):
    logits = np.full((20, 30), -9.0, np.float32)
    logits[2, 3] = logits[10:14, 10:14] = 9.0
    path = SavedFrames(str(tmp_path), 1).save("", dataclasses.replace(FRAME, prediction=Prediction(logits)), {})
    assert [region["area"] for region in json.loads(path.read_text())["regions"]] == [16]


def test_the_folder_has_a_limit_whatever_lies_in_it(tmp_path: Path):
    (tmp_path / "something.bag").write_bytes(bytes(999_000))
    saved = SavedFrames(str(tmp_path), 1)
    with pytest.raises(SaveError, match=r"of the 1 MB of save_limit: take the frames away"):
        saved.save("", FRAME, {})
    assert [file.name for file in tmp_path.iterdir()] == ["something.bag"]


def test_a_full_disk_leaves_no_part_of_a_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved_frames.np, "save", full)
    with pytest.raises(SaveError, match=f"frame not saved in {tmp_path}: No space left on device"):
        SavedFrames(str(tmp_path), 1).save("", FRAME, {})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match=r"frame not saved in .*file/folder"):
        SavedFrames(str(tmp_path / "file" / "folder"), 1).save("", FRAME, {})
