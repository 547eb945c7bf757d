"""Sources: images, folders, patterns, videos and recordings, whole and damaged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mgcda_core.inference.draw import Mp4Writer, write_png
from mgcda_core.inference.sources import SourceError, open_source

STORE = get_typestore(Stores.ROS2_KILTED)
TYPES: dict[str, Any] = STORE.types


def picture(number: int, size: tuple[int, int] = (48, 64)) -> np.ndarray:
    """A flat colour that tells the number, with a gradient so that nothing is symmetric."""
    image = np.full((*size, 3), (10 * number % 250, 100, 250 - 10 * number % 250), np.uint8)
    image[: size[0] // 2, : size[1] // 3, 1] = 30
    return image


def header(number: int) -> Any:
    stamp = TYPES["builtin_interfaces/msg/Time"](sec=100 + number, nanosec=5)
    return TYPES["std_msgs/msg/Header"](stamp=stamp, frame_id="camera")


def raw_message(number: int, **changed: Any) -> Any:
    image = picture(number)
    padded = np.zeros((48, 64 * 3 + 8), np.uint8)
    padded[:, : 64 * 3] = image[..., ::-1].reshape(48, -1)
    fields = {"height": 48, "width": 64, "encoding": "bgr8", "is_bigendian": 0, "step": 200, "data": padded.reshape(-1)}
    return TYPES["sensor_msgs/msg/Image"](header=header(number), **{**fields, **changed})


def compressed_message(number: int) -> Any:
    data = cv2.imencode(".png", picture(number)[..., ::-1])[1].reshape(-1)
    return TYPES["sensor_msgs/msg/CompressedImage"](header=header(number), format="png", data=data)


def write_bag(
    path: Path,
    messages: dict[str, Callable[[int], Any]],
    count: int = 6,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compress: CompressionMode = CompressionMode.NONE,
) -> Path:
    writer = Writer(path, version=9, storage_plugin=storage)
    writer.set_compression(compress, CompressionFormat.ZSTD)
    with writer:
        for topic, make in messages.items():
            name = make(0).__msgtype__
            connection = writer.add_connection(topic, name, typestore=STORE)
            for number in range(count):
                raw = STORE.serialize_cdr(make(number), name)
                writer.write(connection, 1_000 * (number + 1), raw)
    return path


def read_until_error(path: Path, **options: Any) -> tuple[int, str]:
    frames = 0
    with pytest.raises((ValueError, OSError)) as caught:
        for _ in open_source(path, **options):
            frames += 1
    return frames, str(caught.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "drive"
    folder.mkdir()
    for number, name in ((2, "f2.png"), (10, "f10.png"), (1, "f1.bmp"), (3, "f3.webp")):
        assert cv2.imwrite(str(folder / name), picture(number)[..., ::-1])
    (folder / "notes.txt").write_text("no image")
    return folder


def test_folder_is_read_in_natural_order_as_rgb(folder: Path) -> None:
    frames = list(open_source(folder))
    assert [f.stem for f in frames] == ["f1", "f2", "f3", "f10"]
    np.testing.assert_array_equal(frames[1].image, picture(2))
    assert frames[0].stamp_ns is None


def test_pattern_and_single_image(folder: Path) -> None:
    assert [f.stem for f in open_source(f"{folder}/f*.png")] == ["f2", "f10"]
    assert [f.stem for f in open_source(folder / "f3.webp")] == ["f3"]


def test_frames_are_read_only_when_asked_for(folder: Path) -> None:
    (folder / "f4.png").write_bytes(b"not an image")
    frames = open_source(folder)
    assert [next(frames).stem for _ in range(3)] == ["f1", "f2", "f3"]
    with pytest.raises(ValueError, match=r"f4\.png is not a readable image"):
        next(frames)


def test_two_files_of_one_stem_are_refused(folder: Path) -> None:
    (folder / "f2.jpg").write_bytes((folder / "f2.png").read_bytes())
    with pytest.raises(SourceError, match=r"f2.jpg and .*f2.png would write the same"):
        open_source(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nowhere", "does not exist"), ("no*.png", "matches 0 files"), ("a.xyz", "ending"), ("empty", "holds no image")],
)
def test_wrong_paths_are_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "a.xyz").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises((SourceError, FileNotFoundError), match=message) as caught:
        open_source(tmp_path / name)
    assert name in str(caught.value)


def test_a_topic_makes_sense_for_recordings_only(folder: Path) -> None:
    with pytest.raises(SourceError, match="only a recording has topics"):
        open_source(folder, topic="/camera")


def test_video(tmp_path: Path) -> None:
    path = tmp_path / "drive.mp4"
    with Mp4Writer(path, frames_per_second=20) as video:
        for number in range(8):
            video.add(picture(number, (49, 65)))
    frames = list(open_source(path))
    assert [f.stem for f in frames][:2] == ["frame_000000", "frame_000001"]
    assert len(frames) == 8
    assert frames[3].image.shape == (48, 64, 3)
    assert np.abs(frames[3].image[40, 60].astype(int) - picture(3)[40, 60]).max() < 25  # lossy, but not BGR
    stamps = [f.stamp_ns for f in frames]
    assert np.allclose(np.diff(np.array(stamps)), 50e6, atol=2e6)


def test_a_damaged_video_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(b"\0\0\0\x18ftypmp42 but nothing else")
    assert "cut.mp4" in read_until_error(path)[1]


@pytest.mark.parametrize("storage", list(StoragePlugin))
@pytest.mark.parametrize("make", [raw_message, compressed_message])
def test_recordings(tmp_path: Path, storage: StoragePlugin, make: Callable[[int], Any]) -> None:
    bag = write_bag(tmp_path / "bag", {"/front/image": make}, storage=storage)
    (file,) = [p for p in bag.iterdir() if p.suffix in (".mcap", ".db3")]
    for path in (bag, file):
        frames = list(open_source(path))
        assert [f.stem for f in frames] == [f"front_image_{i:06d}" for i in range(6)]
        assert frames[4].stamp_ns == 104 * 10**9 + 5
        np.testing.assert_array_equal(frames[4].image, picture(4))


def test_an_interrupted_recording_without_metadata_is_read(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/image": raw_message})
    (bag / "metadata.yaml").unlink()
    assert len(list(open_source(bag))) == 6


def test_several_image_topics_need_a_choice(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/left": raw_message, "/right": compressed_message})
    assert read_until_error(bag)[1].endswith("choose one with --topic: /left, /right")
    assert next(f.stem for f in open_source(bag, topic="/right")) == "right_000000"
    assert "no image topic /rear; it has /left, /right" in read_until_error(bag, topic="/rear")[1]


def test_a_recording_without_images_says_so(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/text": lambda _: TYPES["std_msgs/msg/String"](data="x")})
    assert "holds no topic with images" in read_until_error(bag)[1]


@pytest.mark.parametrize("compress", [CompressionMode.NONE, CompressionMode.STORAGE, CompressionMode.MESSAGE])
def test_a_cut_off_mcap_gives_what_was_readable(tmp_path: Path, compress: CompressionMode) -> None:
    bag = write_bag(tmp_path / "bag", {"/image": raw_message}, count=400, compress=compress)
    (file,) = bag.glob("*.mcap")
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * 0.6)])
    for path in (bag, file):
        frames, message = read_until_error(path)
        assert 40 < frames < 300
        assert file.name in message
        assert f"{frames} images of /image before that were read" in message


def test_a_cut_off_sqlite_recording_gives_what_was_readable(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", {"/image": raw_message}, count=60, storage=StoragePlugin.SQLITE3)
    (file,) = bag.glob("*.db3")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    frames, message = read_until_error(bag)
    assert 10 < frames < 60
    assert file.name in message


@pytest.mark.parametrize("content", [b"", b"\x89MCAP0\r\n", b"rubbish" * 100])
@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
def test_rubbish_is_no_recording(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"drive{suffix}"
    path.write_bytes(content)
    frames, message = read_until_error(path)
    assert frames == 0
    assert path.name in message


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encoding": "bayer_xyz"}, "unknown encoding 'bayer_xyz'"),
        ({"data": np.zeros(10, np.uint8)}, "data holds 10 bytes"),
        ({"height": 0, "width": 0}, "image is 0x0"),
    ],
)
def test_a_bad_image_message_names_recording_topic_and_field(tmp_path: Path, changed: dict, message: str) -> None:
    bag = write_bag(tmp_path / "bag", {"/cam": lambda i: raw_message(i, **(changed if i == 2 else {}))})
    frames, text = read_until_error(bag)
    assert frames == 2
    assert message in text
    assert f"{bag}, topic /cam, message 2" in text


def test_an_undecodable_compressed_image_is_named(tmp_path: Path) -> None:
    def broken(number: int) -> Any:
        return dataclasses.replace(compressed_message(number), data=compressed_message(number).data[:20])

    bag = write_bag(tmp_path / "bag", {"/cam": broken})
    assert "format 'png' with 20 bytes cannot be decoded" in read_until_error(bag)[1]


def test_write_png_round_trip(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", picture(5))
    np.testing.assert_array_equal(next(open_source(tmp_path / "a.png")).image, picture(5))
