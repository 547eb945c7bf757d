"""Anomaly labels of a recording's frames: a folder of masks, or the topic a rendered drive carries."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mgcda_core.data.folder import read_mask
from mgcda_core.data.rendered_bag import ANOMALY_TOPIC
from mgcda_core.data.sample import IMAGE_SUFFIXES, DataError
from mgcda_core.inference.bags import RecordedFrame, bag_frames, bag_messages, bag_topics, stamp_ns
from mgcda_core.inference.sources import BAG_SUFFIXES, SourceError
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL


class Truth:
    """Labels by stamp, read when asked for; ask in the order of time.

    Mask values: 0 normal, `anomaly_values` anomaly, 255 ignore, any other is an error.
    """

    def __init__(self, masks: dict[int, Path], topic_of: Path | None, anomaly_values: Sequence[int]) -> None:
        self._masks, self._topic_of = masks, topic_of
        self._values = tuple(anomaly_values)
        self.stamps = set(masks)
        self._waiting: dict[int, np.ndarray] = {}
        self._frames: Iterator[RecordedFrame] = iter(())
        if topic_of is not None:
            self.stamps = set(readable_stamps(topic_of, ANOMALY_TOPIC))
            self._frames = bag_frames(topic_of, ANOMALY_TOPIC)

    def at(self, stamp: int, size: tuple[int, int]) -> np.ndarray | None:
        """uint8 [H, W] in {0, 1, 255} of the frame with this stamp and `size` (height, width), None if it has none.

        Raises DataError naming the file or stamp for another size or an unknown value.
        """
        if stamp not in self.stamps:
            return None
        place = str(self._masks.get(stamp, f"{self._topic_of}, topic {ANOMALY_TOPIC}, stamp {stamp} ns"))
        mask = read_mask(self._masks[stamp]) if stamp in self._masks else self._next(stamp)
        if mask.shape != size:
            raise DataError(f"{place} is {mask.shape}, its frame {size} (height, width): they must have the same size")
        known = np.isin(mask, (*self._values, NORMAL, IGNORE))
        if not known.all():
            raise DataError(
                f"{place} holds the value {mask[~known].flat[0]}; known are {NORMAL} (normal), {IGNORE} (ignored) and "
                f"--anomaly_values {','.join(map(str, self._values))}"
            )
        return np.where(np.isin(mask, self._values), ANOMALY, mask).astype(np.uint8)

    def _next(self, stamp: int) -> np.ndarray:
        """Read the topic on to `stamp`; what comes before its turn waits."""
        while stamp not in self._waiting:
            frame = next(self._frames)
            self._waiting[frame.stamp_ns] = frame.image[..., 0]
        return self._waiting.pop(stamp)


def open_truth(
    labels: Path | None, recording: Path, stamps: Sequence[int], anomaly_values: Sequence[int] = (ANOMALY,)
) -> Truth | None:
    """Truth of the frames with these ascending `stamps`; None if there is none to be had.

    `labels` is a folder of masks, or a recording with /truth/anomaly; without it `recording` itself is asked for that
    topic. A mask belongs to the frame whose stamp in nanoseconds, or else whose index in time from 0 on, is the last
    number in its name. Raises DataError naming what matches no frame.
    """
    if labels is None:
        return Truth({}, recording, anomaly_values) if ANOMALY_TOPIC in bag_topics(recording) else None
    if not labels.exists():
        raise DataError(f"{labels} does not exist: give a folder of masks, or a recording with {ANOMALY_TOPIC}")
    if not _is_recording(labels):
        return Truth(_masks(labels, recording, stamps), None, anomaly_values)
    if ANOMALY_TOPIC not in (topics := bag_topics(labels)):
        raise DataError(f"{labels} has no topic {ANOMALY_TOPIC}; it has {', '.join(sorted(topics))}")
    truth = Truth({}, labels, anomaly_values)
    if truth.stamps.isdisjoint(stamps):
        raise DataError(f"no label of {labels} has the stamp of a frame of {recording}: they do not belong together")
    return truth


def readable_stamps(path: Path, topic: str) -> list[int]:
    """Header stamps of a topic in the order of recording, as far as the recording can be read."""
    stamps: list[int] = []
    try:
        stamps.extend(stamp_ns(found.message) for found in bag_messages(path, {topic}))
    except SourceError:
        if not stamps:
            raise
    return stamps


def _is_recording(path: Path) -> bool:
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(p.suffix in BAG_SUFFIXES for p in path.iterdir())
    return path.suffix in BAG_SUFFIXES


def _masks(folder: Path, recording: Path, stamps: Sequence[int]) -> dict[int, Path]:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} holds no mask ({' '.join(IMAGE_SUFFIXES)})")
    known, found = set(stamps), dict[int, Path]()
    for path in files:
        numbers = re.findall(r"\d+", path.stem)
        number = int(numbers[-1]) if numbers else -1
        stamp = number if number in known else stamps[number] if 0 <= number < len(stamps) else None
        if stamp is None:
            raise DataError(
                f"{path} matches no frame of {recording}: the last number of its name must be a stamp in nanoseconds "
                f"({stamps[0]} to {stamps[-1]}) or an index (0 to {len(stamps) - 1})"
            )
        if stamp in found:
            raise DataError(f"{found[stamp]} and {path} are both for the frame with stamp {stamp} ns: keep one of them")
        found[stamp] = path
    return found
