"""`mgcda train segmentation`: the closed-set network of the lite chain, from scratch on several label spaces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import SegmentationTraining
from mgcda_core.data.sample import Scene
from mgcda_core.labels import IGNORE
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.training.loop import Objective, fit, start_run
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import load_scenes
from mgcda_core.weights.resolve import save_weights


class SegmentationObjective(Objective):
    """Cross entropy of the main and auxiliary logits, rare classes weighted up (ENet's rule, 1 / ln(1.1 + f))."""

    class_weights: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, class_weights: Tensor, auxiliary: float) -> None:
        super().__init__()
        self.trained, self.auxiliary = network, auxiliary
        self.register_buffer("class_weights", class_weights)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1) * 255)

    def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """image uint8 [B, 3, H, W], label int64 [B, H, W] train ids -> losses and pixel accuracy."""
        main, *others = self.trained.training_logits((image.float() - self.mean) / self.std)  # pyright: ignore[reportCallIssue]
        ce = F.cross_entropy(main.float(), label, self.class_weights, ignore_index=IGNORE)
        extra = sum(F.cross_entropy(o.float(), label, self.class_weights, ignore_index=IGNORE) for o in others)
        valid = label != IGNORE
        accuracy = ((main.detach().argmax(1) == label) & valid).sum() / valid.sum().clamp(min=1)
        return {"loss": ce + self.auxiliary * extra, "cross_entropy": ce, "accuracy": accuracy}


def train(config: SegmentationTraining, run: Path, resume: bool = False) -> None:
    """Train the segmentation network and write RUN/weights.safetensors (the chain's first part)."""
    start_run(run, config, resume=resume)
    torch.manual_seed(config.loop.seed)
    scenes = load_scenes(config.data, "train", config.teacher, config.teacher_confidence)
    network = build_segmentation(config.segmenter.segmentation)
    objective = SegmentationObjective(network, class_weights(scenes), config.auxiliary)
    samples = SceneSamples(scenes, config.augment, config.loop.seed)
    average = fit(objective, samples, config.loop, run, resume=resume)
    state = {f"segmentation.{k}": v for k, v in average.state_dict().items() if not k.startswith("auxiliary_head.")}
    save_weights(run / "weights.safetensors", state, config.segmenter, run.name, {"part": "segmentation"})
    held_out = load_scenes(config.data, "val", config.teacher, config.teacher_confidence)
    for name, iou in ((s[0].name.split("/")[0], mean_iou(average, s, config)) for s in held_out):
        print(f"{name} val: mIoU {iou:.4f} over the classes present", flush=True)


def class_weights(sets: list[list[Scene]]) -> Tensor:
    """float32 [19]: 1 / ln(1.1 + f), f the class's share of the labelled pixels (Paszke et al., 2016)."""
    counts = sum(np.bincount(s.label.ravel(), minlength=256)[:19] for scenes in sets for s in scenes)
    share = torch.from_numpy(np.asarray(counts, np.float64))
    return (1 / torch.log(1.1 + share / share.sum())).float()


@torch.inference_mode()
def mean_iou(network: nn.Module, scenes: list[Scene], config: SegmentationTraining) -> float:
    """Mean IoU over the train ids that occur in `scenes`, at their own resolution."""
    device = next(network.parameters()).device
    confusion = torch.zeros(19, 19, dtype=torch.int64, device=device)
    mean, std = torch.tensor([0.485, 0.456, 0.406], device=device), torch.tensor([0.229, 0.224, 0.225], device=device)
    for scene in scenes:
        image = (torch.from_numpy(scene.image).to(device) / 255 - mean) / std
        image = F.interpolate(image.permute(2, 0, 1)[None], config.segmenter.segmentation.size, mode="bilinear")
        predicted = network(image, size=scene.label.shape)[0].argmax(0).flatten()
        label = torch.from_numpy(scene.label).to(device).flatten().long()
        valid = label != IGNORE
        confusion += torch.bincount(label[valid] * 19 + predicted[valid], minlength=361).view(19, 19)
    intersection = confusion.diagonal().double()
    union = confusion.sum(0) + confusion.sum(1) - intersection
    return float((intersection / union)[confusion.sum(1) > 0].mean())
