"""What eval-bag reads: every storage, frames out of order, recordings cut off, labels by stamp and index."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_files import camera, cut, image, stamps, write_bag
from rosbags.rosbag2 import CompressionMode, StoragePlugin

from mgcda_core.config import ConfigError
from mgcda_core.data.rendered_bag import ANOMALY_TOPIC, START_NS
from mgcda_core.data.sample import DataError
from mgcda_core.evaluation.bag.drive import Drive
from mgcda_core.evaluation.bag.judge import eval_bag
from mgcda_core.evaluation.bag.truth import anomaly_numbers, open_stamped_truth, open_truth
from mgcda_core.inference.bags import bag_camera_infos, bag_frames, bag_topics
from mgcda_core.inference.sources import SourceError

SIZE = (40, 64)
FRAMES = [np.full((*SIZE, 3), (20 * i, 60, 200 - 20 * i), np.uint8) for i in range(6)]


def read(drive: Drive) -> tuple[list[int], str]:
    """Stamps of the frames until the fault, and what it says."""
    found = []
    try:
        for frame in drive.frames():
            found.append(frame.stamp_ns)
    except SourceError as error:
        return found, str(error)
    return found, ""


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize("compress", [CompressionMode.NONE, CompressionMode.MESSAGE, CompressionMode.STORAGE])
def test_every_storage_gives_the_same_frames(
    tmp_path: Path, storage: StoragePlugin, compress: CompressionMode, compressed: bool
) -> None:
    if storage is StoragePlugin.SQLITE3 and compress is CompressionMode.STORAGE:
        compress = CompressionMode.FILE
    bag = write_bag(tmp_path / "bag", camera(FRAMES, stamps(6), compressed=compressed), storage, compress)
    drive = Drive(bag)
    frames = list(drive.frames())
    assert (len(drive), drive.rate_hz, drive.seconds(6), drive.out_of_order) == (6, 10.0, 0.6, 0)
    assert [frame.stamp_ns for frame in frames] == stamps(6)
    assert [frame.received_ns for frame in frames] == [stamp + 7 for stamp in stamps(6)]
    assert frames[0].frame_id == "front"
    np.testing.assert_array_equal([frame.image for frame in frames], FRAMES)


def test_frames_out_of_order_are_sorted_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = [0, 2, 1, 5, 3, 4]
    messages = camera([FRAMES[i] for i in order], [stamps(6)[i] for i in order])
    messages += [(ANOMALY_TOPIC, "sensor_msgs/msg/Image", received + 1, image(np.full(SIZE, i % 2, np.uint8),
                  stamps(6)[i], "mono8")) for i, (_, _, received, _) in zip(order, messages, strict=True)]  # fmt: skip
    drive = Drive(write_bag(tmp_path / "bag", messages))
    assert drive.out_of_order == 3
    assert "3 of 6 frames came after a younger one" in capsys.readouterr().err
    frames = list(drive.frames())
    assert [frame.stamp_ns for frame in frames] == stamps(6)
    np.testing.assert_array_equal([frame.image for frame in frames], FRAMES)
    truth = open_truth(None, drive.path, drive.stamps)
    assert truth is not None
    labels = [truth.at(stamp, SIZE) for stamp in drive.stamps]
    assert [None if label is None else int(label[0, 0]) for label in labels] == [0, 1, 0, 1, 0, 1]


def test_a_driver_that_does_not_stamp_is_refused(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", camera(FRAMES, [0] * 6))
    with pytest.raises(SourceError, match=r"/camera/image: frames share a stamp, 0 ns first"):
        Drive(bag)


def test_topics_are_named(tmp_path: Path) -> None:
    left = camera(FRAMES[:2], stamps(2))
    bag = write_bag(tmp_path / "bag", left + [("/right", t, r, m) for _, t, r, m in left])
    with pytest.raises(SourceError, match=r"has 2 image topics, choose one with --image: /camera/image, /right"):
        Drive(bag)
    with pytest.raises(SourceError, match=r"no image topic /rear; it has /camera/image, /right"):
        Drive(bag, "/rear")
    assert len(Drive(bag, "/right")) == 2
    with pytest.raises(SourceError, match=r"no CameraInfo topic /right/camera_info; it has none"):
        bag_camera_infos(bag, "/right", "/right/camera_info")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Drive(tmp_path / "nowhere")


@pytest.mark.parametrize("storage", list(StoragePlugin))
def test_a_cut_off_recording_gives_what_is_readable(tmp_path: Path, storage: StoragePlugin) -> None:
    noise = list(np.random.default_rng(0).integers(0, 256, (60, *SIZE, 3), np.uint8))
    order = [1, 0, *range(2, 60)]
    messages = camera([noise[i] for i in order], [stamps(60)[i] for i in order])
    bag = cut(write_bag(tmp_path / "bag", messages, storage), 0.6)
    assert bag_topics(bag) == {"/camera/image": "sensor_msgs/msg/Image"}
    drive = Drive(bag)
    found, fault = read(drive)
    assert 20 < len(found) < 50
    assert found == drive.stamps == stamps(len(found))
    (file,) = (p.name for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))
    assert file in fault or str(bag) in fault
    assert f"{len(found)} " in fault


def test_a_frame_that_cannot_be_decoded_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = camera([FRAMES[i] for i in (1, 0)], [stamps(6)[i] for i in (1, 0)])
    broken = image(FRAMES[2], stamps(6)[2], "bayer_odd")
    messages.append(("/camera/image", "sensor_msgs/msg/Image", START_NS + 4 * 10**8, broken))
    after = camera([FRAMES[i] for i in (3, 4)], [stamps(6)[i] for i in (3, 4)])
    messages += [(topic, kind, START_NS + 10**9 + i, message) for i, (topic, kind, _, message) in enumerate(after)]
    drive = Drive(write_bag(tmp_path / "bag", messages))
    assert read(drive) == ([stamps(6)[i] for i in (0, 1, 3, 4)], "")
    assert drive.undecodable == 1
    wanted = "1 of 5 frames cannot be decoded and are skipped, first .*message 2: unknown encoding 'bayer_odd'"
    assert re.search(wanted, capsys.readouterr().err)
    with pytest.raises(SourceError, match=r"/camera/image, message 2: unknown encoding 'bayer_odd'"):
        list(bag_frames(tmp_path / "bag"))
    none = write_bag(tmp_path / "none", messages[2:3])
    assert "no frame can be decoded: " in read(Drive(none))[1]


def test_a_frame_that_cannot_be_decoded_is_left_out(
    tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = list(np.random.default_rng(0).integers(0, 255, (4, 48, 64, 3), np.uint8))
    messages = camera(frames, stamps(4), compressed=True)
    messages[1][3].data = messages[1][3].data[:20]
    eval_bag(write_bag(tmp_path / "bag", messages), tmp_path, weights=str(tiny_weights), device="cpu")
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["frames_in"], report["frames_undecodable"], report["complete"]) == (3, 1, True)
    assert report["seconds"] == 0.4
    assert "warning: 1 of 4 frames cannot be decoded and are skipped" in capsys.readouterr().err
    assert "1 frames were skipped" in (tmp_path / "report.html").read_text()


def test_a_cut_off_file_that_is_compressed_as_a_whole_is_named(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", camera(FRAMES, stamps(6)), StoragePlugin.SQLITE3, CompressionMode.FILE)
    (file,) = bag.glob("*.zstd")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(SourceError, match=r"bag\.db3\.zstd is damaged or cut off"):
        Drive(bag)


def masks(folder: Path, named: dict[str, int]) -> Path:
    folder.mkdir()
    for name, value in named.items():
        cv2.imwrite(str(folder / f"{name}.png"), np.full(SIZE, value, np.uint8))
    return folder


def test_labels_by_stamp_by_index_and_with_other_values(tmp_path: Path) -> None:
    at = stamps(4)
    by_stamp = open_truth(masks(tmp_path / "a", {f"mask_{at[1]}": 1, f"{at[3]}": 255}), tmp_path, at)
    by_index = open_truth(masks(tmp_path / "b", {"frame_000": 0, "frame_002": 2}), tmp_path, at, (1, 2))
    assert by_stamp is not None and by_index is not None
    for truth, wanted in ((by_stamp, [None, 1, None, 255]), (by_index, [0, None, 1, None])):
        labels = [truth.at(stamp, SIZE) for stamp in at]
        assert [None if label is None else int(label[3, 3]) for label in labels] == wanted


def test_labels_that_do_not_fit_are_named(tmp_path: Path) -> None:
    at = stamps(4)
    for number, (named, message) in enumerate([
        ({"f0": 0, "f4": 0}, r"f4\.png matches no frame .* an index \(0 to 3\)"),
        ({"road": 0}, r"road\.png matches no frame"),
        ({"a1": 0, "b1": 0}, r"a1\.png and .*b1\.png are both for the frame"),
        ({}, "holds no mask"),
    ]):  # fmt: skip
        with pytest.raises(DataError, match=message):
            open_truth(masks(tmp_path / str(number), named), tmp_path, at)
    truth = open_truth(masks(tmp_path / "values", {"f0": 7}), tmp_path, at)
    assert truth is not None
    with pytest.raises(DataError, match=r"f0\.png holds the value 7; known are 0 .* --anomaly_values 1"):
        truth.at(at[0], SIZE)
    with pytest.raises(DataError, match=r"f0\.png is \(40, 64\), its frame \(4, 6\)"):
        truth.at(at[0], (4, 6))
    with pytest.raises(DataError, match="nowhere does not exist"):
        open_truth(tmp_path / "nowhere", tmp_path, at)
    plain = write_bag(tmp_path / "plain", camera(FRAMES[:2], at[:2]))
    with pytest.raises(DataError, match=r"plain has no topic /truth/anomaly; it has /camera/image"):
        open_truth(plain, tmp_path, at)
    assert open_truth(None, plain, at) is None
    other = [(ANOMALY_TOPIC, "sensor_msgs/msg/Image", 5, image(np.zeros(SIZE, np.uint8), 5, "mono8"))]
    with pytest.raises(DataError, match="do not belong together"):
        open_truth(write_bag(tmp_path / "other", other), tmp_path, at)


def test_a_recordings_own_truth_of_no_frame_is_refused(tmp_path: Path) -> None:
    truth = [(ANOMALY_TOPIC, "sensor_msgs/msg/Image", 5, image(np.zeros(SIZE, np.uint8), 5, "mono8"))]
    bag = write_bag(tmp_path / "bag", camera(FRAMES, stamps(6)) + truth)
    with pytest.raises(DataError, match=r"/truth/anomaly, has the stamp .* do not belong together"):
        open_truth(None, bag, stamps(6))


def test_masks_past_the_end_of_a_damaged_recording_are_left_out(tmp_path: Path) -> None:
    at = stamps(4)
    by_index = masks(tmp_path / "a", {f"{i:04d}": 0 for i in range(9)})
    by_stamp = masks(tmp_path / "b", {str(stamp): 0 for stamp in stamps(9)})
    for folder in (by_index, by_stamp):
        truth = open_truth(folder, tmp_path, at, damaged=True)
        assert truth is not None and (truth.stamps, truth.left_out) == (set(at), 5)
        with pytest.raises(DataError, match="matches no frame"):
            open_truth(folder, tmp_path, at)
    with pytest.raises(DataError, match="matches no frame"):
        open_truth(masks(tmp_path / "c", {str(at[1] + 3): 0}), tmp_path, at, damaged=True)


def test_masks_counted_from_one_are_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    open_truth(masks(tmp_path / "a", {f"f{i}": 0 for i in (1, 2, 3)}), tmp_path, stamps(4))
    assert "numbered from 1 on" in capsys.readouterr().err
    with pytest.raises(DataError, match="f4"):
        open_truth(masks(tmp_path / "b", {f"f{i}": 0 for i in (1, 2, 3, 4)}), tmp_path, stamps(4))
    assert "numbered from 1 on" in capsys.readouterr().err
    open_truth(masks(tmp_path / "c", {f"f{i}": 0 for i in (0, 1, 2, 3)}), tmp_path, stamps(4))
    open_truth(masks(tmp_path / "d", {f"f{i}": 0 for i in (1, 2)}), tmp_path, stamps(4))
    assert capsys.readouterr().err == ""


def test_answers_are_labelled_by_stamp_only(tmp_path: Path) -> None:
    at = stamps(5)
    answered = [at[i] for i in (0, 1, 3)]
    truth = open_stamped_truth(masks(tmp_path / "a", {str(stamp): 0 for stamp in at}), tmp_path, answered)
    assert (truth.stamps, truth.left_out) == (set(answered), 2)
    with pytest.raises(DataError, match=r"named by index, .* name them by stamp"):
        open_stamped_truth(masks(tmp_path / "b", {"0000": 0, "0003": 0}), tmp_path, answered)
    with pytest.raises(DataError, match="none has; name them by stamp"):
        open_stamped_truth(masks(tmp_path / "c", {str(at[2]): 0}), tmp_path, answered)


@pytest.mark.parametrize("text", ["", ",", "0", "255", "1,255", "-1", "256", "1,300"])
def test_values_that_cannot_mean_anomaly_are_refused(text: str) -> None:
    assert anomaly_numbers("1,2,254") == (1, 2, 254)
    with pytest.raises(ConfigError, match=r"--anomaly_values is .* from 1 to 254"):
        anomaly_numbers(text)
