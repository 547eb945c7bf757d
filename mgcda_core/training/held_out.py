"""Judging the dissimilarity network on held-out cached composites: figures, threshold, sample pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn

from mgcda_core.evaluation.pixel_metrics import PixelMetrics, exact
from mgcda_core.inference.draw import colours_of, contact_sheet
from mgcda_core.labels import ANOMALY, IGNORE
from mgcda_core.models.dissimilarity import DissimilarityNet
from mgcda_core.training.cache import CachedDomain, network_inputs


@torch.inference_mode()
def validate(network: nn.Module, held_out: Sequence[CachedDomain], weights: Tensor, fabric: Fabric) -> dict[str, float]:
    """ "loss" (weighted cross entropy), "ap" and "fpr95" over all held-out samples, shared out over the processes."""
    metrics, weights = PixelMetrics("logits"), weights.cpu()
    sums = torch.zeros(2, dtype=torch.float64)
    for logits, maps in _outputs(network, held_out, fabric.global_rank, fabric.world_size):
        label = maps["label"]
        metrics.update((logits[1] - logits[0]).numpy(), label.numpy())
        mass = weights[label.clamp(max=1).long()].mul(label != IGNORE).sum()
        nll = F.cross_entropy(logits[None], label[None].long(), weights, ignore_index=IGNORE, reduction="sum")
        sums += torch.stack([nll, mass]).double()
    if fabric.world_size > 1:
        counts = torch.from_numpy(np.stack([metrics.positives, metrics.negatives])).to(fabric.device)
        counts = fabric.all_reduce(counts, reduce_op="sum")
        metrics.positives, metrics.negatives = counts.cpu().numpy()  # pyright: ignore[reportAttributeAccessIssue]
        sums = fabric.all_reduce(sums.to(fabric.device), reduce_op="sum").cpu()  # pyright: ignore
    scores = metrics.compute()
    return {"loss": float(sums[0] / sums[1]), "ap": scores["ap"], "fpr95": scores["fpr95"]}


@dataclass(frozen=True)
class ScorePoint:
    """How the chain's score is made and read, and what that gives on the held-out samples."""

    entropy_weight: float
    threshold: float
    """The score of the best pixel F1."""
    ap: float
    fpr95: float


def operating_points(
    network: nn.Module, held_out: Sequence[CachedDomain], entropy_weights: Sequence[float]
) -> list[ScorePoint]:
    """For each w, the score (1 - w) * probability + w * entropy on the held-out samples (every second row and column).

    The network runs once.
    """
    outputs = []
    for logits, maps in _outputs(network, held_out):
        parts = torch.sigmoid(logits[1] - logits[0]), maps["prior"][0].float(), maps["label"]
        outputs.append([part.numpy()[::2, ::2] for part in parts])
    probability, entropy, label = (np.stack(part) for part in zip(*outputs, strict=True))
    found = []
    for weight in entropy_weights:
        score = (1 - weight) * probability + weight * entropy
        figures = exact(score, label)
        found.append(ScorePoint(weight, best_f1_threshold(score, label), figures["ap"], figures["fpr95"]))
    return found


def best_f1_threshold(score: np.ndarray, label: np.ndarray) -> float:
    """The score at and above which calling a pixel anomalous gives the best pixel F1; both arrays of one shape."""
    counted = label != IGNORE
    score, positive = score[counted], label[counted] == ANOMALY
    order = np.argsort(-score)
    tp = np.cumsum(positive[order])
    f1 = 2 * tp / (np.arange(1, len(order) + 1) + positive.sum())
    return float(score[order[int(f1.argmax())]])


def write_picture(network: nn.Module, caches: Sequence[CachedDomain], path: Path, count: int = 4) -> None:
    """PNG: image, re-synthesis, label (red anomaly, black ignored) and score of the first samples of each cache."""
    tiles = []
    for cache in caches:
        for index in range(min(count, len(cache))):
            maps = cache[index]
            logits = _logits(network, maps)
            score = torch.sigmoid(logits[1] - logits[0]).numpy()
            image, synthesis = (maps[k].permute(1, 2, 0).numpy() for k in ("image", "synthesis"))
            detail = image.shape[0] // maps["label"].shape[0]
            label = maps["label"].numpy().repeat(detail, 0).repeat(detail, 1)
            painted = image.copy()
            painted[label == ANOMALY], painted[label == IGNORE] = (235, 30, 40), 0
            tiles += [image, synthesis, painted, colours_of(score)]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), cv2.cvtColor(contact_sheet(tiles, 4, 320), cv2.COLOR_RGB2BGR))


def _outputs(
    network: nn.Module, caches: Sequence[CachedDomain], rank: int = 0, world: int = 1
) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
    """(logits float32 [2, h, w] on the CPU, cached maps) of every `world`-th sample."""
    for cache in caches:
        for index in range(rank, len(cache), world):
            maps = cache[index]
            yield _logits(network, maps), maps


@torch.inference_mode()
def _logits(network: nn.Module, maps: dict[str, Tensor]) -> Tensor:
    assert isinstance(network, DissimilarityNet)
    device = next(network.parameters()).device
    batch = {k: v[None].to(device) for k, v in maps.items()}
    return (
        network(*network_inputs(network, **{k: batch[k] for k in ("image", "synthesis", "semantic", "prior")}))[0]
        .float()
        .cpu()
    )
