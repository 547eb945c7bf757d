"""`mgcda eval-bag`: judges what the predictor says on every frame of a drive, or what a node published on it."""

from __future__ import annotations

import json
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from mgcda_core.config import ConfigError
from mgcda_core.data.rendered_bag import CAMERA_HEIGHT, HORIZONTAL_FOV
from mgcda_core.evaluation.bag.answers import Mount, PredictedAnswers, RecordedAnswers
from mgcda_core.evaluation.bag.drive import Drive
from mgcda_core.evaluation.bag.figures import DriveFigures
from mgcda_core.evaluation.bag.outputs import OutputsWriter, RecordedOutputs
from mgcda_core.evaluation.bag.pictures import DrivePictures
from mgcda_core.evaluation.bag.result import drive_result
from mgcda_core.evaluation.bag.truth import Truth, anomaly_numbers, open_truth
from mgcda_core.evaluation.report import write_report
from mgcda_core.evaluation.scorers import open_scorer
from mgcda_core.inference.bags import bag_camera_infos
from mgcda_core.inference.predictor import load
from mgcda_core.inference.sources import SourceError
from mgcda_core.inference.temporal import SECONDS, Kind, TemporalFilter
from mgcda_core.labels import ANOMALY

KEYS = ("frames_in", "masks_out", "hazards", "latency_p50_ms", "latency_p95_ms", "ap", "fpr95", "msp_ap")
"""The first keys of report.json, in the order of the last printed line; metrics are fractions, None without truth."""
MORE = ("auroc", "stream_ap", "stream_fpr95", "stream_age_ms", "hazards_per_minute", "anomalous_road", "flicker")
"""Those of the line before."""
MIN_AREA, CAMERA_PITCH = 100, 0.0


def eval_bag(
    recording: Path,
    out: Path,
    image: str | None = None,
    camera_info: str | None = None,
    labels: Path | None = None,
    anomaly_values: str = str(ANOMALY),
    recorded: Path | None = None,
    result_json: Path | None = None,
    weights: str = "lite",
    device: str = "auto",
    threshold: float | None = None,
    latency_ms: float | None = None,
    moment_gap_s: float = 1.0,
    min_area: int = MIN_AREA,
    camera_height: float = CAMERA_HEIGHT,
    camera_pitch: float = CAMERA_PITCH,
    horizontal_fov: float = HORIZONTAL_FOV,
    temporal: Kind = "none",
    temporal_seconds: float = SECONDS,
) -> None:
    """Judge a recorded drive: latency, hazards, flicker, suspicious moments; with labels metrics and streaming score.

    Every frame is predicted, or what a node answered on a replay is taken from --recorded. Writes report.json,
    report.html, overlay.mp4, contact_sheet.png, moments/ and, of predictions, the recording outputs/.

    Args:
        recording: rosbag2 recording (folder, .mcap or .db3) with raw or compressed images.
        out: folder to write; an old report there is removed first.
        image: image topic; needed if there are several besides /truth.
        camera_info: CameraInfo topic; without it the one beside the image topic, or the only one.
        labels: folder of masks named by stamp in nanoseconds or by index from 0, or a recording with /truth/anomaly;
            without it the recording's own /truth/anomaly, if it has one.
        anomaly_values: comma list of the mask values that mean anomaly; 0 is normal, 255 is not counted.
        recorded: a recording of what the node published for this drive, judged instead of predictions made here.
        result_json: with --recorded, the figures of the replay: counts and latencies.
        weights: a shipped name, a .safetensors path or an https url; with --recorded those the node ran.
        device: auto, cpu, cuda or cuda:N.
        threshold: score in [0, 1] from which a pixel is masked; without it the weights' own.
        latency_ms: latency of every frame for the streaming score; without it each frame's measured one.
        moment_gap_s: least time in seconds between two suspicious moments.
        min_area: smallest region that becomes a hazard, in pixels.
        camera_height: height of the camera above the road in metres.
        camera_pitch: pitch of the camera in radians, positive looks down.
        horizontal_fov: horizontal field of view in radians, used if there is no CameraInfo.
        temporal: filter of the scores over the frames: none; ema, their average where they stand; vote, the same after
            the past was moved along with the road.
        temporal_seconds: time constant of the filter in seconds.

    ap, fpr95, auroc and msp_ap are pooled over the labelled frames that have an answer, the streaming score over all
    labelled frames. All but the latencies, and with them the streaming score without --latency_ms, repeats exactly.
    With --recorded the last line printed begins with `demo:`, since tools read that line of `make demo`.
    Raises ValueError or OSError naming the file, topic or stamp at fault; for a recording that was cut off only after
    everything is written for what could be read, with "complete": false in report.json.
    """
    of_predictions = {
        "threshold": threshold is not None,
        "min_area": min_area != MIN_AREA,
        "camera_info": camera_info is not None,
        "camera_height": camera_height != CAMERA_HEIGHT,
        "camera_pitch": camera_pitch != CAMERA_PITCH,
        "horizontal_fov": horizontal_fov != HORIZONTAL_FOV,
        "temporal": temporal != "none",
        "temporal_seconds": temporal_seconds != SECONDS,
    }
    _check_recorded(recorded, result_json, [f"--{name}" for name, given in of_predictions.items() if given])
    _check_least({"latency_ms": latency_ms, "moment_gap_s": moment_gap_s, "min_area": min_area})
    values, steady = anomaly_numbers(anomaly_values), TemporalFilter(temporal, temporal_seconds)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out} is a file: give --out the name of a folder")
    out.mkdir(parents=True, exist_ok=True)
    for name in ("report.json", "report.html"):
        (out / name).unlink(missing_ok=True)
    started = time.monotonic()
    drive = Drive(recording, image)
    truth = open_truth(labels, recording, drive.stamps, values, damaged=drive.damaged)
    msp = cache(lambda: open_scorer(weights, "msp", device))
    if recorded is None:
        mount = Mount(camera_height, camera_pitch, horizontal_fov)
        infos = bag_camera_infos(recording, drive.topic, camera_info)
        answers = PredictedAnswers(load(weights, device, threshold), steady, infos, mount, min_area, len(drive))
    else:
        answers = RecordedAnswers(RecordedOutputs(recorded), msp(), result_json)
    figures = DriveFigures(latency_ms, lambda pixels: msp()[0](pixels), answers.waited)
    with DrivePictures(out, drive.rate_hz, answers.expected, round(1e9 * moment_gap_s)) as pictures:
        fault = _watch(drive, truth, answers, figures, pictures, out / "outputs")
        moments, gallery = pictures.finish()
    report = _report(drive, answers, figures, fault) | {"weights": weights, "moments": moments}
    report["labels_left_out"] = truth.left_out if truth else 0
    report["rows"] = [asdict(row) for row in figures.rows]
    result = drive_result(recording.resolve().stem, report, figures, values, time.monotonic() - started)
    write_report([result], [gallery], out / "report.html", f"{recording.resolve().stem}: {weights}")
    _write_json(out / "report.json", report)
    if report["ap"] is None:
        print(f"eval-bag: no metrics: {report['metrics_reason']}")
    print(report_line("eval-bag", MORE, report))
    print(report_line("demo" if recorded else "eval-bag", KEYS, report))
    if fault is not None:
        raise SourceError(f"{fault}; {out} covers the {figures.frames} frames, {report['seconds']:.1f} s, before that")


