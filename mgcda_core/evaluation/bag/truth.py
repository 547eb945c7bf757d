"""Anomaly labels of a recording's frames: a folder of masks, or the topic a rendered drive carries."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mgcda_core.config import ConfigError
from mgcda_core.config.evaluation import whole_numbers
from mgcda_core.data.folder import read_mask
from mgcda_core.data.rendered_bag import ANOMALY_TOPIC
from mgcda_core.data.sample import IMAGE_SUFFIXES, DataError
from mgcda_core.inference.bags import RecordedFrame, bag_frames, bag_messages, bag_topics, stamp_ns
from mgcda_core.inference.sources import BAG_SUFFIXES, SourceError
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL

LEAST_STAMP = 1_000_000
"""A smaller number in a mask's name is an index: no camera has two frames in its first millisecond."""


class Truth:
    """Labels by stamp, read when asked for; ask in the order of time.

    Mask values: 0 normal, `anomaly_values` anomaly, 255 ignore, any other is an error. `left_out` counts the labels of
    no frame.
    """

    def __init__(
        self, masks: dict[int, Path], topic_of: Path | None, anomaly_values: Sequence[int], left_out: int = 0
    ) -> None:
        self.left_out = left_out
        self._masks, self._topic_of = masks, topic_of
        self._values = tuple(anomaly_values)
        self.stamps = set(masks)
        self._waiting: dict[int, np.ndarray] = {}
        self._frames: Iterator[RecordedFrame] = iter(())
        if topic_of is not None:
            self.stamps = set(readable_stamps(topic_of, ANOMALY_TOPIC)[0])
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


def anomaly_numbers(text: str) -> tuple[int, ...]:
    """Values of --anomaly_values, at least one, each in 1..254. Raises ConfigError."""
    values = whole_numbers(text, "--anomaly_values")
    if not values or not all(NORMAL < value < IGNORE for value in values):
        raise ConfigError(f"--anomaly_values is {text!r}: give numbers from 1 to 254; 0 is normal, 255 is not counted")
    return values


def open_truth(
    labels: Path | None,
    recording: Path,
    stamps: Sequence[int],
    anomaly_values: Sequence[int] = (ANOMALY,),
    *,
    damaged: bool = False,
) -> Truth | None:
    """Truth of the frames with these ascending `stamps`; None if there is none to be had.

    `labels` is a folder of masks, or a recording with /truth/anomaly; without it `recording` itself is asked for that
    topic. A mask belongs to the frame whose stamp in nanoseconds, or else whose index in time from 0 on, is the last
    number in its name; of a `damaged` recording masks past the last readable frame are left out. Raises DataError
    naming what matches no frame.
    """
    if labels is None:
        own = Truth({}, recording, anomaly_values) if ANOMALY_TOPIC in bag_topics(recording) else None
        return _fitting(own, recording, recording, stamps) if own and own.stamps else None
    if _is_recording(labels):
        return _recorded(labels, recording, stamps, anomaly_values)
    masks, left_out = _masks(labels, recording, stamps, damaged)
    return Truth(masks, None, anomaly_values, left_out)


def open_stamped_truth(
    labels: Path, recording: Path, stamps: Sequence[int], anomaly_values: Sequence[int] = (ANOMALY,)
) -> Truth:
    """Truth of the answered frames of `recording`, with these `stamps`: of other frames of the drive it may have more.

    `labels` is a folder of masks named by stamp in nanoseconds, or a recording with /truth/anomaly. An index would
    count the frames of the drive, which are not known here. Raises DataError if no label belongs to such a frame.
    """
    if _is_recording(labels):
        return _recorded(labels, recording, stamps, anomaly_values)
    numbers = _numbers(labels)
    masks = {number: path for path, number in numbers.items() if number in set(stamps)}
    if not masks:
        indexed = 0 <= max(numbers.values()) < LEAST_STAMP
        why = "they are named by index, which tells no frame of the drive from its answers" if indexed else "none has"
        raise DataError(
            f"no mask of {labels} has the stamp of a frame of {recording}: {why}; name them by stamp in nanoseconds "
            f"({stamps[0]} to {stamps[-1]}), or give a recording with {ANOMALY_TOPIC}"
        )
    return Truth(masks, None, anomaly_values, len(numbers) - len(masks))


