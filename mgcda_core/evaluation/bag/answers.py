"""What was said about each frame of a drive: by the predictor, run here on every frame, or by the node, recorded."""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mgcda_core.evaluation.bag.outputs import Outputs, RecordedOutputs
from mgcda_core.evaluation.scorers import Scorer
from mgcda_core.hazards.ground_plane import Camera
from mgcda_core.hazards.lens import Lens
from mgcda_core.hazards.mount import Mount as CameraMount
from mgcda_core.hazards.regions import Hazard, to_hazards
from mgcda_core.inference.bags import RecordedFrame
from mgcda_core.inference.predictor import Predictor
from mgcda_core.inference.temporal import TemporalFilter
from mgcda_core.prediction import Prediction

FIGURES = ("frames_in", "masks_out", "hazards", "latency_p50_ms", "latency_p95_ms")
"""What a report takes over from the JSON file of a replay."""


@dataclass(frozen=True)
class Answer:
    """What was said about one frame."""

    prediction: Prediction
    mask: np.ndarray
    """bool [H, W], as it was published."""
    hazards: Sequence[Hazard]
    """Those placed here; a recording tells their number only."""
    hazard_count: int
    latency_ms: float | None
    """From the frame to its mask; None if nobody measured it."""


@dataclass(frozen=True)
class Mount:
    """How the camera sits on the vehicle, as the node's parameters say it."""

    height_m: float
    pitch_rad: float
    """Positive = looking down."""
    horizontal_fov_rad: float
    """Used without a CameraInfo."""


class PredictedAnswers:
    """The predictor's answer to each frame after the temporal filter, with hazards placed as the node places them.

    infos: (stamp in ns, CameraInfo) by stamp; a frame takes the last calibrated one up to its stamp, or the first.
    """

    def __init__(
        self,
        predictor: Predictor,
        steady: TemporalFilter,
        infos: Sequence[tuple[int, Any]],
        mount: Mount,
        min_area: int,
        expected: int,
    ) -> None:
        self.expected, self.replay, self.waited = expected, dict[str, Any](), False
        self.sha256, self.threshold = predictor.backend.sha256, predictor.threshold
        self._predictor, self._mount, self._min_area = predictor, mount, min_area
        self.steady = steady
        self._infos = [(stamp, info) for stamp, info in infos if np.isfinite(info.k).all() and min(info.k[[0, 4]]) > 0]
        self._warm = False

    def __call__(self, frame: RecordedFrame) -> Answer:
        """Predict one frame; the first one twice, since the first run of a network is slow."""
        if not self._warm:
            self._predictor(frame.image)
            self._warm = True
        started = time.perf_counter()
        prediction = self.steady(self._predictor(frame.image), frame.image, frame.stamp_ns / 1e9)
        mask = prediction.mask
        latency_ms = 1000.0 * (time.perf_counter() - started)
        hazards = to_hazards(prediction.regions(self._min_area), self._camera(frame))
        return Answer(prediction, mask, hazards, len(hazards), latency_ms)

    def check_all_taken(self) -> None:
        """Nothing is left over: answers are made for the frames that are asked for."""

    def _camera(self, frame: RecordedFrame) -> Camera:
        size = (frame.image.shape[0], frame.image.shape[1])
        mount = CameraMount.from_angles(self._mount.height_m, pitch_rad=self._mount.pitch_rad)
        if not self._infos:
            return Camera(Lens.from_field_of_view(size, self._mount.horizontal_fov_rad), mount)
        before = bisect_right(self._infos, frame.stamp_ns, key=lambda entry: entry[0])
        return Camera(Lens.from_camera_info(self._infos[max(before - 1, 0)][1], size), mount)


class RecordedAnswers:
    """What a recording holds of a node's answers, asked for in the order of stamps.

    `segmentation` is (a score of the segmentation network, sha256 of the weights): the node does not publish the road.
    `result_json` of the replay has `replay`, its counts and latencies; `threshold` is the lowest masked score so far.
    `waited`: the latencies hold the wait in the node's mailbox, as they do unless the replay sent each frame only after
    the mask of the one before (rate 0).
    Raises FileNotFoundError, or ValueError naming the field of `result_json` at fault.
    """

    def __init__(self, outputs: RecordedOutputs, segmentation: tuple[Scorer, str], result_json: Path | None) -> None:
        self.expected, self.threshold, self.steady = len(outputs.stamps), None, None
        self.replay, self._latencies_ms, rate = _figures(result_json, outputs.masks) if result_json else ({}, {}, 0.0)
        self.waited = rate != 0.0
        self._segment, self.sha256 = segmentation[0].segmentation, segmentation[1]
        self._path, self._outputs = outputs.path, iter(outputs)
        self._next: Outputs | None = None

    def __call__(self, frame: RecordedFrame) -> Answer | None:
        """The answer to this frame, None if it got none.

        Raises ValueError if the next answer belongs to no frame, or has another size than its frame.
        """
        stamp = frame.stamp_ns
        self._next = self._next or next(self._outputs, None)
        if self._next is not None and self._next.stamp_ns < stamp:
            self.check_all_taken()
        if self._next is None or self._next.stamp_ns > stamp:
            return None
        found, self._next = self._next, None
        if found.score.shape != frame.image.shape[:2]:
            raise ValueError(
                f"{self._path}, stamp {stamp} ns: the score is {found.score.shape}, its frame {frame.image.shape[:2]} "
                "(height, width): they do not belong together"
            )
        lowest = float(found.score[found.mask].min()) if found.mask.any() else None
        if lowest is not None:
            self.threshold = min(lowest, self.threshold or 1.0)
        # A threshold that gives the published mask, up to rounding; above all scores for an empty one.
        drawn_at = 2.0 if lowest is None else lowest - 1e-6
        prediction = Prediction(to_logits(found.score), drawn_at, self._segment(frame.image))
        return Answer(prediction, found.mask, (), len(found.hazards), self._latencies_ms.get(stamp))

    def check_all_taken(self) -> None:
        """Raises ValueError if an answer is left that belongs to no frame."""
        left = self._next or next(self._outputs, None)
        if left is not None:
            raise ValueError(
                f"{self._path} answers a frame with stamp {left.stamp_ns} ns that the recording does not hold: "
                "they do not belong together"
            )


def _figures(path: Path, masks: Sequence[int]) -> tuple[dict[str, Any], dict[int, float], float | None]:
    """FIGURES of a replay's JSON file, stamp -> latency in ms for the `masks` (stamps in their order of coming), rate.

    Raises FileNotFoundError, or ValueError naming the file and field at fault.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: it is written by `python -m mgcda_ros.replay` beside its --out"
        )
    try:
        raw = json.loads(path.read_text())
        figures, latencies, rate = {key: raw[key] for key in FIGURES}, raw["latencies_ms"], raw.get("rate")
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is not a replay's JSON file ({error}); replay the bag again") from error
    except KeyError as error:
        raise ValueError(f"{path} has no field {error}; replay the bag again") from error
    if len(latencies) != len(masks):
        raise ValueError(f"{path} has {len(latencies)} latencies_ms for {len(masks)} masks; replay the bag again")
    return figures, dict(zip(masks, map(float, latencies), strict=True)), rate


def to_logits(score: np.ndarray) -> np.ndarray:
    """Logits float32 of scores float32 in [0, 1], in the same order; 0 and 1 become the largest finite ones."""
    unit = np.clip(score.astype(np.float64), np.finfo(np.float32).tiny, 1.0 - 2.0**-25)
    return np.log(unit / (1.0 - unit)).astype(np.float32)
