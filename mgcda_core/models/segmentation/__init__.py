"""Closed-set segmentation networks: normalised image -> class logits and a feature pyramid.

Each has `forward`, `features`, `logits_and_features` and `outputs`, which adds the map a DiCNet student learns, taken
before `distilled_norm`, a BatchNorm, or None. Those whose classifier can be trained alone (all but Hugging Face's) have
`embed` and `classify`, the two halves of `forward`, and name the submodule in `classifier`.
"""

from __future__ import annotations

from torch import nn

from mgcda_core.config import ConfigError, SegmentationConfig


def build_segmentation(config: SegmentationConfig, *, auxiliary: bool = True) -> nn.Module:
    """Network of `config`, randomly initialised, in training mode.

    `auxiliary` False leaves out the training-only head (`auxiliary_head.*`) that shipped weights do not hold.
    Raises ConfigError for an unknown architecture, a width or class number below 1, or a model of Hugging Face that
    does not fit.
    """
    if config.width < 1 or config.num_classes < 1:
        raise ConfigError(
            f"segmentation.width and segmentation.num_classes must be at least 1, not {config.width} and "
            f"{config.num_classes}"
        )
    # Imported here: only one of the networks is ever needed.
    if config.architecture == "ddrnet23_slim":
        from mgcda_core.models.segmentation.ddrnet import DDRNet23Slim

        return DDRNet23Slim(config.width, config.outputs, auxiliary=auxiliary)
    if config.architecture == "enet":
        from mgcda_core.models.segmentation.enet import ENet

        if config.unknown:
            raise ConfigError("segmentation.unknown needs another architecture than enet, whose last output is void")
        return ENet(config.width, config.num_classes)
    if config.architecture == "deeplabv3plus":
        from mgcda_core.models.segmentation.deeplabv3plus import DeepLabV3Plus

        return DeepLabV3Plus(config.width, config.outputs)
    if config.architecture == "huggingface":
        from mgcda_core.models.segmentation.huggingface import HuggingFaceSegmentation

        return HuggingFaceSegmentation(config)
    raise ConfigError(
        f"segmentation.architecture '{config.architecture}' is unknown; use ddrnet23_slim, enet, deeplabv3plus or "
        "huggingface"
    )
