"""The drive as a recording: topics, stamps, truth; real frames as a recording; what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from mgcda_core.data.rendered import DEMO_SEED_BASE, RenderedCamera
from mgcda_core.data.rendered_bag import (
    ANOMALY_TOPIC,
    DEMO_SEED,
    IMAGE_TOPIC,
    INFO_TOPIC,
    LABELS_TOPIC,
    START_NS,
    DriveWriter,
    frames_to_bag,
    render_drive,
)
from mgcda_core.evaluation.drive import render
from mgcda_core.inference.bags import COMPRESSED_TYPE, RAW_TYPE, _info_topic
from mgcda_core.inference.sources import open_source


def messages(path: Path) -> dict[str, list]:
    found: dict[str, list] = {}
    with AnyReader([path]) as reader:
        for connection, time, raw in reader.messages():
            message: Any = reader.deserialize(raw, connection.msgtype)
            stamp = message.header.stamp.sec * 10**9 + message.header.stamp.nanosec
            assert stamp == time
            assert message.header.frame_id == "camera_optical_frame"
            found.setdefault(connection.topic, []).append((stamp, message))
    return found


def test_drive_as_a_recording(tmp_path: Path) -> None:
    out = render_drive(tmp_path / "drive", frames=3, size=(96, 192), rate_hz=10)
    found = messages(out)
    assert set(found) == {IMAGE_TOPIC, INFO_TOPIC, ANOMALY_TOPIC, LABELS_TOPIC}
    stamps = [START_NS, START_NS + 10**8, START_NS + 2 * 10**8]
    assert all([stamp for stamp, _ in entries] == stamps for entries in found.values())
    image, truth = found[IMAGE_TOPIC][0][1], found[ANOMALY_TOPIC][0][1]
    assert (image.encoding, image.height, image.width, image.step) == ("bgr8", 96, 192, 576)
    assert (truth.encoding, truth.step) == ("mono8", 192) and set(np.unique(truth.data)) <= {0, 1}
    labels = found[LABELS_TOPIC][0][1]
    assert np.array_equal(labels.data == 255, truth.data == 1)
    info = found[INFO_TOPIC][0][1]
    assert info.k[0] == pytest.approx(96 / np.tan(0.6)) and info.k[2] == 95.5 and info.width == 192
    assert list(info.p.reshape(3, 4)[:, 3]) == [0, 0, 0] and info.p[5] == info.k[4]


def test_the_same_bytes_again_and_only_demo_seeds(tmp_path: Path) -> None:
    one = render_drive(tmp_path / "one", frames=2, size=(64, 128))
    two = render_drive(tmp_path / "two", frames=2, size=(64, 128))
    frames = [[f.image for f in open_source(path, IMAGE_TOPIC)] for path in (one, two)]
    assert np.array_equal(frames[0], frames[1])
    assert DEMO_SEED >= DEMO_SEED_BASE


def test_an_old_recording_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "drive"
    render_drive(out, frames=2, size=(64, 128))
    render_drive(out, frames=1, size=(64, 128))
    assert len(list(open_source(out, IMAGE_TOPIC))) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["drive"]
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("x")
    with pytest.raises(FileExistsError, match="precious"):
        render_drive(precious, frames=1, size=(64, 128))
    assert (precious / "thesis.tex").exists()


def test_real_frames_as_a_recording(tmp_path: Path) -> None:
    images = [np.full((10, 14, 3), (i, 50, 200), np.uint8) for i in range(4)]
    out = frames_to_bag(((image, None) for image in images), tmp_path / "bag", rate_hz=5)
    found = messages(out)
    assert set(found) == {IMAGE_TOPIC}
    assert [stamp for stamp, _ in found[IMAGE_TOPIC]] == [START_NS + i * 200_000_000 for i in range(4)]
    assert np.array_equal([f.image for f in open_source(out)], images)


@pytest.mark.parametrize(
    ("stamps", "wanted"),
    [
        ([0, 40_000_000, 40_000_000], [START_NS, START_NS + 40_000_000, START_NS + 140_000_000]),
        ([10**18, 10**18 + 7, None], [10**18, 10**18 + 7, 10**18 + 100_000_007]),
    ],
)
def test_stamps_of_real_frames_increase(tmp_path: Path, stamps: list, wanted: list[int]) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    out = frames_to_bag(((image, stamp) for stamp in stamps), tmp_path / "bag", rate_hz=10)
    assert [stamp for stamp, _ in messages(out)[IMAGE_TOPIC]] == wanted


@pytest.mark.parametrize("picked", ["/left/image", None])
def test_render_keeps_the_cameras_calibration(tmp_path: Path, picked: str | None) -> None:
    """The camera is refocused before the last frame; the second frame's CameraInfo lost its way."""
    topics = ["/left/image", "/left/camera_info"] + (["/right/image", "/right/camera_info"] if picked else [])
    start, step = 10**18, 10**8
    with DriveWriter(tmp_path / "source") as bag:
        for i in range(4):
            for side, topic in enumerate(topics[1::2]):
                focal = (50.0 if i < 3 else 60.0) + 100 * side
                info = bag._info(RenderedCamera(focal, focal, 14.5, 9.5, 1.5, 0.0), (20, 30), start + i * step)
                if i != 1:
                    bag._write(topic, "sensor_msgs/msg/CameraInfo", start + i * step, info)
            for topic in topics[::2]:
                bag._write_image(topic, np.zeros((20, 30, 3), np.uint8), "rgb8", start + i * step)
    found = messages(render(tmp_path / "bag", source=str(tmp_path / "source"), topic=picked))
    assert set(found) == {IMAGE_TOPIC, INFO_TOPIC}
    assert [stamp for stamp, _ in found[INFO_TOPIC]] == [stamp for stamp, _ in found[IMAGE_TOPIC]]
    assert [info.k[0] for _, info in found[INFO_TOPIC]] == [50.0, 50.0, 50.0, 60.0]
    assert (found[INFO_TOPIC][0][1].width, found[INFO_TOPIC][0][1].distortion_model) == (30, "plumb_bob")


def test_the_calibration_of_compressed_images_lies_one_level_up() -> None:
    infos = {"/a/camera_info", "/b/camera_info"}
    assert _info_topic("/a/image/compressed", COMPRESSED_TYPE, infos) == "/a/camera_info"
    assert _info_topic("/c/image", RAW_TYPE, infos) is None
    assert _info_topic("/c/image", RAW_TYPE, {"/b/camera_info"}) == "/b/camera_info"


def test_impossible_drives_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frames >= 1"):
        render_drive(tmp_path / "a", frames=0)
    with pytest.raises(ValueError, match="no frame"):
        frames_to_bag([], tmp_path / "b")
    with pytest.raises(ValueError, match="rate_hz"):
        frames_to_bag([], tmp_path / "c", rate_hz=0)
    assert list(tmp_path.iterdir()) == []


def test_render_takes_frames_from_a_source(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), np.full((20, 30, 3), 40 * i, np.uint8))
    out = render(tmp_path / "bag", source=str(tmp_path / "images"), rate_hz=10)
    assert [int(f.image[0, 0, 0]) for f in open_source(out)] == [0, 40, 80]
    again = render(tmp_path / "bag2", source=str(out))
    assert [f.stamp_ns for f in open_source(again)] == [f.stamp_ns for f in open_source(out)]
    with pytest.raises(ValueError, match="overwrite the source"):
        render(out, source=str(out))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        render(tmp_path / "bag3", source=str(tmp_path / "nowhere"))
    assert not (tmp_path / "bag3").exists()
