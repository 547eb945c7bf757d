"""A trained segmentation network that learns to score by itself: where it starts, and the file it ends in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from mgcda_core.config import ConfigError, DataConfig, SegmenterConfig
from mgcda_core.models.loading import load_widened
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.training.scenes import scene_sets
from mgcda_core.training.segmentation import mean_iou
from mgcda_core.weights.resolve import load_weights, save_weights


def load_network(weights: str, score: Literal["msp", "unknown", "energy"]) -> tuple[SegmenterConfig, nn.Module]:
    """The segmentation network of a weights file, and the configuration of the file it is to leave.

    `unknown` and `energy` give it one output more, at random. Raises ConfigError for a network that cannot have one.
    """
    loaded = load_weights(weights)
    wider = score != "msp"
    own = loaded.config.segmentation
    if wider and own.architecture == "huggingface":
        raise ConfigError(f"weights {weights} hold a network of Hugging Face, whose classifier is not known, so that "
                          "it cannot have one output more: take another segmentation.architecture")  # fmt: skip
    segmentation = dataclasses.replace(own, unknown=wider)
    network = build_segmentation(segmentation, auxiliary=False)
    load_widened(network, segmentation_state(loaded.state), weights)
    return SegmenterConfig(score, segmentation, scaling=loaded.config.scaling), network


def segmentation_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What of a chain's tensors is its segmentation network's, under the network's own names."""
    return {k.removeprefix("segmentation."): v for k, v in state.items() if k.startswith("segmentation.")}


def allowed_outputs(table: Tensor, outputs: int) -> Tensor:
    """bool [V + 1, outputs]: the outputs each label may be, of a table of classes [V, C]; last a row of all of them.

    That row stands for void and outliers, which no cross entropy counts.
    """
    rows = torch.zeros(len(table) + 1, outputs, dtype=torch.bool)
    rows[:-1, : table.shape[1]] = table
    rows[-1] = True
    return rows


def save_network(network: nn.Module, segmenter: SegmenterConfig, data: DataConfig, run: Path) -> None:
    """Write RUN/weights.safetensors and print what is left of the closed-set accuracy on the val splits."""
    state = {f"segmentation.{k}": v for k, v in network.state_dict().items()}
    save_weights(run / "weights.safetensors", state, segmenter, run.name, {"part": "chain"})
    own = segmenter.segmentation
    for scenes in scene_sets(data, "val"):
        iou = mean_iou(network, scenes, own.size, own.normalise)
        print(f"{scenes.name} val: mIoU {iou:.4f} over its own {sum(map(bool, scenes.classes))} classes", flush=True)
