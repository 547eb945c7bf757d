"""Every figure of a drive, gathered frame by frame: metrics, streaming score, flicker, hazards, anomalous road."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mgcda_core.evaluation.bag.answers import Answer
from mgcda_core.evaluation.bag.flicker import Flicker
from mgcda_core.evaluation.bag.moments import RoadShare, anomalous_road
from mgcda_core.evaluation.bag.streaming import Output, StreamingScore
from mgcda_core.evaluation.component_metrics import object_rows
from mgcda_core.evaluation.pixel_metrics import PixelMetrics, PixelScores
from mgcda_core.evaluation.results import ImageRow
from mgcda_core.inference.bags import RecordedFrame


@dataclass(frozen=True)
class FrameRow:
    """One answered frame; metrics are fractions of its pixels, None where they do not exist."""

    stamp_ns: int
    latency_ms: float | None
    hazards: int
    anomalous_road: float | None
    suspicion: float
    flicker: float | None
    judged_age_ms: float | None
    """Age of the output that was the newest at this frame's stamp."""
    image: ImageRow
    """Zeros and None without a label."""


@dataclass
class DriveFigures:
    """Accumulates the answered frames of a drive in the order of time.

    `stated_latency_ms` replaces the answers' latencies in the streaming score; `waited` says that these hold the wait
    for the predictor (see StreamingScore). `baseline` gives the maximum softmax probability score, uint8 [H, W, 3] RGB
    -> [0, 1] [H, W]; only labelled frames ask for it.
    """

    stated_latency_ms: float | None
    baseline: Callable[[np.ndarray], np.ndarray]
    waited: bool = False
    rows: list[FrameRow] = field(default_factory=list)
    model: PixelMetrics = field(default_factory=PixelMetrics)
    msp: PixelMetrics = field(default_factory=lambda: PixelMetrics("unit"))
    streaming: StreamingScore = field(init=False)
    flicker: Flicker = field(default_factory=Flicker)
    frames: int = 0
    temporal_ms: list[float] = field(default_factory=list)
    """Own time of the temporal filter, of the frames it filtered."""
    labelled: int = 0
    _road: int = 0
    _anomalous: int = 0
    _timed: bool = True

    def __post_init__(self) -> None:
        self.streaming = StreamingScore(self.waited and self.stated_latency_ms is None)

    def add(self, frame: RecordedFrame, label: np.ndarray | None, answer: Answer | None) -> FrameRow | None:
        """One frame with its label and answer, where it has them; returns its row if it was answered."""
        self.frames += 1
        age = self._stream(frame, label, answer)
        if answer is None:
            return None
        logits, mask = answer.prediction.logits, answer.mask
        road = self._on_road(answer)
        scores, objects = None, (0, 0, 0)
        if label is not None:
            scores, objects = self._judge(frame, logits, label), object_rows(mask, label)
        if "temporal" in answer.prediction.timings_ms:
            self.temporal_ms.append(answer.prediction.timings_ms["temporal"])
        row = FrameRow(
            stamp_ns=frame.stamp_ns,
            latency_ms=answer.latency_ms,
            hazards=answer.hazard_count,
            anomalous_road=road.anomalous / road.road if road.road else None,
            suspicion=road.suspicion,
            flicker=self.flicker.add(frame.image, mask),
            judged_age_ms=age,
            image=_image_row(frame.stamp_ns, scores, mask, label, objects),
        )
        self.rows.append(row)
        return row

    def summary(self, seconds: float) -> dict[str, Any]:
        """The figures of a drive that lasts `seconds`; None for what does not exist.

        hazards are counted frame by frame, a hazard that lasts is many; anomalous_road is the share of the road's
        pixels, of all frames together (see moments.RoadShare); flicker see Flicker; stream_* see StreamingScore.
        """
        model, msp, stream = self.model.compute(), self.msp.compute(), self.streaming.metrics.compute()
        hazards = sum(row.hazards for row in self.rows)
        latencies = [row.latency_ms for row in self.rows if row.latency_ms is not None]
        p50, p95 = np.percentile(latencies, (50, 95)).tolist() if latencies else (None, None)
        timed = self._timed and bool(self.rows)
        judged = timed and stream["reason"] is None
        return {
            "frames_in": self.frames,
            "masks_out": len(self.rows),
            "hazards": hazards,
            "latency_p50_ms": p50,
            "latency_p95_ms": p95,
            "ap": number(model, "ap"),
            "fpr95": number(model, "fpr95"),
            "msp_ap": number(msp, "ap"),
            "auroc": number(model, "auroc"),
            "metrics_reason": model["reason"] if self.labelled else "no labels",
            "labelled_frames": self.labelled,
            "hazards_per_minute": 60.0 * hazards / seconds if seconds else None,
            "anomalous_road": self._anomalous / self._road if self._road else None,
            "flicker": self.flicker.value,
            "flicker_pairs": self.flicker.pairs,
            "flicker_cuts": self.flicker.cuts,
            "stream_ap": stream["ap"] if judged else None,
            "stream_fpr95": stream["fpr95"] if judged else None,
            "stream_age_ms": self.streaming.mean_age_ms if timed else None,
            "stream_frames_without_output": self.streaming.frames_without_output if timed else None,
            "stream_latency": _latency_source(self.stated_latency_ms, timed, self.waited),
            "latency_temporal_ms": float(np.median(self.temporal_ms)) if self.temporal_ms else None,
        }

    def _stream(self, frame: RecordedFrame, label: np.ndarray | None, answer: Answer | None) -> float | None:
        output = None
        if answer is not None:
            latency = self.stated_latency_ms if self.stated_latency_ms is not None else answer.latency_ms
            if latency is None:
                self._timed = False
                return None
            output = Output(frame.stamp_ns, round(latency * 1e6), answer.prediction.logits)
        return self.streaming.add(frame.stamp_ns, label, output)

    def _on_road(self, answer: Answer) -> RoadShare:
        if answer.prediction.segmentation is None:
            return RoadShare(0, 0, 0.0)
        road = anomalous_road(answer.prediction.score, answer.mask, answer.prediction.segmentation)
        self._road += road.road
        self._anomalous += road.anomalous
        return road

    def _judge(self, frame: RecordedFrame, logits: np.ndarray, label: np.ndarray) -> PixelScores:
        """Add one labelled frame to the pooled metrics; its own metrics come back."""
        alone = PixelMetrics()
        try:
            alone.update(logits, label)
            self.msp.update(self.baseline(frame.image), label)
        except ValueError as error:
            raise ValueError(f"frame with stamp {frame.stamp_ns} ns: {error}") from error
        self.model.merge(alone)
        self.labelled += 1
        return alone.compute()


