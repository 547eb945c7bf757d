"""Recordings for tests of eval-bag and compare-bags, written with rosbags in every storage a recorder offers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from mgcda_core.data.rendered_bag import START_NS
from mgcda_core.evaluation.bag.markers import MARKERS_TYPE, Markers, header
from mgcda_core.hazards.regions import Hazard
from mgcda_core.prediction import Region

STORE = get_typestore(Stores.ROS2_HUMBLE)
RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
PERIOD = 100_000_000
Messages = list[tuple[str, str, int, Any]]
"""(topic, type, time of receipt in ns, message)"""


def stamps(count: int) -> list[int]:
    return [START_NS + i * PERIOD for i in range(count)]


def image(pixels: np.ndarray, stamp: int, encoding: str) -> Any:
    data = np.ascontiguousarray(pixels)
    return STORE.types[RAW](
        header=header(STORE, stamp, "front"), height=data.shape[0], width=data.shape[1], encoding=encoding,
        is_bigendian=0, step=data.nbytes // data.shape[0], data=data.reshape(-1).view(np.uint8),
    )  # fmt: skip


def camera(images: Sequence[np.ndarray], at: Sequence[int], *, compressed: bool = False) -> Messages:
    """uint8 RGB frames on /camera/image, received 7 ns after their stamp in the order given."""
    messages: Messages = []
    for number, (pixels, stamp) in enumerate(zip(images, at, strict=True)):
        received = START_NS + number * PERIOD + 7
        if compressed:
            png = cv2.imencode(".png", pixels[..., ::-1])[1].reshape(-1)
            packed = STORE.types[COMPRESSED](header=header(STORE, stamp, "front"), format="png", data=png)
            messages.append(("/camera/image/compressed", COMPRESSED, received, packed))
        else:
            messages.append(("/camera/image", RAW, received, image(pixels, stamp, "rgb8")))
    return messages


def answers(
    scores: Sequence[np.ndarray], at: Sequence[int], hazards: Sequence[Sequence[tuple[float, float]]] = ()
) -> Messages:
    """What a node says: masks of scores from 0.6 on, the scores, and a cube at each hazard (x, y) if any are given."""
    messages: Messages = []
    for i, (score, stamp) in enumerate(zip(scores, at, strict=True)):
        mask = (score >= 0.6).astype(np.uint8) * 255
        messages.append(("/n/mask", RAW, stamp + 2, image(mask, stamp, "mono8")))
        if hazards:
            region = Region(0, 0, 1, 1, 1, 0.7, 0.0, 0.5)
            placed = [Hazard((x, y, 0.0), 1.0, 1.0, x, 0.7, region, (0.1, 0.0, 0.1)) for x, y in hazards[i]]
            messages.append(("/n/hazards", MARKERS_TYPE, stamp + 3, Markers(STORE).to_markers(placed, stamp)))
        messages.append(("/n/score", RAW, stamp + 4, image(score.astype(np.float32), stamp, "32FC1")))
    return messages


def write_bag(
    path: Path,
    messages: Messages,
    storage: StoragePlugin = StoragePlugin.MCAP,
    compress: CompressionMode = CompressionMode.NONE,
) -> Path:
    writer = Writer(path, version=8, storage_plugin=storage)
    writer.set_compression(compress, CompressionFormat.ZSTD)
    with writer:
        connections: dict[str, Any] = {}
        for topic, msgtype, received, message in messages:
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, msgtype, typestore=STORE)
            writer.write(connections[topic], received, STORE.serialize_cdr(message, msgtype))
    return path


def cut(bag: Path, share: float) -> Path:
    """The recording after a power loss: its storage file ends early."""
    (file,) = (p for p in bag.iterdir() if p.suffix in (".mcap", ".db3"))
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    return bag
