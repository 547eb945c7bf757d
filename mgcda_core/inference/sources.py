"""Where frames come from: an image, a folder or pattern of images, a video, a rosbag2 recording; read one by one."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mgcda_core.data.sample import IMAGE_SUFFIXES, read_rgb

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
BAG_SUFFIXES = (".mcap", ".db3")
_LEAST_SHARE = 0.9  # of the frames a video announces; containers round the number, a broken file misses more


class SourceError(ValueError):
    """A source cannot be read; the message names the file or topic and the remedy."""


@dataclass(frozen=True)
class Frame:
    """One image of a source."""

    image: np.ndarray
    """uint8 [H, W, 3] RGB."""
    stem: str
    """Name of the frame for output files, unique within its source and without separators."""
    stamp_ns: int | None = None
    """Time in nanoseconds: of the message header in a bag, since the start in a video, None for images."""


def open_source(path: str | Path, topic: str | None = None) -> Iterator[Frame]:
    """Frames of `path` in order, each read when it is asked for.

    `path` is an image, a folder (natural order: 2 before 10), a pattern such as 'drive/*.jpg', a video, or a rosbag2
    recording: its folder, .mcap or .db3 file, raw or compressed images. `topic` picks among several image topics of a
    bag. Raises SourceError or FileNotFoundError here for what is seen without reading frames, while iterating for what
    shows up later, always naming the file; frames before the fault have been given out by then.
    """
    path = Path(path)
    kind = _kind_of(path)
    if kind == "bag":
        from mgcda_core.inference.bags import bag_frames

        return bag_frames(path, topic)
    if topic is not None:
        raise SourceError(f"topic {topic} was given, but {path} is no bag: only a recording has topics")
    if kind == "video":
        return _video_frames(path)
    return _image_frames(
        {"image": lambda: [path], "folder": lambda: _images_in(path), "glob": lambda: _matches(path)}[kind]()
    )


def camera_infos(path: str | Path, topic: str | None = None) -> list[tuple[int, Any]]:
    """Calibration of the frames of `open_source(path, topic)`: (stamp in ns, CameraInfo), each change once.

    Only recordings have one, and not all of them: else the list is empty. The messages are those of rosbags. Raises
    what open_source raises.
    """
    path = Path(path)
    if _kind_of(path) != "bag":
        return []
    from mgcda_core.inference.bags import bag_camera_infos

    return bag_camera_infos(path, topic)


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """Sort key that orders frame2 before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(1, int(part), part) if part.isdigit() else (0, 0, part) for part in parts]


def _kind_of(path: Path) -> str:
    if path.is_dir():
        holds_bag = (path / "metadata.yaml").is_file() or any(p.suffix in BAG_SUFFIXES for p in path.iterdir())
        return "bag" if holds_bag and not _has_images(path) else "folder"
    if not path.exists():
        if glob.has_magic(str(path)):
            return "glob"
        raise FileNotFoundError(
            f"{path} does not exist: give an image, a folder, a pattern, a video or a rosbag2 recording"
        )
    kinds = {**dict.fromkeys(IMAGE_SUFFIXES, "image"), **dict.fromkeys(VIDEO_SUFFIXES, "video")}
    kind = {**kinds, **dict.fromkeys(BAG_SUFFIXES, "bag")}.get(path.suffix.lower())
    if kind is None:
        known = " ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES, *BAG_SUFFIXES))
        raise SourceError(f"{path} has an ending that is not known: known are {known}")
    return kind


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() and not path.name.startswith(".")


def _has_images(folder: Path) -> bool:
    return any(_is_image(path) for path in folder.iterdir())


def _images_in(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if _is_image(path)]
    if not found:
        raise SourceError(f"{folder} holds no image ({' '.join(IMAGE_SUFFIXES)}) and no recording")
    return found


def _matches(pattern: Path) -> list[Path]:
    found = [Path(name) for name in glob.glob(str(pattern), recursive=True)]  # noqa: PTH207 (absolute patterns too)
    images = [path for path in found if _is_image(path)]
    if not images:
        raise SourceError(f"{pattern} matches {len(found)} files, none of them an image ({' '.join(IMAGE_SUFFIXES)})")
    return images


def _image_frames(paths: Iterable[Path]) -> Iterator[Frame]:
    ordered = sorted(paths, key=natural_key)
    seen: dict[str, Path] = {}
    for path in ordered:
        if path.stem in seen:
            raise SourceError(
                f"{seen[path.stem]} and {path} would write the same output files: "
                "rename one, or choose with a pattern such as 'folder/*.jpg'"
            )
        seen[path.stem] = path
    return (Frame(read_rgb(path), path.stem) for path in ordered)


def _video_frames(path: Path) -> Iterator[Frame]:
    capture = cv2.VideoCapture(str(path))
    announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    count = 0
    try:
        while capture.isOpened():
            read, image = capture.read()
            if not read:
                break
            # After the read: FFmpeg's position before the first one is not always 0.
            stamp_ns = int(capture.get(cv2.CAP_PROP_POS_MSEC) * 1e6)
            yield Frame(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), f"frame_{count:06d}", stamp_ns)
            count += 1
    finally:
        capture.release()
    if count == 0:
        raise SourceError(
            f"{path} is not a video that OpenCV can read: it may be damaged or cut off, or its codec unknown"
        )
    if count < _LEAST_SHARE * announced:
        raise SourceError(f"{path} is cut off: {count} of {announced} frames could be read")