def number(scores: PixelScores | None, name: str) -> float | None:
    """A metric, None where there is none."""
    return None if scores is None or scores["reason"] is not None else float(scores[name])


def seconds_text(stamp_ns: int) -> str:
    """A stamp in seconds with all its nanoseconds: 1700000003.200000000."""
    return f"{stamp_ns // 1_000_000_000}.{stamp_ns % 1_000_000_000:09d}"


def _latency_source(stated_ms: float | None, timed: bool, waited: bool) -> str:
    if stated_ms is not None:
        return f"stated: {stated_ms:g} ms"
    if not timed:
        return "unknown"
    return "of the replay, waiting included" if waited else "measured"


def _image_row(
    stamp: int, scores: PixelScores | None, mask: np.ndarray, label: np.ndarray | None, objects: tuple[int, int, int]
) -> ImageRow:
    return ImageRow(
        name=seconds_text(stamp),
        pixels=scores["pixels"] if scores else 0,
        positives=scores["positives"] if scores else 0,
        ap=number(scores, "ap"),
        fpr95=number(scores, "fpr95"),
        auroc=number(scores, "auroc"),
        false_positive_pixels=int((mask & (label == 0)).sum()) if label is not None else 0,
        objects=objects[0],
        missed_objects=objects[1],
        largest_missed_pixels=objects[2],
    )
