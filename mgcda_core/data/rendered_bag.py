"""Rosbag2 recordings (mcap) to play to the node: a rendered drive with its truth, or real frames."""

from __future__ import annotations

import math
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mgcda_core.data.rendered import DEMO_SEED_BASE, RenderedCamera, drive

IMAGE_TOPIC, INFO_TOPIC = "/camera/image", "/camera/camera_info"
ANOMALY_TOPIC, LABELS_TOPIC = "/truth/anomaly", "/truth/labels"
FRAME_ID = "camera_optical_frame"
START_NS = 1_700_000_000_000_000_000
"""Stamp of the first frame where the source has none, nanoseconds since the epoch; fixed, so that bags repeat."""
DEMO_SEED = DEMO_SEED_BASE + 33
HORIZONTAL_FOV, CAMERA_HEIGHT = 1.2, 1.5
"""Of the drive's level camera, radians and metres: the node's defaults, so that its hazards stand where they should."""


def render_drive(
    out: Path,
    frames: int = 60,
    seed: int = DEMO_SEED,
    size: tuple[int, int] = (480, 960),
    rate_hz: float = 15.0,
    speed_mps: float = 8.0,
    anomalies: int = 5,
) -> Path:
    """Draw a drive past things that do not belong on a road, and write it as a rosbag2 folder (mcap).

    Topics: /camera/image bgr8, /camera/camera_info, and the truth /truth/anomaly (mono8, 1 = anomaly) and
    /truth/labels (mono8, Cityscapes train ids, 255 on anomalies), all with equal stamps for a frame.

    Args:
        out: folder to write; an earlier recording there is replaced.
        frames: how many frames.
        seed: which street; at or above 1000000, no training set holds it.
        size: height and width of the frames in pixels.
        rate_hz: frames a second.
        speed_mps: speed of the vehicle in metres a second.
        anomalies: how many things stand on the road along the way.

    Returns the folder. Raises ValueError for figures that make no drive, FileExistsError if `out` is something else
    than a recording.
    """
    if frames < 1 or not rate_hz > 0 or anomalies < 0:
        raise ValueError(
            f"a drive needs frames >= 1, rate_hz > 0, anomalies >= 0; not {frames}, {rate_hz}, {anomalies}"
        )
    height, width = size
    focal = width / 2 / math.tan(HORIZONTAL_FOV / 2)
    camera = RenderedCamera(focal, focal, (width - 1) / 2, (height - 1) / 2, CAMERA_HEIGHT, 0.0)
    with DriveWriter(out) as bag:
        scenes = drive(seed, frames, size, speed_mps=speed_mps, rate_hz=rate_hz, anomalies=anomalies, camera=camera)
        for i, scene in enumerate(scenes):
            stamp = START_NS + round(i * 1e9 / rate_hz)
            bag.add(scene.image, stamp, camera)
            bag.add_truth(scene.anomaly, scene.labels, stamp)
    return out


def frames_to_bag(
    frames: Iterable[tuple[np.ndarray, int | None]],
    out: Path,
    rate_hz: float = 15.0,
    infos: Sequence[tuple[int, Any]] = (),
) -> Path:
    """Write real frames as the same recording without truth, with camera_info if `infos` has any.

    frames: (uint8 [H, W, 3] RGB, stamp in nanoseconds or None) in order, each read once; frames without a stamp, or
    with one that does not increase, are set 1 / rate_hz after the one before. infos: (stamp in nanoseconds, CameraInfo
    message of rosbags) by stamp; a frame gets the last one up to its own stamp, or the first. Returns `out`, a rosbag2
    folder. Raises ValueError if there is no frame, FileExistsError if `out` is something else than a recording.
    """
    if not rate_hz > 0:
        raise ValueError(f"rate_hz must be positive, not {rate_hz}")
    with DriveWriter(out) as bag:
        for image, source_stamp, stamp in _stamped(frames, rate_hz):
            bag.add(image, stamp, _info_at(infos, source_stamp))
        if bag.count == 0:
            raise ValueError(f"the source holds no frame, so {out} was not written: give images, a video or a bag")
    return out


def _info_at(infos: Sequence[tuple[int, Any]], stamp: int | None) -> Any | None:
    before = bisect_right(infos, stamp or 0, key=lambda entry: entry[0])
    return infos[max(before - 1, 0)][1] if infos else None


def _stamped(
    frames: Iterable[tuple[np.ndarray, int | None]], rate_hz: float
) -> Iterator[tuple[np.ndarray, int | None, int]]:
    """(image, its own stamp, the stamp it gets)."""
    period, last, base = round(1e9 / rate_hz), None, 0
    for image, stamp in frames:
        if last is None:  # a video's clock starts near 0, and a stamp of 0 means "none" to ROS
            base = START_NS if stamp is None or stamp < 1_000_000_000 else 0
            last = base + (stamp or 0)
        else:
            last = base + stamp if stamp is not None and base + stamp > last else last + period
        yield image, stamp, last


