"""Every dataclass and default of the package; a docstring stands under each field. Sizes are (height, width)."""

from mgcda_core.config.adaptation import AdaptationTraining
from mgcda_core.config.chain import (
    PRIORS,
    PROFILES,
    ConfigError,
    DissimilarityConfig,
    SegmentationConfig,
    SegmenterConfig,
    StudentConfig,
    SynthesisConfig,
)
from mgcda_core.config.compare import CompareConfig
from mgcda_core.config.control import PlainTraining
from mgcda_core.config.data import (
    AnomalyMixConfig,
    AugmentConfig,
    CalibrationConfig,
    DataConfig,
    PrepareConfig,
    SyntheticUnknownConfig,
    VoidClassConfig,
)
from mgcda_core.config.dicnet import DicnetTraining
from mgcda_core.config.evaluation import EvaluationSet, Fpr95Convention, Protocol, ScoreName
from mgcda_core.config.loop import LoopConfig
from mgcda_core.config.perturbation import PerturbationConfig
from mgcda_core.config.training import (
    CaclConfig,
    DissimilarityTraining,
    LadderConfig,
    MdatConfig,
    OutlierConfig,
    SegmentationTraining,
    SynthesisTraining,
)
from mgcda_core.config.unknown import PebalTraining, SyntheticUnknownTraining

__all__ = [
    "PRIORS",
    "PROFILES",
    "AdaptationTraining",
    "AnomalyMixConfig",
    "AugmentConfig",
    "CaclConfig",
    "CalibrationConfig",
    "CompareConfig",
    "ConfigError",
    "DataConfig",
    "DicnetTraining",
    "DissimilarityConfig",
    "DissimilarityTraining",
    "EvaluationSet",
    "Fpr95Convention",
    "LadderConfig",
    "LoopConfig",
    "MdatConfig",
    "OutlierConfig",
    "PebalTraining",
    "PerturbationConfig",
    "PlainTraining",
    "PrepareConfig",
    "Protocol",
    "ScoreName",
    "SegmentationConfig",
    "SegmentationTraining",
    "SegmenterConfig",
    "StudentConfig",
    "SynthesisConfig",
    "SynthesisTraining",
    "SyntheticUnknownConfig",
    "SyntheticUnknownTraining",
    "VoidClassConfig",
]
