"""The control: a network as plain as they come, under the budget of the chain it is compared with."""

from __future__ import annotations

from dataclasses import dataclass, field

from mgcda_core.config.chain import ConfigError
from mgcda_core.config.data import AnomalyMixConfig, AugmentConfig, DataConfig
from mgcda_core.config.evaluation import EvaluationSet
from mgcda_core.config.loop import LoopConfig


@dataclass(frozen=True)
class PlainTraining:
    """`mgcda train plain`: a U-net on the image and a teacher's softmax, with pasted objects."""

    data: DataConfig
    """Scenes, and the objects to paste."""
    teacher: str
    """ENet weights (.pth state dict of tensors) whose softmax the U-net sees beside the image."""
    sets: tuple[EvaluationSet, ...]
    """Where the trained network is measured."""
    mix: AnomalyMixConfig = field(default_factory=AnomalyMixConfig)
    """What is pasted, how often and how."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """`augment.size` is the size at which teacher and U-net work, also when they are measured."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        if not self.sets:
            raise ConfigError("sets is empty: name the labelled sets the plain U-net is to be measured on")
        if self.loop.validate_every or self.loop.pictures_every:
            raise ConfigError("the plain U-net is measured at the end alone: set loop.validate_every and "
                              "loop.pictures_every to 0")  # fmt: skip
