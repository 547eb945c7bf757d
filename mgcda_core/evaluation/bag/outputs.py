"""Recordings of outputs: written as the node would have published them, and read back, the node's own too."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from mgcda_core.data.rendered_bag import ANOMALY_TOPIC
from mgcda_core.evaluation.bag.drive import in_order
from mgcda_core.evaluation.bag.markers import MARKERS_TYPE, Markers, header, road_points
from mgcda_core.hazards.regions import Hazard
from mgcda_core.inference.bags import RAW_TYPE, BagMessage, RecordedFrame, bag_messages, bag_topics, stamp_ns
from mgcda_core.inference.encodings import from_mask, from_score
from mgcda_core.inference.sources import SourceError
from mgcda_core.prediction import Prediction

NODE = "/mgcda_node"
MASK, SCORE, HAZARDS = "mask", "score", "hazards"
TYPES = {MASK: RAW_TYPE, SCORE: RAW_TYPE, HAZARDS: MARKERS_TYPE}


@dataclass(frozen=True)
class Outputs:
    """What was published for one frame."""

    stamp_ns: int
    score: np.ndarray
    """float32 [H, W] in [0, 1]."""
    mask: np.ndarray
    """bool [H, W]."""
    hazards: tuple[tuple[float, float], ...]
    """Places (x, y) of the hazards on the road in metres, nearest first."""


class OutputsWriter:
    """Writes the recording folder `out` (rosbag2, mcap), a context manager; the folder appears whole or not at all.

    Topics /mgcda_node/mask, score and hazards as the node publishes them, and /truth/anomaly where there is truth. Each
    message has its frame's header and its time of receipt, so that both recordings play side by side. An earlier
    recording at `out` is replaced; FileExistsError if something else is there.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        if out.exists() and not (out / "metadata.yaml").is_file():
            raise FileExistsError(f"{out} exists and is no recording: choose another --out, or remove it")

    def __enter__(self) -> OutputsWriter:
        from rosbags.rosbag2 import Writer
        from rosbags.rosbag2.enums import StoragePlugin
        from rosbags.typesys import Stores, get_typestore

        self._store = get_typestore(Stores.ROS2_HUMBLE)  # these types are the same from Humble on
        self._part = self.out.parent / f".{self.out.name}.part"
        shutil.rmtree(self._part, ignore_errors=True)
        self._part.mkdir(parents=True)
        # Version 8 is what Humble reads; newer ones read it too.
        self._writer = Writer(self._part / self.out.name, version=8, storage_plugin=StoragePlugin.MCAP)
        self._writer.open()
        self._connections: dict[str, Any] = {}
        self._markers = Markers(self._store)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writer.close()
        if kind is None:
            shutil.rmtree(self.out, ignore_errors=True)
            (self._part / self.out.name).replace(self.out)
        shutil.rmtree(self._part, ignore_errors=True)

    def add(
        self, frame: RecordedFrame, prediction: Prediction, hazards: Sequence[Hazard], label: np.ndarray | None
    ) -> None:
        """The outputs of one frame, in the order in which the node publishes them."""
        stamp = frame.stamp_ns
        self._write_image(f"{NODE}/{MASK}", frame, "mono8", *from_mask(prediction.mask))
        self._write(f"{NODE}/{HAZARDS}", MARKERS_TYPE, frame.received_ns, self._markers.to_markers(hazards, stamp))
        self._write_image(f"{NODE}/{SCORE}", frame, "32FC1", *from_score(prediction.score))
        if label is not None:
            self._write_image(ANOMALY_TOPIC, frame, "mono8", np.ascontiguousarray(label).reshape(-1), label.shape[1])

    def _write_image(self, topic: str, frame: RecordedFrame, encoding: str, data: np.ndarray, step: int) -> None:
        height, width = frame.image.shape[:2]
        message = self._store.types[RAW_TYPE](
            header=header(self._store, frame.stamp_ns, frame.frame_id), height=height, width=width,
            encoding=encoding, is_bigendian=0, step=step, data=data,
        )  # fmt: skip
        self._write(topic, RAW_TYPE, frame.received_ns, message)

    def _write(self, topic: str, msgtype: str, received_ns: int, message: object) -> None:
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, msgtype, typestore=self._store)
        self._writer.write(self._connections[topic], received_ns, self._store.serialize_cdr(message, msgtype))