def readable_stamps(path: Path, topic: str) -> tuple[list[int], bool]:
    """Header stamps of a topic in the order of recording as far as it can be read, and whether it ends too early."""
    stamps: list[int] = []
    try:
        stamps.extend(stamp_ns(found.message) for found in bag_messages(path, {topic}))
    except SourceError:
        if not stamps:
            raise
        return stamps, True
    return stamps, False


def _recorded(labels: Path, recording: Path, stamps: Sequence[int], anomaly_values: Sequence[int]) -> Truth:
    if ANOMALY_TOPIC not in (topics := bag_topics(labels)):
        raise DataError(f"{labels} has no topic {ANOMALY_TOPIC}; it has {', '.join(sorted(topics))}")
    return _fitting(Truth({}, labels, anomaly_values), labels, recording, stamps)


def _fitting(truth: Truth, labels: Path, recording: Path, stamps: Sequence[int]) -> Truth:
    """The same with the labels of no frame counted; DataError if none belongs to a frame."""
    if truth.stamps.isdisjoint(stamps):
        raise DataError(
            f"no label of {labels}, topic {ANOMALY_TOPIC}, has the stamp of a frame of {recording}: "
            "they do not belong together"
        )
    truth.left_out = len(truth.stamps.difference(stamps))
    return truth


def _is_recording(path: Path) -> bool:
    if path.is_dir():
        return (path / "metadata.yaml").is_file() or any(p.suffix in BAG_SUFFIXES for p in path.iterdir())
    return path.suffix in BAG_SUFFIXES


def _numbers(folder: Path) -> dict[Path, int]:
    """The masks of a folder with the last number of their names, -1 without one."""
    if not folder.exists():
        raise DataError(f"{folder} does not exist: give a folder of masks, or a recording with {ANOMALY_TOPIC}")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} holds no mask ({' '.join(IMAGE_SUFFIXES)})")
    return {path: int((re.findall(r"\d+", path.stem) or [-1])[-1]) for path in files}


def _masks(folder: Path, recording: Path, stamps: Sequence[int], damaged: bool) -> tuple[dict[int, Path], int]:
    """The mask of each stamp, and how many lie past the end of a damaged recording."""
    numbers = _numbers(folder)
    _warn_of_a_start_at_one(folder, recording, sorted(numbers.values()), len(stamps))
    known, found, left_out = set(stamps), dict[int, Path](), 0
    for path, number in numbers.items():
        stamp = number if number in known else stamps[number] if 0 <= number < len(stamps) else None
        if stamp is None:
            if damaged and (number > stamps[-1] or len(stamps) <= number < LEAST_STAMP):
                left_out += 1
                continue
            raise DataError(
                f"{path} matches no frame of {recording}: the last number of its name must be a stamp in nanoseconds "
                f"({stamps[0]} to {stamps[-1]}) or an index (0 to {len(stamps) - 1})"
            )
        if stamp in found:
            raise DataError(f"{found[stamp]} and {path} are both for the frame with stamp {stamp} ns: keep one of them")
        found[stamp] = path
    return found, left_out


def _warn_of_a_start_at_one(folder: Path, recording: Path, numbers: list[int], frames: int) -> None:
    """Masks 1, 2, 3 ... to the end: counted from 1, each would be taken for the frame after its own."""
    if numbers == list(range(1, len(numbers) + 1)) and len(numbers) >= frames - 1:
        print(
            f"warning: the masks of {folder} are numbered from 1 on: mask 1 is taken for the second of the {frames} "
            f"frames of {recording}, since an index counts from 0",
            file=sys.stderr,
        )
