"""Records serialised messages of the node's outputs into one .mcap file."""

from __future__ import annotations

import shutil
import struct
import tempfile
from pathlib import Path
from types import TracebackType

from rosbags.rosbag2 import Writer
from rosbags.rosbag2.enums import StoragePlugin
from rosbags.typesys import Stores, get_typestore


class Recorder:
    """Context manager that writes `path` (one .mcap file) when it ends; an earlier file is replaced then.

    `topics` maps topic -> ROS type name, such as sensor_msgs/msg/Image.
    """

    def __init__(self, path: Path, topics: dict[str, str]) -> None:
        self._path = path
        self._topics = topics

    def __enter__(self) -> Recorder:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=".recording-", dir=self._path.parent))
        self._writer = Writer(self._folder / "bag", version=9, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        store = get_typestore(Stores.ROS2_HUMBLE)  # these types are the same from Humble on
        self._connections = {
            topic: self._writer.add_connection(topic, kind, typestore=store) for topic, kind in self._topics.items()
        }
        return self

    def write(self, topic: str, received_ns: int, data: bytes) -> None:
        """Add one CDR message of `topic` with its receive time in nanoseconds since the epoch."""
        self._writer.write(self._connections[topic], received_ns, data)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._writer.close()
            if kind is None:
                # rosbags writes a folder; the .mcap file in it is complete by itself and every tool opens it.
                next((self._folder / "bag").glob("*.mcap")).replace(self._path)
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)


def stamp_ns(data: bytes) -> int:
    """Header stamp in nanoseconds of a CDR message that begins with std_msgs/Header, without deserialising it."""
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds = struct.unpack_from(order + "iI", data, 4)
    return seconds * 1_000_000_000 + nanoseconds
