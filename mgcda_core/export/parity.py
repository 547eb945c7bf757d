"""The gate: an exported chain beside PyTorch in fp32 on real frames, and what difference is let through.

The chain takes the likeliest class of every pixel. Where two are equally likely up to rounding, another runtime takes
the other one, and the score around that pixel moves by hundredths, whatever the precision: that is no arithmetic error,
and no tolerance of arithmetic can hold it. So two things are bounded: the share of pixels whose class changes, and the
difference of the score to PyTorch's when that is given the same classes. AP is compared as the answers come.

int8 moves single pixels and classes whatever one does: there the mean difference and AP alone are bounded, and the
share of the mask that stays, `mask_iou`, is reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from mgcda_core.data.folder import LabelledFolder
from mgcda_core.evaluation.pixel_metrics import PixelMetrics
from mgcda_core.inference.backend import Backend
from mgcda_core.inference.sidecar import Precision
from mgcda_core.inference.sources import open_source
from mgcda_core.models.uncertainty import Scaling
from mgcda_core.prediction import Prediction

MAX_SCORE_DIFFERENCE: dict[Precision, float] = {"fp32": 1e-4, "fp16": 2e-2, "int8": math.inf}
"""Of one pixel's score, the classes being the same; in int8 single pixels do move, no useful bound holds them."""
EIGHT_BIT_STEP = 1 / 255
"""Allowed at least with reference scaling: the published arithmetic truncates images and maps to such steps, and which
one a value just at a step takes is chance again."""
MAX_CLASSES_CHANGED: dict[Precision, float] = {"fp32": 1e-4, "fp16": 5e-3, "int8": math.inf}
"""Share of the pixels; lite has 0 in fp32 and 3.0e-4 in fp16 (road-anomaly21, 10 frames)."""
MAX_MEAN_DIFFERENCE = 2e-2
"""Of the score, over all pixels: what holds int8 where there are no labels."""
MAX_AP_CHANGE: dict[Precision, float] = {"fp32": 0.5, "fp16": 0.5, "int8": 1.0}
"""In points (percent), up or down."""

Labels = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Mask values that mean anomaly, ignore, normal."""


class Reference(Backend, Protocol):
    """PyTorch in fp32."""

    def logits_given(self, image: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Logits float32 [H, W] of uint8 [H, W, 3] RGB if the predicted classes were `classes`, uint8 [H, W]."""
        ...


class ParityError(ValueError):
    """An exported chain answers otherwise than PyTorch; the message holds the figures."""


@dataclass(frozen=True)
class CheckFrame:
    """A frame to compare on."""

    image: np.ndarray
    """uint8 [H, W, 3] RGB."""
    label: np.ndarray | None
    """uint8 [H, W]: 0 normal, 1 anomaly, 255 ignore; None without labels."""


@dataclass(frozen=True)
class Parity:
    """Differences of an exported chain to PyTorch, pooled over all pixels of all frames."""

    frames: int
    max_score_difference: float
    """Largest difference of a pixel's score, which lies in [0, 1]."""
    mean_score_difference: float
    max_difference_same_classes: float
    """The largest if PyTorch is given the exported chain's classes."""
    classes_changed: float
    """Share of the pixels with another predicted class."""
    mask_iou: float | None
    """Intersection over union of the two masks at the threshold; None if both are empty."""
    ap: float | None
    """AP of PyTorch in percent; None without labels, or if they hold anomalies or normal pixels only."""
    ap_change: float | None
    """AP of the exported chain minus that, in points."""

    def figures(self) -> dict[str, float | None]:
        """For the sidecar."""
        return asdict(self)

    def faults(self, precision: Precision, scaling: Scaling = "fixed") -> list[str]:
        """What lies beyond the tolerance of `precision`, in words; empty if nothing does."""
        found = []
        allowed = max(MAX_SCORE_DIFFERENCE[precision], EIGHT_BIT_STEP if scaling == "reference" else 0.0)
        if not self.max_difference_same_classes <= allowed:
            found.append(
                f"a score differs by {self.max_difference_same_classes:.2g} (same classes), allowed {allowed:.2g}"
            )
        if not self.mean_score_difference <= MAX_MEAN_DIFFERENCE:
            found.append(
                f"scores differ by {self.mean_score_difference:.2g} in the mean, allowed {MAX_MEAN_DIFFERENCE:g}"
            )
        if not self.classes_changed <= MAX_CLASSES_CHANGED[precision]:
            found.append(
                f"{self.classes_changed:.2g} of all pixels change class, allowed {MAX_CLASSES_CHANGED[precision]:g}"
            )
        if self.ap_change is not None and not abs(self.ap_change) <= MAX_AP_CHANGE[precision]:
            found.append(f"AP changes by {self.ap_change:+.2f} points, allowed {MAX_AP_CHANGE[precision]:g}")
        return found

    def __str__(self) -> str:
        """One line for the console."""
        return " ".join(
            f"{name}={'none' if value is None else f'{value:.6g}'}" for name, value in self.figures().items()
        )


