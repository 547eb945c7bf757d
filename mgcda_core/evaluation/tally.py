"""What the images of one set add up to: pixel metrics of all scores, then what needs an operating threshold.

Both tallies are filled image by image, merged over processes in any order, and hold 25 to 90 kilobytes an image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mgcda_core.config import Fpr95Convention
from mgcda_core.evaluation.bootstrap import Histogram, histogram
from mgcda_core.evaluation.component_metrics import ComponentMetrics, Track, object_rows
from mgcda_core.evaluation.pixel_metrics import ExactMetrics, PixelMetrics, PixelScores
from mgcda_core.evaluation.results import ComponentScores, ImageRow, SegmentationScores
from mgcda_core.evaluation.score_buckets import Mode
from mgcda_core.evaluation.scored import ScoredImage
from mgcda_core.evaluation.segmentation_metrics import SegmentationMetrics
from mgcda_core.labels import NORMAL

EXACT_PIXELS = 80_000_000
"""Sets up to this size are measured exactly (4 bytes a pixel, 0.9 GB at most while sorting), larger ones in 16 MiB."""


@dataclass(frozen=True)
class Measured:
    """One image and what it says by itself."""

    image: ScoredImage
    row: ImageRow
    """What needs a threshold is still 0."""
    histogram: Histogram


def measure(image: ScoredImage, mode: Mode, convention: Fpr95Convention) -> Measured:
    """Exact metrics of one image, and its histogram; ValueError for NaN scores."""
    metrics = ExactMetrics()
    metrics.update(image.score, image.label)
    own = metrics.compute(convention)
    nothing = own["reason"] is not None
    ap, fpr95, auroc = (None,) * 3 if nothing else (own["ap"], own["fpr95"], own["auroc"])
    row = ImageRow(image.name, own["pixels"], own["positives"], ap, fpr95, auroc, 0, 0, 0, 0)
    return Measured(image, row, histogram(image.score, image.label, mode))


class PixelTally:
    """First pass: pooled metrics, exact while the set is small enough (or `exact` whatever its size), and rows."""

    def __init__(self, mode: Mode, exact: bool) -> None:
        self.metrics = PixelMetrics(mode)
        self.kept: ExactMetrics | None = ExactMetrics()
        self._most = float("inf") if exact else EXACT_PIXELS
        self.rows: dict[int, ImageRow] = {}
        self.histograms: dict[int, Histogram] = {}

    def add(self, measured: Measured) -> None:
        """Add one image."""
        image = measured.image
        self.metrics.update(image.score, image.label)
        self.rows[image.index], self.histograms[image.index] = measured.row, measured.histogram
        if self.kept is not None:
            self.kept.update(image.score, image.label)
            self.kept = self.kept if self.kept.pixels <= self._most else None

    def merge(self, other: PixelTally) -> None:
        """Add another process's images.

        Histograms add up and sorted scores have no order, so figures are those of one process to the last bit: exact if
        all scores together are few enough, which they cannot be if those of one process are too many.
        """
        self.metrics.merge(other.metrics)
        self.rows |= other.rows
        self.histograms |= other.histograms
        if self.kept is None or other.kept is None or self.kept.pixels + other.kept.pixels > self._most:
            self.kept = None
        else:
            self.kept.merge(other.kept)

    def compute(self, convention: Fpr95Convention) -> PixelScores:
        """Pooled metrics of everything added so far."""
        return (self.kept or self.metrics).compute(convention)


class MaskTally:
    """Second pass: what the masks at one threshold give, score >= threshold."""

    def __init__(self, threshold: float, track: Track | None, classes: bool) -> None:
        self.threshold = threshold
        self._components = ComponentMetrics(track, threshold) if track else None
        self._segmentation = SegmentationMetrics() if classes else None
        self._figures: dict[int, tuple[int, int, int, int]] = {}

    def add(self, image: ScoredImage) -> None:
        """Add one image."""
        mask = image.score >= np.float32(self.threshold)
        false_positives = int(np.count_nonzero(mask & (image.label == NORMAL)))
        self._figures[image.index] = (false_positives, *object_rows(mask, image.label))
        if self._components is not None:
            self._components.update(image.score, image.label)
        if self._segmentation is not None:
            assert image.predicted is not None and image.semantics is not None
            self._segmentation.update(image.predicted, image.semantics, mask, image.label)

    def merge(self, other: MaskTally) -> None:
        """Add another process's images."""
        self._figures |= other._figures
        for own, others in ((self._components, other._components), (self._segmentation, other._segmentation)):
            if own is not None and others is not None:
                own.merge(others)  # pyright: ignore[reportArgumentType]

    def rows(self, rows: Mapping[int, ImageRow]) -> tuple[ImageRow, ...]:
        """The first pass's rows with this one's figures, in the order of the set."""
        names = ("false_positive_pixels", "objects", "missed_objects", "largest_missed_pixels")
        return tuple(
            replace(rows[number], **dict(zip(names, self._figures[number], strict=True))) for number in sorted(rows)
        )

    def compute(self) -> tuple[ComponentScores | None, SegmentationScores | None]:
        """Component metrics and segmentation scores, where they were asked for."""
        return (
            None if self._components is None else self._components.compute(),
            None if self._segmentation is None else self._segmentation.compute(),
        )
