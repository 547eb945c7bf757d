"""`mgcda train segmentation`: the closed-set network at the head of the chain, on several label spaces at once.

A label is a set of Cityscapes train ids, of which the pixel is one. It trains the sum of their probabilities: a class
of its own is the case of one member, and ordinary cross entropy.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import AdaptationTraining, SegmentationTraining, SegmenterConfig
from mgcda_core.data.sample import Scenes
from mgcda_core.labels import IGNORE
from mgcda_core.models.loading import load_widened
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.training.loop import Objective, fit
from mgcda_core.training.outliers import OUTLIER, Outliers, flatness, known_row
from mgcda_core.training.run import is_first_process, start_run
from mgcda_core.training.samples import SceneSamples, SceneSet
from mgcda_core.training.scenes import label_sets, load_objects, load_scenes, scene_sets
from mgcda_core.weights.resolve import load_weights, save_weights

COUNTED = 500
"""Most scenes a set is counted on for the class weights, evenly spread."""


class SegmentationObjective(Objective):
    """`set_losses` of the main and auxiliary logits: weighted mean, or `hardest_mean` (config.loss)."""

    allowed: Tensor
    weights: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, table: Tensor, weights: Tensor, config: SegmentationTraining) -> None:
        """table: bool [V, 19] train ids each label may be; weights: float32 [V] of `label_weights`."""
        super().__init__()
        self.trained, self.config = network, config
        mean, std = input_range(config.segmenter.segmentation.normalise)
        # The last row is every class, weight 0: what 255 points to.
        self.register_buffer("allowed", torch.cat([table, torch.ones_like(table[:1])]))
        self.register_buffer("weights", torch.cat([weights, torch.zeros_like(weights[:1])]))
        self.register_buffer("mean", mean.view(1, 3, 1, 1) * 255)
        self.register_buffer("std", std.view(1, 3, 1, 1) * 255)

    def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """image uint8 [B, 3, H, W], label int64 [B, H, W] rows of the table or 255 -> losses and pixel accuracy."""
        outlier, label = label == OUTLIER, label.clamp(max=len(self.allowed) - 1)
        allowed = self.allowed[label].permute(0, 3, 1, 2)
        main, *others = self.trained.training_logits((image.float() - self.mean) / self.std)  # pyright: ignore[reportCallIssue]
        loss = self._mean(set_losses(main, allowed), label)
        extra = sum(self._mean(set_losses(o, allowed), label) for o in others)
        counted = label < len(self.allowed) - 1
        right = allowed.gather(1, main.detach().argmax(1, keepdim=True))[:, 0]
        accuracy = (right & counted).sum() / counted.sum().clamp(min=1)
        losses = {"cross_entropy": loss, "accuracy": accuracy}
        total = loss + self.config.auxiliary * extra
        if self.config.outliers is not None:
            found = flatness(main.permute(0, 2, 3, 1)[outlier])
            losses["outlier"] = found.sum() / max(1, found.numel())
            total = total + self.config.outliers.weight * losses["outlier"]
        return {"loss": total, **losses}

    def _mean(self, losses: Tensor, label: Tensor) -> Tensor:
        if self.config.loss == "ohem":
            counted = losses[label < len(self.allowed) - 1]
            return hardest_mean(counted, self.config.ohem_threshold, self.config.ohem_least)
        weights = self.weights[label]
        return (weights * losses).sum() / weights.sum().clamp(min=1e-6)


def set_losses(logits: Tensor, allowed: Tensor) -> Tensor:
    """-log of the sum of the allowed classes' probabilities at every pixel, float32 [B, H, W] >= 0.

    logits [B, C, H, W], allowed bool [B, C, H, W] with at least one class a pixel. Where all are allowed the loss and
    its gradient are 0; within the allowed classes the gradient leaves the ratios of their probabilities as they are.
    """
    # One image at a time: on a CPU the temporaries of a whole batch cost more than the arithmetic.
    images = zip(logits.split(1), allowed.split(1), strict=True)
    return torch.cat([_set_losses(one.float(), members) for one, members in images])


def _set_losses(logits: Tensor, allowed: Tensor) -> Tensor:
    """Cross entropy of one member among all classes, less that among the members: two fused kernels."""
    member = allowed.int().argmax(1)
    among = logits.masked_fill(~allowed, -math.inf)
    return F.cross_entropy(logits, member, reduction="none") - F.cross_entropy(among, member, reduction="none")


def hardest_mean(losses: Tensor, threshold: float, least: float) -> Tensor:
    """Mean of the losses [n] of the pixels whose label has a probability below `threshold`, 0 without any pixel.

    At least the share `least` of the pixels counts, the hardest ones. Source: online hard example mining (Shrivastava
    et al., CVPR 2016), with the probability threshold that is usual in segmentation.
    """
    if losses.numel() == 0:
        return losses.sum()
    smallest = losses.detach().topk(math.ceil(least * losses.numel()), sorted=False).values.min()
    kept = losses >= smallest.clamp(max=-math.log(threshold))
    return (losses * kept).sum() / kept.sum()


def train(config: SegmentationTraining, run: Path, resume: bool = False) -> None:
    """Train the segmentation network and write RUN/weights.safetensors (the chain's first part)."""
    start_run(run, config, resume=resume)
    torch.manual_seed(config.loop.seed)
    scenes = load_scenes(config.data, "train", config.teacher, config.teacher_confidence, config.coarse)
    table = label_sets(config.data, "train")
    paste = None
    if config.outliers is not None:
        objects = load_objects(config.data, "train")
        paste = Outliers(scenes, objects, config.outliers.mix, known_row=len(table))
        table = np.concatenate([table, known_row(table)])
    segmenter, network = start_network(config)
    weights = label_weights(class_weights(scenes, table), table)
    objective = SegmentationObjective(network, torch.from_numpy(table), weights, config)
    samples = SceneSamples(scenes, config.augment, config.loop.seed, paste)
    held_out, own = scene_sets(config.data, "val"), config.segmenter.segmentation

    def validate(network: nn.Module) -> dict[str, float]:
        found = {scenes.name: mean_iou(network, scenes, own.size, own.normalise) for scenes in held_out}
        mean = sum(found.values()) / len(found)
        return {"loss": 1 - mean, "ap": mean, **found}  # the loop's names for what it lowers and what it chooses by

    trained = fit(objective, samples, config.loop, run, resume=resume, validate=validate if held_out else None)
    if not is_first_process():
        return
    state = {f"segmentation.{k}": v for k, v in trained.state_dict().items() if not k.startswith("auxiliary_head.")}
    save_weights(run / "weights.safetensors", state, segmenter, run.name, {"part": "segmentation"})
    for scenes in held_out:
        iou = mean_iou(trained, scenes, own.size, own.normalise)
        print(f"{scenes.name} val: mIoU {iou:.4f} over its own {sum(map(bool, scenes.classes))} classes", flush=True)


def start_network(config: SegmentationTraining | AdaptationTraining) -> tuple[SegmenterConfig, nn.Module]:
    """The network to train and the chain's configuration for the weights file.

    It starts from `initial` (an auxiliary head, which weights files lack, from scratch), a Hugging Face model without
    `initial` from the weights at its source, any other network at random.
    """
    segmentation = config.segmenter.segmentation
    loaded = load_weights(config.initial) if config.initial else None
    if segmentation.architecture == "huggingface":
        from mgcda_core.models.segmentation.huggingface import training_configuration

        own = loaded.config.segmentation.huggingface if loaded else ""
        own = own or training_configuration(segmentation.source, segmentation.num_classes)
        segmentation = dataclasses.replace(segmentation, huggingface=own)
    network = build_segmentation(segmentation)
    if loaded:
        state = {k: v for k, v in network.state_dict().items() if k.startswith("auxiliary_head.")}
        state |= {k.removeprefix("segmentation."): v for k, v in loaded.state.items() if k.startswith("segmentation.")}
        load_widened(network, state, str(config.initial))
    elif segmentation.architecture == "huggingface":
        network.load_pretrained(segmentation.source)  # pyright: ignore[reportCallIssue]
    return dataclasses.replace(config.segmenter, segmentation=segmentation), network


def class_weights(sets: Sequence[SceneSet], table: np.ndarray) -> Tensor:
    """float32 [19]: 1 / ln(1.1 + f), f the class's share of the labelled pixels (ENet: Paszke et al., 2016).

    A pixel of a label that covers k classes counts 1 / k for each of them.
    """
    counts = np.zeros(len(table), np.int64)
    for scenes in sets:
        for index in range(0, len(scenes), max(1, len(scenes) // COUNTED)):
            counts += np.bincount(scenes[index].label.ravel(), minlength=256)[: len(table)]
    share = torch.from_numpy(counts @ (table / table.sum(1, keepdims=True)))
    return (1 / torch.log(1.1 + share / share.sum())).float()


def label_weights(weights: Tensor, table: np.ndarray) -> Tensor:
    """float32 [V]: the weight of each label, the mean of its classes' weights [19]."""
    members = torch.from_numpy(table).float()
    return members @ weights / members.sum(1)


def input_range(normalise: Literal["imagenet", "unit"]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [3] a network expects to be taken off an image in [0, 1]."""
    if normalise == "unit":
        return torch.zeros(3), torch.ones(3)
    return torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


class ClassIou(NamedTuple):
    """What `class_iou` finds, both float64 [classes]."""

    iou: np.ndarray
    """Intersection over union, 0 to 1; NaN for a class that is neither labelled nor predicted."""
    share: np.ndarray
    """Of the labelled pixels; 0 for a class that is not there."""


@torch.inference_mode()
def class_iou(
    network: nn.Module, scenes: Scenes, size: tuple[int, int], normalise: Literal["imagenet", "unit"] = "imagenet"
) -> ClassIou:
    """IoU of each of the set's own classes, the union of the train ids it covers, at the labels' resolution.

    A predicted train id that no class covers is wrong wherever it stands; void pixels are left out. `size` and
    `normalise` are the network's working size and input range.
    """
    device = next(network.parameters()).device
    count = len(scenes.classes)
    class_of = torch.full((19,), count, device=device)
    for value, ids in enumerate(scenes.classes):
        class_of[list(ids)] = value
    confusion = torch.zeros(count, count + 1, dtype=torch.int64, device=device)
    mean, std = (x.to(device) for x in input_range(normalise))
    for scene in (scenes[i] for i in range(len(scenes))):
        image = (torch.from_numpy(scene.image).to(device) / 255 - mean) / std
        image = F.interpolate(image.permute(2, 0, 1)[None], size, mode="bilinear", antialias=True)
        predicted = class_of[network(image, size=scene.label.shape)[0, : len(class_of)].argmax(0).flatten()]
        label = torch.from_numpy(scene.label).to(device).flatten().long()
        valid = label != IGNORE
        pairs = label[valid] * (count + 1) + predicted[valid]
        confusion += torch.bincount(pairs, minlength=count * (count + 1)).view(count, count + 1)
    intersection, labelled = confusion.diagonal().double(), confusion.sum(1).double()
    union = labelled + confusion[:, :count].sum(0) - intersection
    return ClassIou((intersection / union).cpu().numpy(), (labelled / labelled.sum()).cpu().numpy())


def mean_iou(
    network: nn.Module, scenes: Scenes, size: tuple[int, int], normalise: Literal["imagenet", "unit"] = "imagenet"
) -> float:
    """Mean of `class_iou` over the classes that are labelled in the set."""
    found = class_iou(network, scenes, size, normalise)
    return float(found.iou[found.share > 0].mean())
