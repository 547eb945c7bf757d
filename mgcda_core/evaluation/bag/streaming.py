"""Latency-aware streaming score: each frame is judged against what a vehicle would have had at that moment.

After Li, Wang and Ramanan, "Towards streaming perception", ECCV 2020 (section 3); arXiv 2401.04942 carries the idea
over to anomaly segmentation.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from mgcda_core.evaluation.pixel_metrics import PixelMetrics


@dataclass(frozen=True)
class Output:
    """The score of one frame and how long it takes to come."""

    stamp_ns: int
    """When the frame was taken."""
    latency_ns: int
    score: np.ndarray
    """float32 [H, W], logits."""


class Schedule:
    """A predictor with a one-slot mailbox, as the node has: when it gets free it takes the newest frame there is.

    Frame i that is begun at s_i is ready at s_i + latency_i. Everything follows from stamps and latencies, no clock is
    read. At most three outputs are kept: the newest one, the one in work, the one in the mailbox.
    """

    def __init__(self) -> None:
        self._mailbox: Output | None = None
        self._work: tuple[int, Output] | None = None  # ready at, output
        self._free_at = 0
        self._newest: Output | None = None

    def arrive(self, output: Output) -> None:
        """A frame comes at its stamp, with the output it will have if it is taken; stamps must ascend."""
        # A predictor that gets free in this very moment takes the new frame, not the older one in the mailbox.
        self._run(output.stamp_ns - 1)
        self._mailbox = output

    def newest(self, now_ns: int) -> Output | None:
        """The newest output that is ready at `now_ns`; None before the first."""
        self._run(now_ns)
        return self._newest

    def _run(self, until: int) -> None:
        while True:
            if self._work is None:
                if self._mailbox is None:
                    return
                start = max(self._free_at, self._mailbox.stamp_ns)
                self._work, self._mailbox = (start + self._mailbox.latency_ns, self._mailbox), None
            ready, output = self._work
            if ready > until:
                return
            self._newest, self._free_at, self._work = output, ready, None


class Replayed:
    """Outputs of a replay at the pace of the drive: each is ready at its stamp + latency.

    The replay was the schedule: its latencies hold the wait in the node's mailbox. Kept are the outputs to come.
    """

    def __init__(self) -> None:
        self._coming: list[Output] = []
        self._newest: Output | None = None

    def arrive(self, output: Output) -> None:
        """A frame that was answered; stamps must ascend."""
        self._coming.append(output)

    def newest(self, now_ns: int) -> Output | None:
        """The newest output that is ready at `now_ns`; None before the first."""
        ready = [output for output in self._coming if output.stamp_ns + output.latency_ns <= now_ns]
        if ready:
            self._newest = ready[-1]
            self._coming = [output for output in self._coming if output.stamp_ns > ready[-1].stamp_ns]
        return self._newest


class StreamingScore:
    """Pooled metrics of every labelled frame against the newest output that is ready at its stamp.

    Before the first output nothing has been reported: such a frame counts with the score 0 everywhere, so its
    anomalies are missed at every threshold above 0 and its normal pixels are right. `waited` says that the latencies
    hold the wait for the predictor already (see Replayed); otherwise Schedule adds it.
    """

    def __init__(self, waited: bool = False) -> None:
        self.metrics = PixelMetrics()
        self.frames_without_output = 0
        self._schedule = Replayed() if waited else Schedule()
        self._ages_ms: list[float] = []

    def add(self, stamp_ns: int, label: np.ndarray | None, output: Output | None) -> float | None:
        """Judge the frame at `stamp_ns`; `output` is what it will have, None if it was never answered.

        label uint8 [H, W] in {0, 1, 255}, None without truth. Returns the age of the judged output in milliseconds.
        """
        if output is not None:
            self._schedule.arrive(output)
        newest = self._schedule.newest(stamp_ns)
        age = None if newest is None else (stamp_ns - newest.stamp_ns) / 1e6
        if age is None:
            self.frames_without_output += 1
        else:
            self._ages_ms.append(age)
        if label is not None:
            score = np.full(label.shape, -np.inf, np.float32) if newest is None else newest.score
            if score.shape != label.shape:  # the camera changed its size since
                score = cv2.resize(score, (label.shape[1], label.shape[0]), interpolation=cv2.INTER_NEAREST)
            self.metrics.update(score, label)
        return age

    @property
    def mean_age_ms(self) -> float | None:
        """Mean age of the judged outputs, over the frames that had one."""
        return float(np.mean(self._ages_ms)) if self._ages_ms else None
