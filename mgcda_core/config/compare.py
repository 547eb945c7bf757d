"""`mgcda compare`: the sibling methods beside the chain, under one budget."""

from __future__ import annotations

from dataclasses import dataclass

from mgcda_core.config.chain import ConfigError
from mgcda_core.config.dicnet import DicnetTraining
from mgcda_core.config.evaluation import EvaluationSet
from mgcda_core.config.training import DissimilarityTraining, SegmentationTraining
from mgcda_core.config.unknown import PebalTraining, SyntheticUnknownTraining


@dataclass(frozen=True)
class CompareConfig:
    """`mgcda compare`: several methods from one segmentation network, under one budget, on the same sets."""

    weights: str
    """Weights file (or run folder) whose segmentation network all methods start from; the same as `chain.weights`'."""
    sets: tuple[EvaluationSet, ...]
    """Where every method is measured."""
    methods: tuple[str, ...] = ()
    """Names of the methods to train; empty = all whose block is given. Scores of the untrained network are always
    measured."""
    seeds: tuple[int, ...] = (0, 1)
    images: int = 4000
    """Training images of each method: its steps are as many as its own `loop.batch` makes of them."""
    outlier_exposure: SegmentationTraining | None = None
    """Methods outlier_exposure and, with its `outliers` taken away, fine_tuning: what more steps alone change."""
    pebal: PebalTraining | None = None
    """Method pebal."""
    synthetic_unknown: SyntheticUnknownTraining | None = None
    """Method synthetic_unknown."""
    dicnet: DicnetTraining | None = None
    """Method dicnet."""
    chain: DissimilarityTraining | None = None
    """The comparing network with all its losses: methods mix (none), mgcda (mdat, cacl), perturbation (perturbation,
    cacl) and mdat_perturbation (all three)."""
    unknown_domain: str | None = None
    """Cache of domain U: method mgcda_unknown is mgcda with it beside V and A."""
    distilled: DissimilarityTraining | None = None
    """Method mgcda_dicnet: mdat and cacl on caches whose prior has the error of a student (`weights` is the
    frozen.safetensors of a mgcda train dicnet)."""

    def __post_init__(self) -> None:
        if self.images < 1 or not self.seeds:
            raise ConfigError("compare needs images of 1 or more and at least one of seeds")
        if not self.sets:
            raise ConfigError("sets names nothing to measure on: see config/development_sets.yaml")
