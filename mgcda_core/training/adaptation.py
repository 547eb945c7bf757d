"""`mgcda train adaptation`: unsupervised domain adaptation of the segmentation network.

Source scenes have labels, target scenes are images. What the classifier reads is perturbed in both domains and the
classifier made invariant to it (`mgcda_core.methods.feature_perturbation`); without, it is a training on the source
only, which an adaptation has to beat under the same budget. The target's labels are read at the end, of its val split,
for the table.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mgcda_core.config import AdaptationTraining, ConfigError
from mgcda_core.data.sample import Scene, Scenes, read_rgb
from mgcda_core.labels import IGNORE, OWN_NAMES, TRAIN_NAMES
from mgcda_core.methods.feature_perturbation import Perturbation, running_statistics
from mgcda_core.training.loop import Objective, Samples, fit
from mgcda_core.training.processes import open_fabric
from mgcda_core.training.run import is_first_process, start_run
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import label_sets, load_scenes, scene_sets
from mgcda_core.training.segmentation import (
    ClassIou,
    class_iou,
    class_weights,
    input_range,
    label_weights,
    set_losses,
    start_network,
)
from mgcda_core.weights.resolve import save_weights


class Unlabelled:
    """The images of a set; everything is void, and no label file is opened."""

    def __init__(self, scenes: Scenes) -> None:
        self.scenes = scenes

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Scene:
        path = self.scenes.pairs[index][0]
        image = read_rgb(path)
        return Scene(image, np.full(image.shape[:2], IGNORE, np.uint8), f"{self.scenes.name}/{path.stem}")


class AdaptationSamples(Samples):
    """(image uint8 [3, H, W], label int64 [H, W], whether it is of the source): by turns of the source and the target.

    Without a target all are of the source.
    """

    def __init__(self, source: SceneSamples, target: SceneSamples | None) -> None:
        self.source, self.target = source, target

    def __getitem__(self, number: int) -> tuple[Tensor, ...]:
        samples, own = self._where(number)
        return *samples[own], torch.tensor(samples is self.source)

    def name(self, number: int) -> str:
        """The scene sample n is cut from."""
        samples, own = self._where(number)
        return samples.name(own)

    def _where(self, number: int) -> tuple[SceneSamples, int]:
        if self.target is None:
            return self.source, number
        return (self.source, self.target)[number % 2], number // 2


class AdaptationObjective(Objective):
    """Cross entropy of the source, and with `config.perturbation` the defence on both domains."""

    allowed: Tensor
    weights: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, table: Tensor, weights: Tensor, config: AdaptationTraining) -> None:
        """table: bool [V, 19] train ids each label may be; weights: float32 [V] of `label_weights`."""
        super().__init__()
        self.trained, self.method = network, None
        mean, std = input_range(config.segmenter.segmentation.normalise)
        # The last row is every class, weight 0: what 255 points to.
        self.register_buffer("allowed", torch.cat([table, torch.ones_like(table[:1])]))
        self.register_buffer("weights", torch.cat([weights, torch.zeros_like(weights[:1])]))
        self.register_buffer("mean", mean.view(1, 3, 1, 1) * 255)
        self.register_buffer("std", std.view(1, 3, 1, 1) * 255)
        if config.perturbation is not None:
            self.adversary = self.method = Perturbation(embedding_channels(network), config.perturbation)
            self.adversary_lr, self.adversary_betas = config.perturbation.lr, config.perturbation.betas

    def forward(self, image: Tensor, label: Tensor, source: Tensor) -> dict[str, Tensor]:
        """What `AdaptationSamples` gives, stacked -> "loss", "adversary" with perturbations, and figures."""
        size = (image.shape[-2], image.shape[-1])
        network, label = self.trained, label[source].clamp(max=len(self.allowed) - 1)
        features = network.embed((image.float() - self.mean) / self.std)  # pyright: ignore[reportCallIssue]

        def classify(x: Tensor) -> Tensor:
            return network.classify(x, size)  # pyright: ignore[reportCallIssue]

        def cross_entropy(logits: Tensor) -> Tensor:
            return self._cross_entropy(logits[source], label)

        losses = {"cross_entropy": cross_entropy(classify(features))}
        total = losses["cross_entropy"]
        if self.method is not None:
            with running_statistics(network):
                defended = self.method(features, classify, cross_entropy, source, source)
            total = total + defended.network
            losses |= {"adversary": defended.classifier, **defended.log}
        return {"loss": total, **losses}

    def _cross_entropy(self, logits: Tensor, label: Tensor) -> Tensor:
        weights = self.weights[label]
        losses = set_losses(logits, self.allowed[label].permute(0, 3, 1, 2))
        return (weights * losses).sum() / weights.sum().clamp(min=1e-6)


def embedding_channels(network: nn.Module) -> int:
    """Channels of what the network's classifier reads."""
    was = network.training
    with torch.no_grad():
        channels = network.eval().embed(torch.zeros(1, 3, 64, 64)).shape[1]  # pyright: ignore[reportCallIssue]
    network.train(was)
    return channels


