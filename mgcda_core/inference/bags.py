"""Image messages of rosbag2 recordings (mcap and sqlite3) as frames, read with rosbags: no ROS needed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mgcda_core.inference.encodings import to_rgb
from mgcda_core.inference.sources import BAG_SUFFIXES, Frame, SourceError, natural_key

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

RAW_TYPE, COMPRESSED_TYPE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (RAW_TYPE, COMPRESSED_TYPE)
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
_CALIBRATION = 12  # byte of a CameraInfo's CDR from which it is the same for every frame: the stamp is before


def bag_frames(path: Path, topic: str | None = None) -> Iterator[Frame]:
    """Frames of the image topic of a recording, in the order of recording.

    `path` is the recording's folder or one .mcap / .db3 file; `topic` may be left out if there is one image topic.
    Stems are the topic and a running number. A recording that was cut off gives the frames before the cut, then
    raises SourceError naming the file.
    """
    messages = _messages(path, topic)
    for number, (name, msgtype, message) in enumerate(messages):
        try:
            image = _decode(message, msgtype)
        except ValueError as error:
            raise SourceError(f"{path}, topic {name}, message {number}: {error}") from error
        stem = f"{name.strip('/').replace('/', '_')}_{number:06d}"
        yield Frame(image, stem, _stamp_ns(message))


def bag_camera_infos(path: Path, topic: str | None = None) -> list[tuple[int, Any]]:
    """CameraInfo of the image topic of a recording: (stamp in ns, message) by stamp, without repetitions.

    The CameraInfo topic is the one beside the image topic, or the only one. The list is empty if there is none, or if
    the recording is cut off (bag_frames says so). Raises SourceError if it is damaged or the image topic is not clear.
    """
    reader = _reader(path)
    try:
        reader.open()
    except Exception:  # what bag_frames salvages and reports
        return []
    try:
        images = {c.topic: c.msgtype for c in reader.connections if c.msgtype in IMAGE_TYPES}
        chosen = _choose(path, topic, set(images))
        wanted = _info_topic(chosen, images[chosen], {c.topic for c in reader.connections if c.msgtype == INFO_TYPE})
        connections = [c for c in reader.connections if c.topic == wanted and c.msgtype == INFO_TYPE]
        infos: list[tuple[int, Any]] = []
        calibration = None
        for _, _, raw in _named(reader.messages(connections), path) if connections else ():
            if raw[_CALIBRATION:] != calibration:
                calibration = raw[_CALIBRATION:]
                info = _named_call(reader.deserialize, path, raw, INFO_TYPE)
                infos.append((_stamp_ns(info), info))
    finally:
        reader.close()
    return sorted(infos, key=lambda entry: entry[0])


def _info_topic(image: str, msgtype: str, with_infos: set[str]) -> str | None:
    """The topic beside the image (compressed images lie one level deeper), or the only one, or none."""
    parents = PurePosixPath(image).parents
    beside = str(parents[0 if msgtype == RAW_TYPE or len(parents) < 2 else 1] / "camera_info")
    if beside in with_infos:
        return beside
    return next(iter(with_infos)) if len(with_infos) == 1 else None


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _decode(message: Any, msgtype: str) -> np.ndarray:
    if msgtype == RAW_TYPE:
        return to_rgb(message.data, message.height, message.width, message.encoding, message.step, message.is_bigendian)
    data = np.frombuffer(message.data, np.uint8)
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
    if image is None:
        raise ValueError(f"compressed image of format {message.format!r} with {data.size} bytes cannot be decoded")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _messages(path: Path, topic: str | None) -> Iterator[tuple[str, str, Any]]:
    """(topic, type, message) of the chosen image topic; falls back to what a cut-off file still holds."""
    reader = _reader(path)
    try:
        reader.open()
    except Exception as error:  # rosbags raises what its parser meets: struct, sqlite, yaml, unicode, its own errors
        yield from _salvaged(path, _storage_files(path), topic, error)
        return
    with_images = {c.topic for c in reader.connections if c.msgtype in IMAGE_TYPES}
    count = 0
    try:
        chosen = _choose(path, topic, with_images)
        wanted = [c for c in reader.connections if c.topic == chosen and c.msgtype in IMAGE_TYPES]
        for connection, _, raw in _named(reader.messages(wanted), path):
            yield chosen, connection.msgtype, _named_call(reader.deserialize, path, raw, connection.msgtype)
            count += 1
    finally:
        reader.close()
    if count == 0:
        raise SourceError(f"{path} holds no message on topic {chosen}")


def _reader(path: Path) -> AnyReader:
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)  # for recordings without definitions; images are the same in every ROS 2
    complete = path.is_file() or (path / "metadata.yaml").is_file()
    return AnyReader([path] if complete else _storage_files(path), default_typestore=store)


def _named(messages: Iterator[Any], path: Path) -> Iterator[Any]:
    """The same messages; any fault of the parser becomes one error that names the file."""
    count = 0
    while True:
        try:
            message = next(messages, None)
        except Exception as error:
            raise SourceError(f"{path} is damaged after {count} messages ({_reason(error)})") from error
        if message is None:
            return
        yield message
        count += 1


def _named_call(call: Any, path: Path, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception as error:
        raise SourceError(f"{path} holds a message that cannot be decoded ({_reason(error)})") from error


def _choose(path: Path, topic: str | None, with_images: set[str]) -> str:
    names = ", ".join(sorted(with_images))
    if not with_images:
        raise SourceError(f"{path} holds no topic with images ({' or '.join(IMAGE_TYPES)})")
    if topic is None:
        if len(with_images) > 1:
            raise SourceError(f"{path} has several image topics, choose one with --topic: {names}")
        return names
    if topic not in with_images:
        raise SourceError(f"{path} has no image topic {topic}; it has {names}")
    return topic


def _storage_files(path: Path) -> list[Path]:
    """The files of a recording in their order: recorder names end in _0, _1, ..."""
    if path.is_file():
        return [path]
    return sorted((p for suffix in BAG_SUFFIXES for p in path.glob(f"*{suffix}")), key=natural_key)


def _salvaged(folder: Path, files: list[Path], topic: str | None, error: Exception) -> Iterator[tuple[str, str, Any]]:
    """What can still be read, file by file, then one SourceError that names the file at fault."""
    from rosbags.typesys import Stores, get_typestore

    from mgcda_core.inference.salvage import Salvage

    store = get_typestore(Stores.ROS2_HUMBLE)
    count, damaged = 0, None
    for path in files:
        found = Salvage(path)
        for name, msgtype, raw in found:
            if msgtype not in IMAGE_TYPES or (topic is not None and name != topic):
                continue
            if topic is None:
                topic = name
            yield name, msgtype, _named_call(store.deserialize_cdr, path, raw, msgtype)
            count += 1
        damaged = damaged or (path if not found.whole else None)
    raise SourceError(
        f"{damaged or folder} is damaged or cut off ({_reason(error)}): "
        f"{count} images{f' of {topic}' if topic else ''} before that were read; repair it with `mcap recover` or "
        "`ros2 bag reindex`"
    )


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
