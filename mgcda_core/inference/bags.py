"""Frames and other messages of rosbag2 recordings (mcap and sqlite3), read with rosbags: no ROS needed."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from mgcda_core.inference.compressed import decode
from mgcda_core.inference.encodings import to_rgb
from mgcda_core.inference.sources import BAG_SUFFIXES, Frame, SourceError, natural_key

if TYPE_CHECKING:
    from rosbags.highlevel import AnyReader

RAW_TYPE, COMPRESSED_TYPE = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (RAW_TYPE, COMPRESSED_TYPE)
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
_CALIBRATION = 12  # byte of a CameraInfo's CDR from which it is the same for every frame: the stamp is before


@dataclass(frozen=True)
class RecordedFrame(Frame):
    """A frame with what else its message says; it always has a stamp, 0 if its driver gives none."""

    stamp_ns: int = 0
    received_ns: int = 0
    """When it was recorded, in nanoseconds since the epoch."""
    frame_id: str = ""
    """Coordinate frame of the camera."""


@dataclass(frozen=True)
class BrokenFrame:
    """An image message that cannot be decoded."""

    stamp_ns: int
    fault: str
    """Recording, topic, number of the message and what is wrong."""


@dataclass(frozen=True)
class BagMessage:
    """One message of a recording."""

    topic: str
    msgtype: str
    received_ns: int
    raw: bytes
    """CDR bytes."""
    message: Any
    """The same as an object of rosbags."""


def bag_frames(path: Path, topic: str | None = None) -> Iterator[RecordedFrame]:
    """Frames of the image topic of a recording, in the order of recording.

    `path` is the recording's folder or one .mcap / .db3 file; `topic` may be left out if there is one image topic.
    Stems are the topic and a running number. A recording that was cut off gives the frames before the cut, then
    raises SourceError naming the file; so does a frame that cannot be decoded.
    """
    for frame in bag_images(path, topic):
        if isinstance(frame, BrokenFrame):
            raise SourceError(frame.fault)
        yield frame


def bag_images(path: Path, topic: str | None = None) -> Iterator[RecordedFrame | BrokenFrame]:
    """The same as bag_frames, going on after a frame that cannot be decoded."""
    chosen = _choose(path, topic, {name for name, kind in bag_topics(path).items() if kind in IMAGE_TYPES})
    number = -1
    for number, found in enumerate(bag_messages(path, {chosen})):
        try:
            image = _decode(found.message, found.msgtype)
        except ValueError as error:
            yield BrokenFrame(stamp_ns(found.message), f"{path}, topic {chosen}, message {number}: {error}")
            continue
        stem = f"{chosen.strip('/').replace('/', '_')}_{number:06d}"
        yield RecordedFrame(image, stem, stamp_ns(found.message), found.received_ns, found.message.header.frame_id)
    if number < 0:
        raise SourceError(f"{path} holds no message on topic {chosen}")


def bag_camera_infos(path: Path, topic: str | None = None, info_topic: str | None = None) -> list[tuple[int, Any]]:
    """CameraInfo of the image topic of a recording: (stamp in ns, message) by stamp, without repetitions.

    Without `info_topic` it is the one beside the image topic, or the only one; then the list is empty if there is
    none. A recording that is cut off gives what it still holds (bag_frames says so). Raises SourceError if the image
    topic is not clear or `info_topic` is not there.
    """
    topics = bag_topics(path)
    with_infos = {name for name, kind in topics.items() if kind == INFO_TYPE}
    if info_topic is not None and info_topic not in with_infos:
        raise SourceError(f"{path} has no CameraInfo topic {info_topic}; it has {_names(with_infos)}")
    chosen = _choose(path, topic, {name for name, kind in topics.items() if kind in IMAGE_TYPES})
    wanted = info_topic or _info_topic(chosen, topics[chosen], with_infos)
    infos: list[tuple[int, Any]] = []
    calibration = None
    with suppress(SourceError):
        for found in bag_messages(path, {wanted} if wanted else ()):
            if found.raw[_CALIBRATION:] != calibration:
                calibration = found.raw[_CALIBRATION:]
                infos.append((stamp_ns(found.message), found.message))
    return sorted(infos, key=lambda entry: entry[0])


def bag_topics(path: Path) -> dict[str, str]:
    """Topic -> message type of a recording, of one that was cut off as far as it can be read.

    Raises SourceError naming the file if nothing can be read, FileNotFoundError.
    """
    try:
        reader = _opened(path)
    except Exception as error:  # rosbags raises what its parser meets: struct, sqlite, yaml, unicode, its own errors
        from mgcda_core.inference.salvage import Salvage

        files = _existing_files(path)
        topics = {name: msgtype for file in files for name, msgtype, *_ in Salvage(file)}
        if not topics:
            raise SourceError(f"{path} is no recording, or damaged from its start ({_reason(error)})") from error
        return topics
    try:
        return {c.topic: c.msgtype for c in reader.connections}
    finally:
        reader.close()


def bag_messages(path: Path, topics: Collection[str]) -> Iterator[BagMessage]:
    """Messages of `topics` in the order of recording; topics that are not there give none.

    A recording that was cut off gives the messages before the cut, then raises SourceError naming the file.
    """
    try:
        reader = _opened(path)
    except Exception as error:  # as in bag_topics
        yield from _salvaged(path, topics, error)
        return
    try:
        wanted = [c for c in reader.connections if c.topic in topics]
        for connection, received, raw in _named(reader.messages(wanted), path) if wanted else ():
            message = _named_call(reader.deserialize, path, raw, connection.msgtype)
            yield BagMessage(connection.topic, connection.msgtype, received, raw, message)
    finally:
        reader.close()


def stamp_ns(message: Any) -> int:
    """Header stamp of a message in nanoseconds since the epoch."""
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _info_topic(image: str, msgtype: str, with_infos: set[str]) -> str | None:
    """The topic beside the image (compressed images lie one level deeper), or the only one, or none."""
    parents = PurePosixPath(image).parents
    beside = str(parents[0 if msgtype == RAW_TYPE or len(parents) < 2 else 1] / "camera_info")
    if beside in with_infos:
        return beside
    return next(iter(with_infos)) if len(with_infos) == 1 else None


def _decode(message: Any, msgtype: str) -> np.ndarray:
    if msgtype == RAW_TYPE:
        return to_rgb(message.data, message.height, message.width, message.encoding, message.step, message.is_bigendian)
    return decode(message.data, message.format)


def _opened(path: Path) -> AnyReader:
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_HUMBLE)  # for recordings without definitions; images are the same in every ROS 2
    complete = path.is_file() or (path / "metadata.yaml").is_file()
    reader = AnyReader([path] if complete else _storage_files(path), default_typestore=store)
    reader.open()
    return reader


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
    if not with_images:
        raise SourceError(f"{path} holds no topic with images ({' or '.join(IMAGE_TYPES)})")
    if topic is None:
        if len(with_images) > 1:
            raise SourceError(f"{path} has several image topics, choose one with --topic: {_names(with_images)}")
        return next(iter(with_images))
    if topic not in with_images:
        raise SourceError(f"{path} has no image topic {topic}; it has {_names(with_images)}")
    return topic


def _names(topics: Collection[str]) -> str:
    return ", ".join(sorted(topics)) or "none"


def _storage_files(path: Path) -> list[Path]:
    """The files of a recording in their order: recorder names end in _0, _1, ..."""
    if path.is_file():
        return [path]
    return sorted((p for suffix in BAG_SUFFIXES for p in path.glob(f"*{suffix}")), key=natural_key)


def _existing_files(path: Path) -> list[Path]:
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: give a recording's folder, or its .mcap or .db3 file")
    files = _storage_files(path)
    packed = sorted(path.glob("*.zstd"), key=natural_key)
    if packed and not files:
        lost = "compressed as a whole, such a file cannot be read in part"
        raise SourceError(f"{packed[0]} is damaged or cut off, or its metadata.yaml is missing or damaged: {lost}")
    if not files or files[0].suffix.lower() not in BAG_SUFFIXES:
        raise SourceError(f"{path} is no recording: give its folder, or its {' or '.join(BAG_SUFFIXES)} file")
    return files


def _salvaged(folder: Path, topics: Collection[str], error: Exception) -> Iterator[BagMessage]:
    """What can still be read, file by file, then one SourceError that names the file at fault."""
    from rosbags.typesys import Stores, get_typestore

    from mgcda_core.inference.salvage import Salvage

    store = get_typestore(Stores.ROS2_HUMBLE)
    count, images, damaged = 0, True, None
    for path in _existing_files(folder):
        found = Salvage(path)
        for name, msgtype, received, raw in found:
            if name in topics:
                yield BagMessage(name, msgtype, received, raw, _named_call(store.deserialize_cdr, path, raw, msgtype))
                count += 1
                images = images and msgtype in IMAGE_TYPES
        damaged = damaged or (path if not found.whole else None)
    raise SourceError(
        f"{damaged or folder} is damaged or cut off ({_reason(error)}): "
        f"{count} {'images' if images else 'messages'} of {_names(topics)} before that were read; repair it with "
        "`mcap recover` or `ros2 bag reindex`"
    )


def _reason(error: Exception) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
