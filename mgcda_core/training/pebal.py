"""`mgcda train pebal`: the classifier of a trained segmentation network learns to abstain on pasted outliers.

Source: Tian et al., Pixel-wise Energy-biased Abstention Learning, ECCV 2022, as spec 7 states it. The published budget
is Adam at 1e-5 for 40 epochs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mgcda_core.config import PebalTraining, SegmentationConfig
from mgcda_core.methods.pebal import pebal_loss
from mgcda_core.training.loop import Objective, fit
from mgcda_core.training.outliers import OUTLIER, Outliers, known_row
from mgcda_core.training.run import is_first_process, start_run
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import label_sets, load_objects, load_scenes
from mgcda_core.training.segmentation import input_range, set_losses
from mgcda_core.training.widened import allowed_outputs, load_network, save_network


class PebalObjective(Objective):
    """`pebal_loss` of a batch; all of the network but its classifier stays frozen, in evaluation mode."""

    allowed: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self, network: nn.Module, table: Tensor, segmentation: SegmentationConfig, config: PebalTraining
    ) -> None:
        """network: with `embed`, `classify` and `classifier`; table: bool [V, 19] train ids each label may be."""
        super().__init__()
        self.network, self.config = network.requires_grad_(False), config
        self.trained = network.get_submodule(str(network.classifier)).requires_grad_(True)
        mean, std = input_range(segmentation.normalise)
        self.register_buffer("allowed", allowed_outputs(table, segmentation.outputs))
        self.register_buffer("mean", mean.view(1, 3, 1, 1) * 255)
        self.register_buffer("std", std.view(1, 3, 1, 1) * 255)

    def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """image uint8 [B, 3, H, W], label int64 [B, H, W] as `Outliers` leaves it -> the losses."""
        with torch.no_grad():
            embedding = self.network.embed((image.float() - self.mean) / self.std)  # pyright: ignore[reportCallIssue]
        logits = self.network.classify(embedding, image.shape[-2:])  # pyright: ignore[reportCallIssue]
        void = len(self.allowed) - 1
        known = label < void
        likelihood = -set_losses(logits, self.allowed[label.clamp(max=void)].permute(0, 3, 1, 2))
        loss, log = pebal_loss(logits, likelihood, known, label == OUTLIER, self.config)
        return {"loss": loss, **log}


def train(config: PebalTraining, run: Path, resume: bool = False) -> None:
    """Train the classifier and write RUN/weights.safetensors, a segmentation network whose score is its energy."""
    start_run(run, config, resume=resume)
    torch.manual_seed(config.loop.seed)
    segmenter, network = load_network(config.weights, "energy")
    scenes = load_scenes(config.data, "train")
    table = label_sets(config.data, "train")
    paste = Outliers(scenes, load_objects(config.data, "train"), config.mix, known_row=len(table))
    table = torch.from_numpy(np.concatenate([table, known_row(table)]))
    objective = PebalObjective(network, table, segmenter.segmentation, config)
    samples = SceneSamples(scenes, config.augment, config.loop.seed, paste)
    trained = fit(objective, samples, config.loop, run, resume=resume)
    if is_first_process():
        objective.trained.load_state_dict(trained.state_dict())  # the moving average, into the network it belongs to
        save_network(network.eval(), segmenter, config.data, run)
