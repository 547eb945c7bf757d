"""Unsupervised domain adaptation of the segmentation network."""

from __future__ import annotations

from dataclasses import dataclass, field

from mgcda_core.config.chain import PROFILES, ConfigError, SegmenterConfig
from mgcda_core.config.data import AugmentConfig, DataConfig
from mgcda_core.config.loop import LoopConfig
from mgcda_core.config.perturbation import PerturbationConfig


@dataclass(frozen=True)
class AdaptationTraining:
    """`mgcda train adaptation`: from labelled source scenes to unlabelled target scenes."""

    source: DataConfig
    """Scenes with labels."""
    target: DataConfig
    """Scenes whose labels are not read, but those of their val split when the trained network is measured."""
    segmenter: SegmenterConfig = field(default_factory=lambda: PROFILES["lite"])
    """The chain whose segmentation network is trained."""
    initial: str | None = None
    """Weights file (or run folder) whose segmentation network is trained on; None starts from scratch. What it was
    trained on should not hold the target's labels."""
    perturbation: PerturbationConfig | None = field(default_factory=PerturbationConfig)
    """Pointwise feature perturbations; null trains on the source only."""
    tail: float = 0.05
    """Share of the target's labelled pixels below which a class belongs to the tail."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Its batch is half source and half target; all source with `perturbation: null`."""

    def __post_init__(self) -> None:
        if self.segmenter.segmentation.architecture == "huggingface":
            raise ConfigError("adaptation needs a network that says what its classifier reads: take another "
                              "segmenter.segmentation.architecture than huggingface")  # fmt: skip
        if self.target.rendered:
            raise ConfigError("target.rendered: drawn scenes are a source, the target is photographs")
        if self.perturbation and self.loop.batch % 2:
            raise ConfigError(f"loop.batch is {self.loop.batch}: it must be even, half source and half target")
        if not 0 <= self.tail <= 1:
            raise ConfigError(f"tail is {self.tail}: it is a share, 0 to 1")
        if self.loop.validate_every or self.loop.pictures_every:
            raise ConfigError("the target's labels choose no weights: set loop.validate_every and loop.pictures_every "
                              "to 0; the last weights are measured at the end")  # fmt: skip
