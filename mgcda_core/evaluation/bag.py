"""Judges what the node published during a replay: metrics against the drive's truth, latency, overlay video."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgcda_core.data.rendered_bag import ANOMALY_TOPIC, IMAGE_TOPIC
from mgcda_core.evaluation.pixel_metrics import PixelMetrics
from mgcda_core.evaluation.scorers import Scorer, open_scorer
from mgcda_core.inference.draw import Mp4Writer, contact_sheet, overlay, write_png
from mgcda_core.inference.encodings import to_rgb
from mgcda_core.prediction import Prediction

KEYS = ("frames_in", "masks_out", "hazards", "latency_p50_ms", "latency_p95_ms", "ap", "fpr95", "msp_ap")
"""Keys of report.json, in the order of the printed line; metrics are fractions, None where there is no truth."""
SHEET_FRAMES, SHEET_COLUMNS, SHEET_WIDTH = 12, 3, 480
MASK_SUFFIX, SCORE_SUFFIX = "/mask", "/score"


@dataclass(frozen=True)
class _Sent:
    """One frame of the drive."""

    stamp: int
    image: np.ndarray
    truth: np.ndarray | None


@dataclass(frozen=True)
class _Answer:
    """What the node published for one frame."""

    stamp: int
    score: np.ndarray
    mask: np.ndarray | None


def judge_bag(
    recorded: Path,
    drive: Path,
    result_json: Path,
    out: Path,
    weights: str = "lite",
    device: str = "auto",
) -> dict[str, float | int | None]:
    """Judge a recorded replay, write report.json, overlay.mp4 and contact_sheet.png, and print one line.

    Scores and truth are paired by header stamp; ap and fpr95 are pooled over all pixels of all answered frames, msp_ap
    is the same for the maximum softmax probability of the weights' own segmentation network on the same frames.

    Args:
        recorded: result.mcap of the replay, with the node's score and mask.
        drive: the recording that was played: /camera/image, and /truth/anomaly where there is truth.
        result_json: figures of the replay: frames_in, masks_out, hazards, latencies.
        out: folder for the report, video and contact sheet; an old report there is removed first.
        weights: name or path of the weights the node ran, for msp_ap.
        device: auto, cpu, cuda or cuda:N.

    Returns the report. Raises ValueError or FileNotFoundError that name the file or topic at fault.
    """
    out.mkdir(parents=True, exist_ok=True)
    report_path = out / "report.json"
    report_path.unlink(missing_ok=True)
    figures = _figures(result_json)
    report = {**figures, **_watch(recorded, drive, out, figures["masks_out"], weights, device)}
    part = report_path.with_suffix(".json.part")
    part.write_text(json.dumps(report, indent=2) + "\n")
    part.replace(report_path)
    print(report_line(report))
    return report


def _watch(recorded: Path, drive: Path, out: Path, expected: int, weights: str, device: str) -> dict[str, float | None]:
    """Go through all answered frames once: metrics, video, contact sheet of about SHEET_FRAMES of `expected`."""
    model, msp = PixelMetrics("unit"), PixelMetrics("unit")
    scorer: Scorer | None = None
    chosen = set(np.linspace(0, max(expected - 1, 0), SHEET_FRAMES).round().astype(int).tolist())
    cells: list[np.ndarray] = []
    with Mp4Writer(out / "overlay.mp4", _rate(drive)) as video:
        for number, (sent, answer) in enumerate(_pairs(recorded, drive)):
            drawn = overlay(sent.image, _as_prediction(answer))
            video.add(drawn)
            if number in chosen:
                cells.append(drawn)
            if sent.truth is not None:
                if scorer is None:
                    scorer = open_scorer(weights, "msp", device)[0]
                model.update(answer.score, sent.truth)
                msp.update(scorer(sent.image), sent.truth)
    if not cells:
        raise ValueError(f"{recorded} holds no score of the node: was ~/score recorded, did any mask come out?")
    write_png(out / "contact_sheet.png", contact_sheet(cells, SHEET_COLUMNS, SHEET_WIDTH))
    return _metrics(model, msp)


def report_line(report: dict[str, float | int | None]) -> str:
    """The demo's last line: `demo: frames_in=60 ... msp_ap=0.1234`, n/a where a figure is missing."""
    return "demo: " + " ".join(f"{key}={_text(key, report[key])}" for key in KEYS)


def _text(key: str, value: float | int | None) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, int):
        return str(value)
    return f"{value:.1f}" if key.endswith("_ms") else f"{value:.4f}"


