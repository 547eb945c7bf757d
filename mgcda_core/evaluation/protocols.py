"""Four published ways to turn score maps into figures, so that a published number can be met under its own rule.

A figure without its protocol says little: FPR95 of one set of scores differs by points between two of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from mgcda_core.config import ConfigError, EvaluationSet, Fpr95Convention, Protocol
from mgcda_core.evaluation.bootstrap import RESAMPLES
from mgcda_core.evaluation.component_metrics import Track
from mgcda_core.evaluation.results import ImageRow


@dataclass(frozen=True)
class ProtocolRules:
    """What sets one protocol apart."""

    fpr95: Fpr95Convention
    summary: str
    """For the lines under a table."""
    size: tuple[int, int] | None = None
    """(height, width) at which scores are judged; None: at the size of each image."""
    per_image: bool = False
    """Whether figures are means over images, instead of those of all pixels together."""
    best_f1: bool = False
    """Whether the operating point is always the threshold of the best pixel F1, as the component metrics want it."""


PROTOCOLS: dict[Protocol, ProtocolRules] = {
    "fishyscapes": ProtocolRules("first_ge", "pooled at the images' own size"),  # Blum et al., IJCV 2021
    "smiyc": ProtocolRules("smiyc", "pooled at the images' own size", best_f1=True),  # Chan et al., NeurIPS 2021
    # Di Biase et al., CVPR 2021. Its scripts take the network's own map of this size (spec 1.8); here every score is
    # at the image's size first, and is read off at the centres of these pixels.
    "synboost": ProtocolRules("first_ge", "pooled at 256x512", size=(256, 512)),
    "dicnet": ProtocolRules("nearest", "mean over images", per_image=True),  # Zhou et al., arXiv 2112.09908
}

FPR95: dict[Fpr95Convention, str] = {
    "first_ge": "FPR at the first recall >= 95 %",
    "nearest": "FPR at the recall nearest to 95 %",
    "smiyc": "FPR at the first recall >= 95 %",
}

OBSTACLE_SETS = ("smiyc_obstacle", "lost_and_found")
"""Data sets that SegmentMeIfYouCan judges by the rules of its obstacle track."""


@dataclass(frozen=True)
class Judging:
    """How scores are judged, and what is wanted besides the figures."""

    protocol: Protocol = "fishyscapes"
    fpr95: Fpr95Convention | None = None
    """None: the protocol's own."""
    exact: bool = False
    """Keep every score, whatever the size of the set."""
    components: Track | None = None
    """Component metrics by the rules of this track; None: under smiyc by the track of the set, else none."""
    threshold: float | None = None
    """Operating point in the units of the score; None: the weights' own, or that of the best pixel F1."""
    second_pass: bool = False
    """Make FPR95 exact where the set is too large to keep every score."""
    bootstrap: int = RESAMPLES
    """Resamples; 0: no intervals."""
    gallery: int = 0
    """Most pictures."""
    scores: Path | None = None
    """Folder for score files of the public benchmark, under smiyc."""

    def __post_init__(self) -> None:
        if self.scores is not None and self.protocol != "smiyc":
            raise ConfigError(f"score files belong to protocol smiyc, not to {self.protocol}")
        if min(self.bootstrap, self.gallery) < 0:
            raise ConfigError(f"bootstrap is {self.bootstrap} and gallery {self.gallery}: neither can be below 0")

    @property
    def rules(self) -> ProtocolRules:
        """What the protocol asks for."""
        return PROTOCOLS[self.protocol]

    @property
    def convention(self) -> Fpr95Convention:
        """How FPR95 is read off."""
        return self.fpr95 or self.rules.fpr95

    def track(self, chosen: EvaluationSet) -> Track | None:
        """Rules of the component metrics on one set; None: there are none."""
        if self.components is not None or self.protocol != "smiyc":
            return self.components
        return "obstacle" if chosen.dataset in OBSTACLE_SETS else "anomaly"


def score_at(score: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Score float32 [H, W] read off at the pixel centres of `size`, bilinearly; None leaves it as it is."""
    if size is None or score.shape == size:
        return score
    if not np.isfinite(score).all():  # interpolation would make NaN of infinity
        raise ValueError("scores are not finite; this protocol interpolates them")
    return cv2.resize(score, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)


def label_at(label: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Label uint8 [H, W] at `size`: the pixel under each centre, as Pillow's nearest takes it (spec 1.4)."""
    if size is None or label.shape == size:
        return label
    rows, columns = (
        ((np.arange(wanted) + 0.5) * own / wanted).astype(np.int64)
        for own, wanted in zip(label.shape, size, strict=True)
    )
    return label[rows[:, None], columns]


def mean_over_images(rows: Sequence[ImageRow]) -> tuple[dict[str, float | None], int]:
    """Means of "ap", "fpr95", "auroc" over the images that have both labels, and how many of them lack one.

    None where all do.
    """
    judged = [row for row in rows if row.ap is not None]
    values = {name: [getattr(row, name) for row in judged] for name in ("ap", "fpr95", "auroc")}
    return {k: float(np.mean(v)) if v else None for k, v in values.items()}, len(rows) - len(judged)
