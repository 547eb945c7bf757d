"""`mgcda train plain`: the control, a plain U-net on image and teacher softmax that is shown pasted objects.

What it reaches under the budget, data and resolution of the chain is what the chain's own parts have to beat.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from mgcda_core.config import PlainTraining
from mgcda_core.data.evaluation_sets import open_set
from mgcda_core.evaluation.comparison import table, write_results
from mgcda_core.evaluation.evaluate import judge
from mgcda_core.evaluation.protocols import Judging
from mgcda_core.evaluation.scored import Method
from mgcda_core.evaluation.scorers import Scorer
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL
from mgcda_core.models.plain_unet import PlainUnet
from mgcda_core.training.dissimilarity import weighted_cross_entropy
from mgcda_core.training.loop import Objective, fit
from mgcda_core.training.outliers import OUTLIER, Outliers
from mgcda_core.training.processes import open_fabric
from mgcda_core.training.run import is_first_process, start_run
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import CLASSES, load_objects, load_scenes, load_teacher
from mgcda_core.training.segmentation import input_range
from mgcda_core.weights.resolve import checksum

COUNTED = 128
"""Samples whose pixels are counted for the class weights."""


class PlainObjective(Objective):
    """Weighted cross entropy of normal and anomalous pixels; the teacher stays frozen."""

    class_weights: Tensor

    def __init__(self, network: nn.Module, teacher: nn.Module, class_weights: Tensor) -> None:
        """class_weights: float32 [2] of normal and anomalous pixels."""
        super().__init__()
        self.trained, self.teacher = network, teacher.requires_grad_(False)
        self.register_buffer("class_weights", class_weights)

    def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """image uint8 [B, 3, H, W], label int64 [B, H, W] as `Outliers` leaves it -> the loss."""
        logits = self.trained(network_input(image, self.teacher)).float()
        return {"loss": weighted_cross_entropy(logits, anomaly_label(label), self.class_weights)}


def network_input(image: Tensor, teacher: nn.Module) -> Tensor:
    """RGB [B, 3, H, W] in 0..255 -> float32 [B, 22, H, W]: normalised as for ImageNet, then the teacher's softmax."""
    image = image.float() / 255
    with torch.no_grad():
        softmax = teacher(image).softmax(1)
    mean, std = (x.to(image.device).view(1, 3, 1, 1) for x in input_range("imagenet"))
    # A quarter less time a step on a CPU than in the order the concatenation gives.
    return torch.cat([(image - mean) / std, softmax], 1).contiguous(memory_format=torch.channels_last)


def anomaly_label(label: Tensor) -> Tensor:
    """int64 {0, 1, 255} of a label of `Outliers`: OUTLIER is 1, void stays 255, all else is 0, pasted people too."""
    return torch.where(label == IGNORE, IGNORE, torch.where(label == OUTLIER, ANOMALY, NORMAL))


def class_weights(samples: SceneSamples) -> Tensor:
    """float32 [2]: 1 / ln(1.02 + f), f the class's share of the valid pixels of the first samples.

    Source: ENet (Paszke et al., 2016), with the same constant as the chain's own loss (spec 2.3).
    """
    labels = (anomaly_label(samples[number][1]) for number in range(COUNTED))
    counts = np.sum([np.bincount(label[label != IGNORE], minlength=2) for label in labels], axis=0)
    return torch.from_numpy(1 / np.log(1.02 + counts / counts.sum())).float()


def train(config: PlainTraining, run: Path, resume: bool = False) -> None:
    """Train the U-net, write RUN/weights.safetensors (the U-net alone), and measure it: RUN/result.json, result.md.

    The last weights are measured. A finished run with `resume` is measured again.
    """
    start_run(run, config, resume=resume)
    torch.manual_seed(config.loop.seed)
    fabric = open_fabric(config.loop)
    teacher = load_teacher(Path(config.teacher))
    for one in config.sets:  # a path that is wrong shows before hours of training
        open_set(one)
    # The teacher names the vehicles among coarse labels, so that they too are pasted; void stays void.
    scenes = load_scenes(config.data, "train", config.teacher, math.inf, "teacher")
    paste = Outliers(scenes, load_objects(config.data, "train"), config.mix, known_row=NORMAL)
    samples = SceneSamples(scenes, config.augment, config.loop.seed, paste)
    objective = PlainObjective(PlainUnet(3 + CLASSES), teacher, class_weights(samples))
    trained = fit(objective, samples, config.loop, run, resume=resume, fabric=fabric)
    weights = run / "weights.safetensors"
    if is_first_process():
        _save(trained, config, weights)
    fabric.barrier()
    method = Method(str(run), "model", plain_scorer(trained, teacher, config.augment.size), checksum(weights))
    results = [judge(one, method, Judging())[0] for one in config.sets]
    if is_first_process():
        print(table(results), flush=True)
        write_results(results, run / "result.json", None, run / "result.md", several=True)


def _save(network: nn.Module, config: PlainTraining, path: Path) -> None:
    """All or nothing, with what else is needed to use the network."""
    state = {k: v.cpu().clone(memory_format=torch.contiguous_format) for k, v in network.state_dict().items()}
    about = {"teacher_sha256": checksum(Path(config.teacher)), "size": list(config.augment.size)}
    part = path.with_name(f".{path.name}.part")
    # One entry: safetensors writes several in any order, and the file's sum would change.
    part.write_bytes(save(state, {"plain_unet": json.dumps(about)}))
    part.replace(path)


def plain_scorer(network: nn.Module, teacher: nn.Module, size: tuple[int, int]) -> Scorer:
    """Logit of the anomaly against normal, computed at `size`; its segmentation is the teacher's."""
    device = next(network.parameters()).device

    def inputs(image: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float()
        return network_input(F.interpolate(pixels, size, mode="bilinear", antialias=True), teacher)

    def at_size(values: Tensor, image: np.ndarray) -> Tensor:
        return F.interpolate(values, image.shape[:2], mode="bilinear", align_corners=False)[0]

    @torch.inference_mode()
    def score(image: np.ndarray) -> np.ndarray:
        logits = network(inputs(image))
        return at_size(logits[:, 1:] - logits[:, :1], image)[0].cpu().numpy()

    @torch.inference_mode()
    def segmentation(image: np.ndarray) -> np.ndarray:
        return at_size(inputs(image)[:, 3:], image).argmax(0).to(torch.uint8).cpu().numpy()

    return Scorer(score, segmentation, parallel=device.type == "cpu", mode="logits")