def _figures(path: Path) -> dict[str, Any]:
    """The five figures of the replay's result.json."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: it is written by `python -m mgcda_ros.replay` beside its --out"
        )
    try:
        raw = json.loads(path.read_text())
        return {key: raw[key] for key in KEYS[:5]}
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not a replay's JSON file ({error}); replay the bag again") from error
    except KeyError as error:
        raise ValueError(f"{path} has no field {error}; replay the bag again") from error


def _metrics(model: PixelMetrics, msp: PixelMetrics) -> dict[str, float | None]:
    result, baseline = model.compute(), msp.compute()
    if result["reason"] is not None:
        return dict.fromkeys(KEYS[5:], None)
    return {"ap": result["ap"], "fpr95": result["fpr95"], "msp_ap": baseline["ap"]}


def _as_prediction(answer: _Answer) -> Prediction:
    """Score and mask as a Prediction whose threshold gives that mask."""
    unit = np.clip(answer.score.astype(np.float64), 1e-7, 1 - 1e-7)
    threshold = 0.5
    if answer.mask is not None:
        threshold = float(answer.score[answer.mask].min()) - 1e-6 if answer.mask.any() else 2.0
    return Prediction(np.log(unit / (1 - unit)).astype(np.float32), threshold)


def _pairs(recorded: Path, drive: Path) -> Iterator[tuple[_Sent, _Answer]]:
    """Every answered frame with its answer; frames that got none are passed over."""
    frames = _sent(drive)
    for answer in _answers(recorded):
        frame = next((f for f in frames if f.stamp >= answer.stamp), None)
        if frame is None or frame.stamp != answer.stamp:
            raise ValueError(f"{recorded} answers a frame with stamp {answer.stamp} ns that {drive} does not hold")
        for name, array in (("score", answer.score), ("truth", frame.truth)):
            if array is not None and array.shape != frame.image.shape[:2]:
                raise ValueError(
                    f"{name} of stamp {answer.stamp} ns is {array.shape}, its image {frame.image.shape[:2]}: "
                    f"{recorded} and {drive} do not belong together"
                )
        yield frame, answer


def _sent(drive: Path) -> Iterator[_Sent]:
    """Frames of the drive in time order with their truth."""
    image: tuple[int, np.ndarray] | None = None
    truth: dict[int, np.ndarray] = {}
    for topic, message in _messages(drive, (IMAGE_TOPIC, ANOMALY_TOPIC), needed=IMAGE_TOPIC):
        stamp = _stamp(message)
        if image is not None and stamp != image[0]:
            yield _Sent(*image, truth.pop(image[0], None))
            image = None
        if topic == IMAGE_TOPIC:
            pixels = to_rgb(message.data, message.height, message.width, message.encoding, message.step)
            image = stamp, pixels
        else:
            truth[stamp] = _rows(message, np.uint8, "mono8", topic)
    if image is not None:
        yield _Sent(*image, truth.pop(image[0], None))


def _answers(recorded: Path) -> Iterator[_Answer]:
    """The node's scores in the order they came, each with its mask."""
    scores: dict[int, np.ndarray] = {}
    masks: dict[int, np.ndarray] = {}
    for topic, message in _messages(recorded, (MASK_SUFFIX, SCORE_SUFFIX), needed=SCORE_SUFFIX):
        stamp = _stamp(message)
        if topic.endswith(SCORE_SUFFIX):
            scores[stamp] = _rows(message, np.float32, "32FC1", topic)
        else:
            masks[stamp] = _rows(message, np.uint8, "mono8", topic) > 0
        for ready in sorted(scores.keys() & masks.keys()):
            yield _Answer(ready, scores.pop(ready), masks.pop(ready))


def _messages(path: Path, topics: tuple[str, ...], needed: str) -> Iterator[tuple[str, Any]]:
    """(topic, message) of the topics that end so, in time order."""
    from rosbags.highlevel import AnyReader
    from rosbags.typesys import Stores, get_typestore

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
    try:
        reader.open()
    except Exception as error:  # rosbags raises what its parser meets: struct, yaml, sqlite, its own errors
        raise ValueError(f"{path} is no whole recording ({error}); record it again") from error
    try:
        wanted = [c for c in reader.connections if c.topic.endswith(topics) and c.msgtype == "sensor_msgs/msg/Image"]
        if not any(c.topic.endswith(needed) for c in wanted):
            raise ValueError(
                f"{path} has no Image topic {needed}; it has {sorted(c.topic for c in reader.connections)}"
            )
        for connection, _, raw in reader.messages(wanted):
            yield connection.topic, reader.deserialize(raw, connection.msgtype)
    finally:
        reader.close()


def _rows(message: Any, dtype: type, encoding: str, topic: str) -> np.ndarray:
    """[H, W] pixels of a one-channel image, padding removed."""
    size = np.dtype(dtype).itemsize
    if message.encoding != encoding or message.step < message.width * size:
        raise ValueError(f"topic {topic} holds {message.encoding} with step {message.step}; {encoding} is expected")
    if message.data.size < message.height * message.step:
        raise ValueError(f"topic {topic} holds an image cut off after {message.data.size} bytes")
    rows = message.data[: message.height * message.step].reshape(message.height, message.step)
    return np.ascontiguousarray(rows[:, : message.width * size]).view(np.dtype(dtype).newbyteorder("<"))


def _stamp(message: Any) -> int:
    return int(message.header.stamp.sec) * 1_000_000_000 + int(message.header.stamp.nanosec)


def _rate(drive: Path) -> float:
    """Frames a second of the drive from its first stamps, within what a video can hold."""
    stamps = []
    for _, message in _messages(drive, (IMAGE_TOPIC,), needed=IMAGE_TOPIC):
        stamps.append(_stamp(message))
        if len(stamps) == 8:
            break
    step = float(np.median(np.diff(stamps))) if len(stamps) > 1 else 0.0
    return float(np.clip(1e9 / step, 1.0, 60.0)) if step > 0 else 10.0
