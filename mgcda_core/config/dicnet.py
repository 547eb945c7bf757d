"""DiCNet: a student distilled from the segmentation network."""

from __future__ import annotations

from dataclasses import dataclass, field

from mgcda_core.config.chain import ConfigError, StudentConfig
from mgcda_core.config.data import AugmentConfig, DataConfig
from mgcda_core.config.loop import LoopConfig


@dataclass(frozen=True)
class DicnetTraining:
    """`mgcda train dicnet`: on road scenes as they are; neither labels nor `data.objects` are used."""

    data: DataConfig
    weights: str
    """Weights file (or run folder) with the teacher: a segmentation network, alone or with the chain's others."""
    student: StudentConfig = field(default_factory=StudentConfig)
    """The network that is trained."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Crop, flip and photometry; whatever its size, teacher and student see the teacher's working size."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """As published: Adam, a constant 1e-4, weight decay 1e-5, 16 images a step, 150 epochs."""

    def __post_init__(self) -> None:
        if self.loop.validate_every or self.loop.pictures_every:
            raise ConfigError("the student is not validated while it trains: set loop.validate_every and "
                              "loop.pictures_every to 0; mgcda eval --score dicnet measures it")  # fmt: skip
