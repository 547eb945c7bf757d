"""Every dataclass and default of the package; a docstring stands under each field. Sizes are (height, width)."""

from mgcda_core.config.chain import (
    PROFILES,
    ConfigError,
    DissimilarityConfig,
    SegmentationConfig,
    SegmenterConfig,
    StudentConfig,
    SynthesisConfig,
)
from mgcda_core.config.control import PlainTraining
from mgcda_core.config.data import (
    AnomalyMixConfig,
    AugmentConfig,
    CalibrationConfig,
    DataConfig,
    PrepareConfig,
    VoidClassConfig,
)
from mgcda_core.config.evaluation import EvaluationSet, Fpr95Convention, Protocol, ScoreName
from mgcda_core.config.training import (
    CaclConfig,
    DissimilarityTraining,
    LadderConfig,
    LoopConfig,
    MdatConfig,
    OutlierConfig,
    SegmentationTraining,
    SynthesisTraining,
)

__all__ = [
    "PROFILES",
    "AnomalyMixConfig",
    "AugmentConfig",
    "CaclConfig",
    "CalibrationConfig",
    "ConfigError",
    "DataConfig",
    "DissimilarityConfig",
    "DissimilarityTraining",
    "EvaluationSet",
    "Fpr95Convention",
    "LadderConfig",
    "LoopConfig",
    "MdatConfig",
    "OutlierConfig",
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
    "VoidClassConfig",
]
