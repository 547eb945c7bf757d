"""`mgcda train dissimilarity`: the comparing network on AnomalyMix composites; the rest of the chain is frozen.

First generation: one domain and cross entropy (the ladder's Baseline A); MDAT and CACL join in part 2.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_core.config import DissimilarityTraining, SegmenterConfig
from mgcda_core.evaluation.pixel_metrics import exact
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.models.loading import load_strict
from mgcda_core.training.checkpoint import weights_file
from mgcda_core.training.loop import Objective, fit, start_run
from mgcda_core.training.samples import CompositeSamples
from mgcda_core.training.scenes import load_objects, load_scenes
from mgcda_core.weights.resolve import load_weights, save_weights

FROZEN = ("segmentation", "generator", "style_encoder")
VALIDATION_SEED = 7_000_000


class DissimilarityObjective(Objective):
    """Class-weighted cross entropy of the two-class logits, label 255 ignored (spec 2.3, 4.6)."""

    class_weights: Tensor

    def __init__(self, chain: AnomalySegmenter, class_weights: Tensor) -> None:
        super().__init__()
        self.chain = chain.requires_grad_(False)
        self.trained = chain.dissimilarity.requires_grad_(True)
        self.register_buffer("class_weights", class_weights)

    def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """image uint8 [B, 3, H, W], label int64 [B, H, W] in {0, 1, 255} -> loss, recall and false alarm rate."""
        with torch.no_grad():
            stages = self.chain.stages(image)
        logits = self.chain.compare(stages).float()
        label = F.interpolate(label[:, None].float(), logits.shape[-2:], mode="nearest-exact")[:, 0].long()
        loss = F.cross_entropy(logits, label, self.class_weights, ignore_index=IGNORE)
        found = logits.detach().argmax(1) == ANOMALY
        recall = (found & (label == ANOMALY)).sum() / (label == ANOMALY).sum().clamp(min=1)
        alarm = (found & (label == NORMAL)).sum() / (label == NORMAL).sum().clamp(min=1)
        return {"loss": loss, "recall": recall, "false_alarm": alarm}


def train(config: DissimilarityTraining, run: Path, resume: bool = False) -> None:
    """Train the dissimilarity network; writes RUN/weights.safetensors, the whole chain with its threshold.

    The file holds float16, which is what ships; the figures it is chosen by were measured before the rounding.
    """
    start_run(run, config, resume=resume)
    torch.manual_seed(config.loop.seed)
    loaded = load_weights(weights_file(config.weights))
    chain = AnomalySegmenter(scaled(config.segmenter, config.working_scale))
    frozen = {k: v for k, v in loaded.state.items() if k.split(".")[0] in FROZEN}
    for part in FROZEN:
        state = {k.removeprefix(f"{part}."): v for k, v in frozen.items() if k.startswith(f"{part}.")}
        load_strict(getattr(chain, part), state, str(config.weights))
    scenes, objects = load_scenes(config.data, "train"), load_objects(config.data, "train")
    samples = CompositeSamples(scenes, objects, config.augment, config.mix, config.loop.seed)
    average = fit(DissimilarityObjective(chain, class_weights(samples)), samples, config.loop, run, resume=resume)
    chain.dissimilarity.load_state_dict(average.state_dict())
    chain.config = config.segmenter
    figures = validate(chain, config)
    print("held-out composites: " + "  ".join(f"{k} {v:.4f}" for k, v in figures.items()), flush=True)
    segmenter = dataclasses.replace(config.segmenter, threshold=round(figures["threshold"], 4))
    state = frozen | {f"dissimilarity.{k}": v for k, v in average.state_dict().items()}
    metadata = {"part": "chain", **{f"held_out_{k}": f"{v:.4f}" for k, v in figures.items()}}
    save_weights(run / "weights.safetensors", state, segmenter, run.name, metadata, half=True)


def scaled(config: SegmenterConfig, factor: float) -> SegmenterConfig:
    """The same chain at `factor` times its working sizes, rounded to multiples of 32; the synthesis keeps its own."""

    def size(whole: tuple[int, int]) -> tuple[int, int]:
        return max(32, round(whole[0] * factor / 32) * 32), max(32, round(whole[1] * factor / 32) * 32)

    segmentation = dataclasses.replace(config.segmentation, size=size(config.segmentation.size))
    dissimilarity = dataclasses.replace(config.dissimilarity, size=size(config.dissimilarity.size))
    return dataclasses.replace(config, segmentation=segmentation, dissimilarity=dissimilarity)


def class_weights(samples: CompositeSamples, count: int = 256) -> Tensor:
    """float32 [2]: 1 / ln(1.02 + f), f the class's share of the pixels of the first `count` samples (spec 2.3)."""
    counts = np.zeros(2, np.int64)
    for number in range(count):
        label = samples[number][1].numpy()
        counts += np.bincount(label[label != IGNORE], minlength=2)
    return torch.from_numpy(1 / np.log(1.02 + counts / counts.sum())).float()


@torch.inference_mode()
def validate(chain: AnomalySegmenter, config: DissimilarityTraining) -> dict[str, float]:
    """AP, FPR95 and the threshold of the best pixel F1 on held-out composites (other scenes, other objects)."""
    scenes, objects = load_scenes(config.data, "val"), load_objects(config.data, "val")
    samples = CompositeSamples(scenes, objects, config.augment, config.mix, VALIDATION_SEED + config.loop.seed)
    device = next(chain.parameters()).device
    scores, labels = [], []
    for number in range(config.validation_scenes):
        image, label = samples[number]
        scores.append(torch.sigmoid(chain.eval()(image[None].to(device)))[0].float().cpu().numpy()[::2, ::2])
        labels.append(label.numpy()[::2, ::2].astype(np.uint8))
    score, label = np.stack(scores), np.stack(labels)
    metrics = exact(score, label)
    return {"ap": metrics["ap"], "fpr95": metrics["fpr95"], "threshold": best_f1_threshold(score, label)}


def best_f1_threshold(score: np.ndarray, label: np.ndarray) -> float:
    """The score at and above which calling a pixel anomalous gives the best pixel F1; both arrays of one shape."""
    counted = label != IGNORE
    score, positive = score[counted], label[counted] == ANOMALY
    order = np.argsort(-score)
    tp = np.cumsum(positive[order])
    f1 = 2 * tp / (np.arange(1, len(order) + 1) + positive.sum())
    return float(score[order[int(f1.argmax())]])
