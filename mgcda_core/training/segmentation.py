"""`mgcda train segmentation`: the closed-set network of the lite chain, from scratch on several label spaces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import SegmentationTraining
from mgcda_core.data.sample import Scene, Scenes
from mgcda_core.labels import IGNORE
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.training.loop import Objective, fit, start_run
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import load_scenes, scene_sets
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
    for held_out in scene_sets(config.data, "val"):
        iou = mean_iou(average, held_out, config.segmenter.segmentation.size)
        print(
            f"{held_out.name} val: mIoU {iou:.4f} over its own {sum(map(bool, held_out.classes))} classes", flush=True
        )


def class_weights(sets: list[list[Scene]]) -> Tensor:
    """float32 [19]: 1 / ln(1.1 + f), f the class's share of the labelled pixels (Paszke et al., 2016)."""
    counts = sum(np.bincount(s.label.ravel(), minlength=256)[:19] for scenes in sets for s in scenes)
    share = torch.from_numpy(np.asarray(counts, np.float64))
    return (1 / torch.log(1.1 + share / share.sum())).float()


@torch.inference_mode()
def mean_iou(network: nn.Module, scenes: Scenes, size: tuple[int, int]) -> float:
    """Mean IoU over the set's own classes, each the union of the train ids it covers, at the labels' resolution.

    A predicted train id that no class covers is wrong wherever it stands; void pixels are left out. `size` is the
    network's working size.
    """
    device = next(network.parameters()).device
    count = len(scenes.classes)
    class_of = torch.full((19,), count, device=device)
    for value, ids in enumerate(scenes.classes):
        class_of[list(ids)] = value
    confusion = torch.zeros(count, count + 1, dtype=torch.int64, device=device)
    mean, std = torch.tensor([0.485, 0.456, 0.406], device=device), torch.tensor([0.229, 0.224, 0.225], device=device)
    for scene in (scenes[i] for i in range(len(scenes))):
        image = (torch.from_numpy(scene.image).to(device) / 255 - mean) / std
        image = F.interpolate(image.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True)
        predicted = class_of[network(image, size=scene.label.shape)[0].argmax(0).flatten()]
        label = torch.from_numpy(scene.label).to(device).flatten().long()
        valid = label != IGNORE
        pairs = label[valid] * (count + 1) + predicted[valid]
        confusion += torch.bincount(pairs, minlength=count * (count + 1)).view(count, count + 1)
    intersection = confusion.diagonal().double()
    union = confusion.sum(1) + confusion[:, :count].sum(0) - intersection
    return float((intersection / union)[confusion.sum(1) > 0].mean())
