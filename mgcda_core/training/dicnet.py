"""`mgcda train dicnet`: a student learns the segmentation network's features, on road scenes alone.

Source: Zhou et al., arXiv 2112.09908 (spec 7): the teacher without its classifier, its features normalised by
BatchNorm's statistics without scale and shift; squared error at all positions of in-distribution images. Published
with a PSPNet and a ResNet-34; here the teacher is any segmentation network, the student a narrow DDRNet-23-slim.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import Tensor, nn

from mgcda_core.config import PRIORS, DicnetTraining, SegmenterConfig, StudentConfig
from mgcda_core.models.direct_segmenter import DirectSegmenter
from mgcda_core.models.loading import load_strict
from mgcda_core.training.loop import Objective, fit
from mgcda_core.training.prepare import frozen_state
from mgcda_core.training.run import is_first_process, start_run
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import load_scenes
from mgcda_core.weights.resolve import Weights, load_weights, save_weights

FROZEN = "frozen.safetensors"
MEASURED = 64
"""Training samples whose features are measured where the teacher has no BatchNorm that says how they are spread."""


class DicnetObjective(Objective):
    """Mean squared error of the student, whose `norm` stays as it is, as does the teacher."""

    def __init__(self, chain: DirectSegmenter) -> None:
        super().__init__()
        self.chain = chain.requires_grad_(False)
        self.trained = chain.student.network.requires_grad_(True)

    def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """image uint8 [B, 3, H, W]; the labels are not read. The loss of a student that knows but the mean of every
        channel is 1."""
        return {"loss": self.chain.student_error(image).mean()}


def train(config: DicnetTraining, run: Path, resume: bool = False) -> None:
    """Distil a student; writes RUN/weights.safetensors, which scores by its error.

    If `config.weights` holds the frozen networks of a whole chain, RUN/frozen.safetensors holds them and the student,
    for `mgcda prepare` and `mgcda train dissimilarity`: its error is the fourth map of the prior.
    """
    start_run(run, config, resume=resume)
    torch.manual_seed(config.loop.seed)
    loaded = load_weights(config.weights)
    chain = with_student(loaded, config.student)
    samples = SceneSamples(load_scenes(config.data, "train"), config.augment, config.loop.seed)
    chain.student.norm.load_state_dict(normalisation(chain, samples), strict=False)
    trained = fit(DicnetObjective(chain), samples, config.loop, run, resume=resume)
    chain.student.network.load_state_dict(trained.state_dict())
    if is_first_process():
        save_weights(run / "weights.safetensors", chain.state_dict(), chain.config, run.name, {"part": "chain"})
        if {"generator", "style_encoder"} <= {key.split(".")[0] for key in loaded.state}:
            _save_frozen(loaded, chain.student, config.student, run)


def with_student(loaded: Weights, student: StudentConfig) -> DirectSegmenter:
    """The segmentation network of `loaded` with a new student, in evaluation mode.

    Its threshold is that of a score of 0.5, an error of 1. Raises StateDictError if the network does not fit.
    """
    own = SegmenterConfig(
        score="distillation", segmentation=loaded.config.segmentation, student=student, scaling=loaded.config.scaling
    )
    chain = DirectSegmenter(own).eval()
    state = {k.removeprefix("segmentation."): v for k, v in loaded.state.items() if k.startswith("segmentation.")}
    load_strict(chain.segmentation, state, str(loaded.path))
    return chain


def normalisation(chain: DirectSegmenter, samples: SceneSamples) -> dict[str, Tensor]:
    """running_mean and running_var float32 [C] of the teacher's features.

    Those of the BatchNorm that follows them; where there is none (Reconstruction: published for one that has), those
    of the first `MEASURED` samples.
    """
    norm: nn.BatchNorm2d | None = chain.segmentation.distilled_norm  # pyright: ignore[reportAssignmentType]
    if norm is not None:
        return {name: norm.state_dict()[name] for name in ("running_mean", "running_var")}
    moments = torch.stack([_moments(chain, samples[number][0][None]) for number in range(MEASURED)])
    mean, square = moments.mean(0)
    return {"running_mean": mean.float(), "running_var": (square - mean.square()).float()}


@torch.no_grad()
def _moments(chain: DirectSegmenter, image: Tensor) -> Tensor:
    """Mean and mean square of every channel, float64 [2, C]."""
    x = chain.segmentation_input(chain.resized(image))
    features = chain.segmentation.outputs(x)[2].double()  # pyright: ignore[reportCallIssue]
    return torch.stack([features.mean((0, 2, 3)), features.square().mean((0, 2, 3))])


def _save_frozen(loaded: Weights, student: nn.Module, config: StudentConfig, run: Path) -> None:
    dissimilarity = dataclasses.replace(loaded.config.dissimilarity, prior=PRIORS)
    own = dataclasses.replace(loaded.config, score="dissimilarity", student=config, dissimilarity=dissimilarity)
    state = {k: v for k, v in frozen_state(loaded.state).items() if not k.startswith("student.")}
    state |= {f"student.{k}": v for k, v in student.state_dict().items()}
    save_weights(run / FROZEN, state, own, run.name, {"part": "segmentation, synthesis, student"})