def _check_recorded(recorded: Path | None, result_json: Path | None, of_predictions: list[str]) -> None:
    """Raise ConfigError for options that would be without effect; `of_predictions` are those given."""
    if result_json is not None and recorded is None:
        raise ConfigError("--result_json holds the figures of a replay: give its --recorded too")
    if recorded is not None and of_predictions:
        raise ConfigError(f"{', '.join(of_predictions)} would not change what --recorded holds: leave it out")


def _check_least(values: dict[str, float | None]) -> None:
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value >= 0.0):
            raise ConfigError(f"{name} is {value}; it must be a number from 0 on")


def _watch(
    drive: Drive,
    truth: Truth | None,
    answers: PredictedAnswers | RecordedAnswers,
    figures: DriveFigures,
    pictures: DrivePictures,
    outputs: Path,
) -> str | None:
    """Go through all frames once; returns what ended it early, None if nothing did."""
    predicted = isinstance(answers, PredictedAnswers)
    with OutputsWriter(outputs) if predicted else nullcontext() as writer:
        try:
            for number, frame in enumerate(drive.frames(), 1):
                label = truth.at(frame.stamp_ns, frame.image.shape[:2]) if truth else None
                answer = answers(frame)
                row = figures.add(frame, label, answer)
                if answer is not None and row is not None:
                    pictures.add(frame.image, label, answer, row)
                    if writer is not None:
                        writer.add(frame, answer.prediction, answer.hazards, label)
                _progress(f"{number} of {len(drive)} frames")
            answers.check_all_taken()
        except SourceError as error:
            if not figures.rows:
                raise
            return str(error)
        finally:
            _progress("")
    if not figures.rows:
        raise ValueError(f"no frame of {drive.path} has an answer: they do not belong together")
    return None


def _report(
    drive: Drive, answers: PredictedAnswers | RecordedAnswers, figures: DriveFigures, fault: str | None
) -> dict[str, Any]:
    """The figures of report.json; those of a replay replace what cannot be known here."""
    seconds = drive.seconds(figures.frames + drive.undecodable)
    return {
        **figures.summary(seconds),
        **answers.replay,
        "complete": fault is None,
        "fault": fault,
        "seconds": seconds,
        "frames_out_of_order": drive.out_of_order,
        "frames_undecodable": drive.undecodable,
        "image_topic": drive.topic,
        "weights_sha256": answers.sha256,
        "threshold": answers.threshold,
        "temporal": _temporal(answers.steady),
    }


def _temporal(steady: TemporalFilter | None) -> dict[str, Any] | None:
    """The filter that was on, and how often it found no motion; None for a recording, which does not tell."""
    return None if steady is None else {"kind": steady.kind, "seconds": steady.seconds, "lost": steady.lost}


def report_line(name: str, keys: tuple[str, ...], report: dict[str, Any]) -> str:
    """One line of figures: `demo: frames_in=60 ... msp_ap=0.1234`, n/a where one is missing."""
    return f"{name}: " + " ".join(f"{key}={_text(key, report[key])}" for key in keys)


def _text(key: str, value: float | int | None) -> str:
    if value is None:
        return "n/a"
    if isinstance(value, int):
        return str(value)
    return f"{value:.1f}" if key.endswith(("_ms", "_per_minute")) else f"{value:.4f}"


def _progress(text: str) -> None:
    """One line that is written over, if somebody watches; an empty text removes it."""
    if sys.stderr.isatty():
        print(f"\r{text}\033[K", end="", file=sys.stderr, flush=True)


def _write_json(path: Path, report: dict[str, Any]) -> None:
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(report, indent=2) + "\n")
    part.replace(path)