def read_check_frames(
    source: Path, labels: Labels, least: tuple[int, int], largest: tuple[int, int]
) -> Iterator[CheckFrame]:
    """Frames of a folder with images/ and masks/ (LabelledFolder's rules), or of any source of `open_source`.

    A frame below `least` or above `largest` (height, width) is brought to the nearest size that the graph takes.
    Raises what those readers raise.
    """
    if (source / "images").is_dir() and (source / "masks").is_dir():
        folder = LabelledFolder(source / "images", source / "masks", *labels)
        pairs = ((pair.image, pair.label) for pair in (folder[index] for index in range(len(folder))))
    else:
        pairs = ((frame.image, None) for frame in open_source(source))
    for image, label in pairs:
        yield CheckFrame(
            fitted(image, least, largest, cv2.INTER_AREA),
            None if label is None else fitted(label, least, largest, cv2.INTER_NEAREST_EXACT),
        )


def fitted(pixels: np.ndarray, least: tuple[int, int], largest: tuple[int, int], interpolation: int) -> np.ndarray:
    """uint8 [H, W] or [H, W, 3] brought to the nearest size (height, width) from `least` to `largest`."""
    height, width = (int(np.clip(side, *limits)) for side, limits in zip(pixels.shape, zip(least, largest)))  # noqa: B905
    if (height, width) == pixels.shape[:2]:
        return pixels
    return cv2.resize(pixels, (width, height), interpolation=interpolation)


def measure(
    exported: Backend, reference: Reference, frames: Iterator[CheckFrame], threshold: float, batch: int = 1
) -> Parity:
    """Run both on every frame, the exported chain on up to `batch` of one size at a time.

    Raises ValueError without frames, ParityError for logits that are not finite.
    """
    count = pixels = changed = either = both = 0
    largest = total = same_classes = 0.0
    metrics = PixelMetrics(), PixelMetrics()
    for frame, logits, classes in _answers(exported, frames, batch):
        true_logits, true_classes = reference.run(frame.image)
        if classes is None or not np.isfinite(logits).all():
            raise ParityError(f"{exported.name} gives logits that are not finite, or no classes: nothing is written")
        made, true = Prediction(logits, threshold), Prediction(true_logits, threshold)
        difference = np.abs(made.score - true.score)
        largest, total = max(largest, float(difference.max())), total + float(difference.sum(dtype=np.float64))
        different = int(np.sum(classes != true_classes))
        if different:
            difference = np.abs(made.score - Prediction(reference.logits_given(frame.image, classes)).score)
        same_classes = max(same_classes, float(difference.max()))
        either, both = either + int((made.mask | true.mask).sum()), both + int((made.mask & true.mask).sum())
        count, pixels, changed = count + 1, pixels + logits.size, changed + different
        if frame.label is not None:
            for metric, answer in zip(metrics, (logits, true_logits), strict=True):
                metric.update(answer, frame.label)
    if not count:
        raise ValueError("there is no frame to compare on")
    ap, true_ap = (metric.compute()["ap"] * 100 for metric in metrics)
    known = not np.isnan(true_ap)
    return Parity(
        frames=count,
        max_score_difference=largest,
        mean_score_difference=total / pixels,
        max_difference_same_classes=same_classes,
        classes_changed=changed / pixels,
        mask_iou=both / either if either else None,
        ap=true_ap if known else None,
        ap_change=ap - true_ap if known else None,
    )


def _answers(
    exported: Backend, frames: Iterator[CheckFrame], batch: int
) -> Iterator[tuple[CheckFrame, np.ndarray, np.ndarray | None]]:
    """Every frame with its logits and classes."""
    for _, alike in groupby(frames, key=lambda frame: frame.image.shape):
        while together := list(islice(alike, batch)):
            logits, classes = exported.run_batch(np.stack([frame.image for frame in together]))
            for number, frame in enumerate(together):
                yield frame, logits[number], None if classes is None else classes[number]