class RecordedOutputs:
    """Outputs of a recording by ascending stamp: of `eval-bag`, or of the node's replay.

    Iterating raises ValueError naming topic and stamp for a score that is NaN or outside [0, 1], for images of another
    encoding or cut off, and SourceError after the last whole message of a recording that was cut off. Raises
    SourceError here if there is no mask and score topic, or no frame has both.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._topics = _output_topics(path)
        seen: dict[str, set[int]] = {kind: set() for kind in self._topics.values()}
        self.masks: list[int] = []
        """Stamps of the masks in the order of recording."""
        try:
            for kind, stamp, _ in self._messages():
                seen[kind].add(stamp)
                if kind == MASK:
                    self.masks.append(stamp)
        except SourceError:
            if not self.masks:
                raise
        self.stamps = sorted(set.intersection(*seen.values()))
        """Of the frames that have all outputs."""
        if not self.stamps:
            raise SourceError(
                f"{path} holds no frame with mask and score: was ~/score recorded, did any mask come out?"
            )

    def __iter__(self) -> Iterator[Outputs]:
        return in_order(self._complete(), self.stamps, lambda outputs: outputs.stamp_ns)

    def _complete(self) -> Iterator[Outputs]:
        parts: dict[int, dict[str, BagMessage]] = {stamp: {} for stamp in self.stamps}
        for kind, stamp, found in self._messages():
            if stamp not in parts:
                continue
            parts[stamp][kind] = found
            if len(parts[stamp]) == len(self._topics):
                yield self._outputs(stamp, parts.pop(stamp))

    def _messages(self) -> Iterator[tuple[str, int, BagMessage]]:
        """(mask, score or hazards; stamp; message); an empty MarkerArray has no stamp and says nothing."""
        for found in bag_messages(self.path, self._topics):
            kind = self._topics[found.topic]
            if kind != HAZARDS:
                yield kind, stamp_ns(found.message), found
            elif found.message.markers:
                yield kind, stamp_ns(found.message.markers[0]), found

    def _outputs(self, stamp: int, parts: dict[str, BagMessage]) -> Outputs:
        place = f"{self.path}, topic {parts[SCORE].topic}, stamp {stamp} ns"
        score = _rows(parts[SCORE].message, np.float32, "32FC1", place)
        mask = _rows(parts[MASK].message, np.uint8, "mono8", place.replace(parts[SCORE].topic, parts[MASK].topic)) > 0
        if np.isnan(score).any():
            raise ValueError(
                f"{place}: {int(np.isnan(score).sum())} scores are NaN; the network that gave them is broken"
            )
        if score.min() < 0.0 or score.max() > 1.0:
            raise ValueError(f"{place}: scores reach from {score.min():g} to {score.max():g}, outside [0, 1]")
        if mask.shape != score.shape:
            raise ValueError(
                f"{place}: the score is {score.shape}, the mask {mask.shape}; they must have the same size"
            )
        hazards = road_points(parts[HAZARDS].message) if HAZARDS in parts else ()
        return Outputs(stamp, score, mask, hazards)


def _output_topics(path: Path) -> dict[str, str]:
    """Topic -> mask, score, hazards."""
    topics = bag_topics(path)
    found: dict[str, str] = {}
    for kind, msgtype in TYPES.items():
        named = sorted(t for t, m in topics.items() if t.endswith(f"/{kind}") and m == msgtype)
        if len(named) > 1 or (not named and kind != HAZARDS):
            which = f"several topics .../{kind} ({', '.join(named)})" if named else f"no {msgtype} topic .../{kind}"
            raise SourceError(f"{path} has {which}; it has {', '.join(sorted(topics)) or 'none'}")
        found.update(dict.fromkeys(named, kind))
    return found


def _rows(message: Any, dtype: type, encoding: str, place: str) -> np.ndarray:
    """[H, W] pixels of a one-channel image, padding removed."""
    size = np.dtype(dtype).itemsize
    if message.encoding != encoding or message.step < message.width * size:
        raise ValueError(f"{place}: encoding {message.encoding} with step {message.step}; {encoding} is expected")
    if message.data.size < message.height * message.step:
        raise ValueError(f"{place}: the image is cut off after {message.data.size} bytes")
    rows = message.data[: message.height * message.step].reshape(message.height, message.step)
    return np.ascontiguousarray(rows[:, : message.width * size]).view(np.dtype(dtype).newbyteorder("<"))
