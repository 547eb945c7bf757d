"""`mgcda train synthetic_unknown`: a segmentation network learns what lies just outside the scenes it knows.

Each step makes its own unknown samples, by the network as it is, of one region of each scene. Reconstruction of Lu et
al., arXiv 2111.14343: see mgcda_core.methods.synthetic_unknown.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mgcda_core.config import SegmentationConfig, SyntheticUnknownConfig, SyntheticUnknownTraining
from mgcda_core.data.unknown_region import draw_region
from mgcda_core.methods.synthetic_unknown import boundary, evaluating, masked_gradient_update, softmax_confidence
from mgcda_core.training.loop import Objective, fit
from mgcda_core.training.outliers import OUTLIER, flatness
from mgcda_core.training.run import is_first_process, start_run
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import label_sets, load_scenes
from mgcda_core.training.segmentation import class_weights, input_range, label_weights, set_losses
from mgcda_core.training.widened import allowed_outputs, load_network, save_network


class UnknownRegion:
    """Labels one region of a crop OUTLIER; the image stays as it is until the objective changes it there."""

    def __init__(self, config: SyntheticUnknownConfig) -> None:
        self.config = config

    def __call__(self, image: np.ndarray, label: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Image uint8 [H, W, 3] and label uint8 [H, W] of a crop -> the same image and the label with its region."""
        return image, np.where(draw_region(label, self.config, rng), OUTLIER, label).astype(np.uint8)


class SyntheticUnknownObjective(Objective):
    """Weighted mean of the known pixels' cross entropy, more at the boundary, and the unknown pixels' loss."""

    allowed: Tensor
    weights: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        table: Tensor,
        weights: Tensor,
        segmentation: SegmentationConfig,
        config: SyntheticUnknownTraining,
    ) -> None:
        """table: bool [V, 19] train ids each label may be; weights: float32 [V] of `label_weights`."""
        super().__init__()
        self.trained, self.config, self.classes = network, config, segmentation.num_classes
        mean, std = input_range(segmentation.normalise)
        self.register_buffer("allowed", allowed_outputs(table, segmentation.outputs))
        self.register_buffer("weights", torch.cat([weights, torch.zeros_like(weights[:1])]))
        self.register_buffer("mean", mean.view(1, 3, 1, 1) * 255)
        self.register_buffer("std", std.view(1, 3, 1, 1) * 255)

    def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """image uint8 [B, 3, H, W], label int64 [B, H, W] as `UnknownRegion` leaves it -> the losses."""
        unknown = label == OUTLIER
        with evaluating(self.trained):
            image = masked_gradient_update(self.confidence, image, unknown, self.config.unknown)
        logits = self.logits(image.float())
        label = label.clamp(max=len(self.allowed) - 1)
        losses = set_losses(logits, self.allowed[label].permute(0, 3, 1, 2))
        at_boundary = boundary(logits[:, : self.classes], unknown, self.config.margin, self.config.border)
        weights = self.weights[label] * torch.where(at_boundary, self.config.boundary, 1.0)
        known = (weights * losses).sum() / weights.sum().clamp(min=1e-6)
        found = self._unknown_losses(logits.permute(0, 2, 3, 1)[unknown].float())
        apart = found.sum() / max(1, found.numel())
        return {"loss": known + self.config.weight * apart, "cross_entropy": known, "unknown": apart}

    def logits(self, image: Tensor) -> Tensor:
        """Of RGB float32 [B, 3, H, W] in 0..255, at its size: the classes first, then, if there is one, the unknown."""
        return self.trained((image - self.mean) / self.std).float()

    def confidence(self, image: Tensor) -> Tensor:
        """Largest probability of a known class among the known ones: what the masked gradient update lowers."""
        return softmax_confidence(self.logits(image)[:, : self.classes])

    def _unknown_losses(self, logits: Tensor) -> Tensor:
        """Of unknown pixels' logits [n, C]: the cross entropy of the last output, or the distance from uniform."""
        if self.config.target == "uniform":
            return flatness(logits)
        return torch.logsumexp(logits, 1) - logits[:, -1]


def train(config: SyntheticUnknownTraining, run: Path, resume: bool = False) -> None:
    """Train the network on and write RUN/weights.safetensors, a segmentation network that scores by itself."""
    start_run(run, config, resume=resume)
    torch.manual_seed(config.loop.seed)
    segmenter, network = load_network(config.weights, "unknown" if config.target == "class" else "msp")
    scenes = load_scenes(config.data, "train")
    table = label_sets(config.data, "train")
    weights = label_weights(class_weights(scenes, table), table)
    objective = SyntheticUnknownObjective(network, torch.from_numpy(table), weights, segmenter.segmentation, config)
    samples = SceneSamples(scenes, config.augment, config.loop.seed, UnknownRegion(config.unknown))
    trained = fit(objective, samples, config.loop, run, resume=resume)
    if is_first_process():
        save_network(trained, segmenter, config.data, run)
