"""What an evaluation leaves behind: the figures of one score on one set, and pictures of it for a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mgcda_core.config import Fpr95Convention, Protocol


@dataclass(frozen=True)
class ImageRow:
    """One image of the per-image table; metrics are fractions of this image's pixels, None where it lacks one side."""

    name: str
    """Unique within the set."""
    pixels: int
    """Counted pixels, those with label 0 or 1."""
    positives: int
    ap: float | None
    fpr95: float | None
    auroc: float | None
    false_positive_pixels: int
    """Normal pixels in the mask at the operating threshold."""
    objects: int
    """8-connected regions of label 1."""
    missed_objects: int
    """Those of which the mask covers less than a quarter."""
    largest_missed_pixels: int
    """Size of the largest missed object, 0 if none."""


@dataclass(frozen=True)
class Curves:
    """Pooled curves, thinned to a few hundred points, and histograms; every entry is a tuple of floats."""

    threshold: tuple[float, ...]
    """Scores, descending; the four below are what `score >= threshold` gives."""
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    """Equal to the true positive rate."""
    false_positive_rate: tuple[float, ...]
    edges: tuple[float, ...]
    """n + 1 bin edges of the histograms, ascending scores."""
    normal: tuple[float, ...]
    anomalous: tuple[float, ...]
    """n shares of all normal, of all anomalous pixels."""


@dataclass(frozen=True)
class ComponentScores:
    """SegmentMeIfYouCan's component metrics of a set at one threshold (spec 5.3), fractions; NaN where undefined."""

    track: str
    """anomaly or obstacle."""
    threshold: float
    mean_f1: float
    siou: float
    """Mean over all ground-truth components."""
    ppv: float
    """Mean over all predicted components."""
    f1: dict[str, float]
    """sIoU threshold ("0.25" to "0.75") -> F1."""
    objects: int
    predictions: int
    at_threshold: float = 0.0
    """Share of the counted pixels whose score is the threshold itself: where it is large, >= and > differ much."""


@dataclass(frozen=True)
class SegmentationScores:
    """The segmentation network on a set with class labels, fractions."""

    miou: float
    """Over the labelled pixels of the known classes, anomalies left out."""
    open_miou: float
    """Anomalies count: missed ones as false positives of the class they were given, known pixels taken for anomalies as
    false negatives of theirs."""
    iou: dict[str, float | None]
    open_iou: dict[str, float | None]
    """Class name -> IoU; None for a class that does not occur."""


@dataclass(frozen=True)
class Result:
    """One score of one weights file on one set under one protocol; metrics are fractions."""

    set: str
    dataset: str
    split: str
    protocol: Protocol
    fpr95_convention: Fpr95Convention
    label_values: dict[str, list[int]]
    """normal, anomaly, ignore -> values of the label files."""
    weights: str
    weights_sha256: str
    score: str
    images: int
    pixels: int
    """Counted pixels, those with label 0 or 1."""
    anomaly_fraction: float
    ap: float | None
    fpr95: float | None
    auroc: float | None
    """None where `reason` says why."""
    reason: str | None
    ap_interval: tuple[float, float] | None
    fpr95_interval: tuple[float, float] | None
    auroc_interval: tuple[float, float] | None
    """95 % bootstrap intervals over the images; None for fewer than two images."""
    ap_bound: float
    fpr95_bound: float
    """Largest possible error of the bucketed figures; 0 for exact ones."""
    threshold: float
    """Operating point the per-image table and the masks use, in the units of the score (of model the logit)."""
    components: ComponentScores | None
    segmentation: SegmentationScores | None
    seconds: float
    details: tuple[tuple[str, str], ...] = ()
    """(name, text) of further figures, of a recording for example: shown as they stand."""
    rows: tuple[ImageRow, ...] = ()
    curves: Curves | None = None
    threshold_source: str = ""
    """Where the threshold comes from: the weights' own, as given, best pixel F1 of the set."""
    left_out: int = 0
    """Images without a figure of their own, left out of the means of a protocol that averages over images."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, the per-image rows included, the curves not."""
        return {key: value for key, value in asdict(self).items() if key != "curves"}


@dataclass(frozen=True)
class Picture:
    """One image of a report's gallery, shrunk to at most 512 pixels of width; all maps have one size."""

    name: str
    image: np.ndarray
    """uint8 [h, w, 3] RGB."""
    score: np.ndarray
    """float32 [h, w], in the units of the score."""
    label: np.ndarray | None
    """uint8 [h, w]: 0, 1, 255; None without ground truth."""
    row: ImageRow
    note: str = ""
    """Shown under the name, a time stamp for example."""
