"""The network of a configuration, whichever way it scores."""

from __future__ import annotations

from mgcda_core.config import SegmenterConfig
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.models.direct_segmenter import DirectSegmenter

Chain = AnomalySegmenter | DirectSegmenter


def build_chain(config: SegmenterConfig) -> Chain:
    """The whole chain, or the segmentation network that scores by itself; randomly initialised, in training mode."""
    return AnomalySegmenter(config) if config.score == "dissimilarity" else DirectSegmenter(config)
