"""Trainings that teach a segmentation network to score by itself: PEBAL and synthetic-unknown."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mgcda_core.config.chain import ConfigError
from mgcda_core.config.data import AnomalyMixConfig, AugmentConfig, DataConfig, SyntheticUnknownConfig
from mgcda_core.config.loop import LoopConfig


@dataclass(frozen=True)
class PebalTraining:
    """`mgcda train pebal`: abstention and energy margins on pasted outliers (Tian et al., ECCV 2022; spec 7).

    The classifier alone is trained; the weights' score is the free energy.
    """

    data: DataConfig
    """Scenes, and the objects to paste."""
    weights: str
    """Weights file (or run folder) with the closed-set segmentation network it starts from."""
    mix: AnomalyMixConfig = field(default_factory=AnomalyMixConfig)
    """What is pasted, how often and how."""
    outlier: float = 0.1
    """Weight of the abstention of outlier pixels beside that of known ones."""
    energy: float = 0.1
    """Weight of the energy's loss in the total."""
    sparsity: float = 5e-4
    """Weight of the norm of all outlier pixels' energies, within the energy's loss."""
    smoothness: float = 3e-6
    """Weight of half the sum of the energy's squared differences between neighbours, within the energy's loss."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        _unjudged(self.loop)


@dataclass(frozen=True)
class SyntheticUnknownTraining:
    """`mgcda train synthetic_unknown`: unknown samples made of known ones (Lu et al., arXiv 2111.14343; spec 7).

    Reconstruction: only the paper's abstract and introduction were at hand, so every number here is a choice.
    """

    data: DataConfig
    """Scenes; objects are not needed."""
    weights: str
    """Weights file (or run folder) with the closed-set segmentation network that is trained on, as a whole."""
    unknown: SyntheticUnknownConfig = field(default_factory=SyntheticUnknownConfig)
    """How unknown samples are made; each step makes its own, by the network as it is."""
    target: Literal["class", "uniform"] = "class"
    """What unknown pixels are to be: a class of their own (the weights' score is its probability), or of all classes
    equally (1 - the largest probability)."""
    weight: float = 0.5
    """Weight of the unknown pixels' loss beside the known ones'."""
    boundary: float = 2.0
    """Weight of a known pixel at the boundary to the unknown; any other counts 1."""
    margin: float = 0.2
    """A known pixel is at the boundary where its two likeliest classes' probabilities differ by less than this."""
    border: int = 3
    """A known pixel is at the boundary too if an unknown one lies within so many pixels, along rows and columns."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if self.border < 0 or self.boundary <= 0:
            raise ConfigError("border must be 0 or more pixels and boundary a weight above 0")
        _unjudged(self.loop)


def _unjudged(loop: LoopConfig) -> None:
    if loop.validate_every or loop.pictures_every:
        raise ConfigError("the last weights are kept and no pictures drawn: set loop.validate_every and "
                          "loop.pictures_every to 0")  # fmt: skip