@dataclass(frozen=True)
class _Topic:
    connection: Any
    msgtype: str


class DriveWriter:
    """Writes a recording frame by frame, a context manager; the folder appears whole at the end or not at all."""

    def __init__(self, out: Path) -> None:
        self.out = Path(out)
        self.count = 0
        if self.out.exists() and not (self.out / "metadata.yaml").is_file() and not _is_empty(self.out):
            raise FileExistsError(f"{self.out} exists and is no recording: choose another place, or remove it")

    def __enter__(self) -> DriveWriter:
        from rosbags.rosbag2 import Writer
        from rosbags.rosbag2.enums import StoragePlugin
        from rosbags.typesys import Stores, get_typestore

        self._store = get_typestore(Stores.ROS2_HUMBLE)  # these types are the same from Humble on
        self._part = self.out.with_name(f".{self.out.name}.part")
        self._part.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self._part, ignore_errors=True)
        # Version 8 is what Humble reads; newer ones read it too.
        self._writer = Writer(self._part, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._topics: dict[str, _Topic] = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            if self.out.exists():
                shutil.rmtree(self.out)
            self._part.replace(self.out)
            _rename_storage(self.out, self._part.name)
        shutil.rmtree(self._part, ignore_errors=True)

    def add(self, image: np.ndarray, stamp_ns: int, camera: RenderedCamera | Any | None = None) -> None:
        """One frame uint8 [H, W, 3] RGB as bgr8, and its CameraInfo if the camera or such a message is given."""
        if isinstance(camera, RenderedCamera):
            camera = self._info(camera, image.shape, stamp_ns)
        if camera is not None:
            info = replace(camera, header=self._header(stamp_ns))
            self._write(INFO_TOPIC, "sensor_msgs/msg/CameraInfo", stamp_ns, info)
        self._write_image(IMAGE_TOPIC, np.ascontiguousarray(image[..., ::-1]), "bgr8", stamp_ns)
        self.count += 1

    def add_truth(self, anomaly: np.ndarray, labels: np.ndarray, stamp_ns: int) -> None:
        """The truth of a frame: uint8 [H, W] 0/1 and uint8 [H, W] train ids."""
        self._write_image(ANOMALY_TOPIC, anomaly, "mono8", stamp_ns)
        self._write_image(LABELS_TOPIC, labels, "mono8", stamp_ns)

    def _write_image(self, topic: str, pixels: np.ndarray, encoding: str, stamp_ns: int) -> None:
        height, width = pixels.shape[:2]
        message = self._store.types["sensor_msgs/msg/Image"](
            header=self._header(stamp_ns),
            height=height,
            width=width,
            encoding=encoding,
            is_bigendian=0,
            step=pixels.nbytes // height,
            data=pixels.reshape(-1),
        )
        self._write(topic, "sensor_msgs/msg/Image", stamp_ns, message)

    def _write(self, topic: str, msgtype: str, stamp_ns: int, message: object) -> None:
        if topic not in self._topics:
            connection = self._writer.add_connection(topic, msgtype, typestore=self._store)
            self._topics[topic] = _Topic(connection, msgtype)
        self._writer.write(self._topics[topic].connection, stamp_ns, self._store.serialize_cdr(message, msgtype))

    def _header(self, stamp_ns: int) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        time = self._store.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
        return self._store.types["std_msgs/msg/Header"](stamp=time, frame_id=FRAME_ID)

    def _info(self, camera: RenderedCamera, shape: tuple[int, ...], stamp_ns: int) -> Any:
        k = np.array([camera.fx, 0, camera.cx, 0, camera.fy, camera.cy, 0, 0, 1], float)
        region = self._store.types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        )
        return self._store.types["sensor_msgs/msg/CameraInfo"](
            header=self._header(stamp_ns),
            height=shape[0],
            width=shape[1],
            distortion_model="plumb_bob",
            d=np.zeros(5),
            k=k,
            r=np.eye(3).reshape(-1),
            p=np.insert(k, (3, 6, 9), 0.0),
            binning_x=0,
            binning_y=0,
            roi=region,
        )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def _rename_storage(folder: Path, old: str) -> None:
    """Give the storage file, which rosbags names after the folder it was written to, the folder's final name."""
    storage = folder / f"{old}.mcap"
    if storage.is_file():
        storage.replace(folder / f"{folder.name}.mcap")
        metadata = folder / "metadata.yaml"
        metadata.write_text(metadata.read_text().replace(storage.name, f"{folder.name}.mcap"))
