"""What replay sends: the images and camera infos of a bag, as they are, or the frames of a folder or video."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from builtin_interfaces.msg import Time
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from mgcda_core.inference import encodings
from mgcda_core.inference.sources import open_source
from mgcda_ros.messages import to_image
from mgcda_ros.recorder import stamp_ns

IMAGE, CAMERA_INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
FRAME_PERIOD_NS = 100_000_000
"""Distance of the stamps given to frames that have none."""


class PlaybackError(ValueError):
    """A source cannot be played; the message names the file or topic and the remedy."""


@dataclass(frozen=True)
class Item:
    """One message to send: `info` before an image, or the image itself with its stamp."""

    message: Image | bytes
    """A message, or its CDR bytes as the bag holds them."""
    stamp_ns: int | None
    """Header stamp of an image; None for a CameraInfo."""


def items(source: Path, image_topic: str | None = None, info_topic: str | None = None) -> Iterator[Item]:
    """Messages of `source` in time order, lazily; the first CameraInfo comes before the first image.

    `source` is a rosbag2 with raw images, or anything `mgcda predict` reads. Topics are found by type if they are not
    named. Raises PlaybackError or what open_source raises.
    """
    reader = _reader(source)
    if reader is None:
        return _frame_items(source, image_topic)
    return _bag_items(reader, source, image_topic, info_topic)


def _reader(source: Path) -> AnyReader | None:
    """An open reader if `source` is a whole rosbag2 with raw images; the rest goes through open_source."""
    if not ((source / "metadata.yaml").is_file() or (source.is_file() and source.suffix in (".mcap", ".db3"))):
        return None
    try:
        reader = AnyReader([source], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    except Exception:  # rosbags raises a dozen types; open_source reads what a cut-off bag still holds and says so
        return None
    if any(c.msgtype == IMAGE for c in reader.connections):
        return reader
    reader.close()
    return None


def _bag_items(reader: AnyReader, path: Path, image_topic: str | None, info_topic: str | None) -> Iterator[Item]:
    try:
        images = _connection(path, reader.connections, IMAGE, image_topic)
        infos = _info_connection(path, reader.connections, images.topic, info_topic)
        if infos is not None:
            first = next(reader.messages([infos]), None)
            yield from [Item(first[2], None)] if first else []
        for connection, _, raw in reader.messages([c for c in (images, infos) if c is not None]):
            yield Item(raw, stamp_ns(raw) if connection.topic == images.topic else None)
    except PlaybackError:
        raise
    except Exception as error:
        raise PlaybackError(
            f"{path}: the bag is damaged ({error}); try `ros2 bag reindex` or record it again"
        ) from error
    finally:
        reader.close()


def _connection(path: Path, connections: list[Connection], kind: str, topic: str | None) -> Connection:
    """The connection of type `kind`: of `topic`, or the only one."""
    found = {c.topic: c for c in connections if c.msgtype == kind}
    if topic is None and len(found) == 1:
        return next(iter(found.values()))
    if topic in found:
        return found[topic]
    if topic is None:
        raise PlaybackError(f"{path} has several topics of type {kind}: {', '.join(sorted(found))}; name one")
    raise PlaybackError(f"{path} has no topic {topic} of type {kind}; it has {', '.join(sorted(found)) or 'none'}")


def _info_connection(path: Path, connections: list[Connection], image: str, topic: str | None) -> Connection | None:
    """The named CameraInfo topic, or the one beside the image topic, or the only one, or none."""
    if topic is not None:
        return _connection(path, connections, CAMERA_INFO, topic)
    found = {c.topic: c for c in connections if c.msgtype == CAMERA_INFO}
    beside = f"{image.rpartition('/')[0]}/camera_info"
    return found.get(beside) or (next(iter(found.values())) if len(found) == 1 else None)


def _frame_items(source: Path, topic: str | None) -> Iterator[Item]:
    start = time.time_ns()
    for index, frame in enumerate(open_source(source, topic)):
        stamp = start + index * FRAME_PERIOD_NS if frame.stamp_ns is None else frame.stamp_ns
        yield Item(_image(frame.image, stamp), stamp)


def _image(image: np.ndarray, stamp: int) -> Image:
    seconds, nanoseconds = divmod(stamp, 1_000_000_000)
    header = Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id="camera")
    return to_image(header, (image.shape[0], image.shape[1]), "rgb8", *encodings.from_rgb(image, "rgb8"))