def train(config: AdaptationTraining, run: Path, resume: bool = False) -> None:
    """Train, write RUN/weights.safetensors (the chain's first part), and measure it: RUN/result.json, result.md.

    The last weights are measured, and no label of the target chooses anything. A finished run with `resume` is
    measured again.
    """
    start_run(run, config, resume=resume)
    fabric = open_fabric(config.loop, multiple=2 if config.perturbation else 1)  # every process sees both domains
    torch.manual_seed(config.loop.seed)
    held_out = scene_sets(config.target, "val")
    if not held_out:
        raise ConfigError("target has no val split to be measured on: name one of camvid, idd_lite, cityscapes")
    scenes = load_scenes(config.source, "train")
    table = label_sets(config.source, "train")
    segmenter, network = start_network(config)
    weights = label_weights(class_weights(scenes, table), table)
    objective = AdaptationObjective(network, torch.from_numpy(table), weights, config)
    seed = config.loop.seed
    target = None
    if config.perturbation is not None:
        images = [Unlabelled(one) for one in scene_sets(config.target, "train")]
        target = SceneSamples(images, config.augment, seed + 1)  # other crops than the source's
    samples = AdaptationSamples(SceneSamples(scenes, config.augment, seed), target)
    trained = fit(objective, samples, config.loop, run, resume=resume, fabric=fabric)
    if not is_first_process():
        return
    state = {f"segmentation.{k}": v for k, v in trained.state_dict().items() if not k.startswith("auxiliary_head.")}
    save_weights(run / "weights.safetensors", state, segmenter, run.name, {"part": "segmentation"})
    own = config.segmenter.segmentation
    measured = {one.name: class_iou(trained, one, own.size, own.normalise) for one in held_out}
    rows = [row for name, found in measured.items() for row in result_rows(name, found, config.tail)]
    text = table_of(rows)
    print(text, end="", flush=True)
    (run / "result.md").write_text(text)
    (run / "result.json").write_text(json.dumps({"tail_below": config.tail, "results": rows}, indent=1) + "\n")


def result_rows(name: str, found: ClassIou, tail: float) -> list[dict[str, str | float]]:
    """One row a class that the labels of set `name` hold, the most frequent first, and the means over all, over the
    tail (share of the pixels below `tail`) and over the rest, where there are any; all figures are fractions."""
    names = OWN_NAMES.get(name, TRAIN_NAMES)
    present = [int(i) for i in found.share.argsort()[::-1] if found.share[i] > 0]
    groups = {"tail": [i for i in present if found.share[i] < tail],
              "head": [i for i in present if found.share[i] >= tail]}  # fmt: skip
    rows: list[dict[str, str | float]] = [
        {"set": name, "class": names[i], "group": group, "share": float(found.share[i]), "iou": float(found.iou[i])}
        for i in present for group, members in groups.items() if i in members
    ]  # fmt: skip
    for group, members in {"all": present, **groups}.items():
        if members:
            share, iou = float(found.share[members].sum()), float(found.iou[members].mean())
            rows.append({"set": name, "class": f"mean of {group}", "group": group, "share": share, "iou": iou})
    return rows


def table_of(rows: Sequence[dict[str, str | float]]) -> str:
    """Aligned Markdown table of `result_rows` in percent, with a line break at its end."""
    cells = [["set", "class", "group", "pixels", "IoU"]]
    cells += [[str(r[k]) for k in ("set", "class", "group")] + [f"{100 * float(r[k]):.1f}" for k in ("share", "iou")]
              for r in rows]  # fmt: skip
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    cells.insert(1, ["-" * width for width in widths])
    return "".join(f"| {' | '.join(c.ljust(w) for c, w in zip(row, widths, strict=True))} |\n" for row in cells)
