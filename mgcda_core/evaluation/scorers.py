"""Anomaly scores of one image: the whole chain, a part of the chain, or the segmentation network alone.

model        the chain's logits, as the node masks them
ensemble     0.75 x anomaly probability + 0.25 x entropy (SynBoost's, spec 1.8)
perceptual   the perceptual difference of image and re-synthesis alone, as the comparison sees it
distance     the softmax distance alone, as the comparison sees it
dicnet       the error of a DiCNet student, of any file that holds one beside its segmentation network
msp, maxlogit, entropy, energy, sml   baselines of any segmentation network (spec 7); a file with nothing else will do
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from mgcda_core.config import PROFILES, ConfigError, ScoreName
from mgcda_core.data.sample import IMAGE_SUFFIXES, DataError, read_rgb
from mgcda_core.inference.pipeline import side_by_side, use_one_core

if TYPE_CHECKING:
    from torch import Tensor

    from mgcda_core.inference.backend import Backend
    from mgcda_core.inference.torch_backend import TorchBackend, TorchSegmentation
    from mgcda_core.methods.sml import MaxLogitStatistics

Mode = Literal["logits", "unit"]
Map = Callable[[np.ndarray], np.ndarray]

SEGMENTATION_SCORES = ("msp", "maxlogit", "entropy", "energy", "sml")
"""Those that need a segmentation network and nothing else."""
UNIT_SCORES = ("ensemble", "msp", "entropy", "distance", "perceptual")
"""Those in [0, 1]; all others are unbounded."""
_PRIOR_CHANNEL = {"perceptual": 1, "distance": 2}


@dataclass(frozen=True)
class Scorer:
    """Callable uint8 [H, W, 3] RGB -> float32 [H, W], higher = more anomalous; finite for every finite network."""

    score: Map
    segmentation: Map
    """uint8 [H, W, 3] RGB -> uint8 [H, W], the train ids the segmentation network predicts at the image's size."""
    parallel: bool
    """Whether several threads may score at a time: one image a core beats one image on all cores (no barriers)."""
    mode: Mode
    """Which PixelMetrics mode holds the scores: "unit" for those in [0, 1], else "logits"."""
    threshold: float | None = None
    """Operating point of the weights in the units of the score, of `model`; None for every other score."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self.score(image)

    def prepare_thread(self) -> None:
        """To be called once in each worker thread."""
        if self.parallel:
            use_one_core()


def open_scorer(
    weights: str | Path, score: ScoreName, device: str = "auto", sml_images: Path | None = None
) -> tuple[Scorer, str]:
    """The score of that name, and the sha256 of the weights.

    `weights` is what `load_weights` takes. `sml_images`, which `sml` needs and no other score reads, is a folder of
    images without anomalies, subfolders included. Raises as `predictor.load` and `load_weights`; ConfigError for an
    unknown score or `sml` without images; WeightsError if a score of the chain is asked of a part of the chain, or
    `dicnet` of weights without a student.
    """
    if score not in get_args(ScoreName):
        raise ConfigError(f"score is {score!r}; it must be one of {', '.join(get_args(ScoreName))}")
    if score == "sml" and sml_images is None:
        raise ConfigError(
            "score sml needs sml_images: a folder of images without anomalies, such as those the network was trained on"
        )
    if score in SEGMENTATION_SCORES:
        return _of_segmentation(weights, score, device, sml_images)
    return _of_student(weights, device) if score == "dicnet" else _of_chain(weights, score, device)


def _of_chain(weights: str | Path, score: ScoreName, device: str) -> tuple[Scorer, str]:
    from mgcda_core.inference.artefact import is_exported
    from mgcda_core.inference.predictor import load
    from mgcda_core.inference.torch_backend import TorchBackend, TorchSegmentation
    from mgcda_core.weights.resolve import load_weights

    predictor = load(weights, device, backend="auto" if score == "model" else "torch")
    backend, threshold = predictor.backend, None
    if score == "model":
        values, threshold = (lambda image: predictor(image).logits), to_logit(predictor.threshold)
    else:
        values = _part_of_chain(_in_torch(backend, f"score {score}"), score)

    @cache
    def network() -> TorchBackend | TorchSegmentation:
        """What gives class logits; beside another runtime, which has none, the weights' own segmentation network."""
        if is_exported(weights) or isinstance(backend, TorchBackend):
            return _in_torch(backend, "the segmentation at the image's size")
        return TorchSegmentation(load_weights(weights), device)

    def segmentation(image: np.ndarray) -> np.ndarray:
        return _classes(network(), image)

    mode = "unit" if score in UNIT_SCORES else "logits"
    return Scorer(values, segmentation, side_by_side(backend.device, backend.config), mode, threshold), backend.sha256


def _part_of_chain(backend: TorchBackend, score: ScoreName) -> Map:
    if score == "ensemble":
        weight = PROFILES["reference"].entropy_weight
        return lambda image: backend.ensemble(image, weight).clip(0, 1)  # its bicubic resize leaves them by a little
    channel = _PRIOR_CHANNEL[score]
    return lambda image: _resized(backend.prior(image)[:, channel], image).clamp(0, 1).cpu().numpy()


def _of_segmentation(weights: str | Path, score: ScoreName, device: str, sml_images: Path | None) -> tuple[Scorer, str]:
    from mgcda_core.inference.torch_backend import TorchSegmentation
    from mgcda_core.methods.baselines import BASELINES, score_at_size
    from mgcda_core.methods.sml import sml
    from mgcda_core.weights.resolve import load_weights

    network = TorchSegmentation(load_weights(weights), device)
    parallel = side_by_side(network.device, network.config)
    if sml_images is not None and score == "sml":
        mean, deviation = _statistics(network, sml_images, parallel).scale()

        def values(image: np.ndarray) -> np.ndarray:
            return _resized(sml(network.segmentation_logits(image), mean, deviation), image).cpu().numpy()
    else:
        baseline = BASELINES[score]

        def values(image: np.ndarray) -> np.ndarray:
            return score_at_size(network.segmentation_logits(image), _size(image), baseline)[0].cpu().numpy()

    mode = "unit" if score in UNIT_SCORES else "logits"
    return Scorer(values, lambda image: _classes(network, image), parallel, mode), network.sha256


def _of_student(weights: str | Path, device: str) -> tuple[Scorer, str]:
    from mgcda_core.inference.torch_backend import TorchBackend
    from mgcda_core.weights.resolve import WeightsError, load_weights

    loaded = load_weights(weights)
    own = {k: v for k, v in loaded.state.items() if k.startswith(("segmentation.", "student."))}
    if not any(k.startswith("student.") for k in own):
        raise WeightsError(f"{loaded.path} holds no student, whose error is score dicnet: distil one from it with "
                           "mgcda train dicnet")  # fmt: skip
    network = TorchBackend(replace(loaded, state=own, config=replace(loaded.config, score="distillation")), device)

    def values(image: np.ndarray) -> np.ndarray:
        return _resized(network.student_error(image), image).cpu().numpy()

    parallel = side_by_side(network.device, network.config)
    return Scorer(values, lambda image: _classes(network, image), parallel, "logits"), network.sha256


def _statistics(network: TorchSegmentation, folder: Path, parallel: bool) -> MaxLogitStatistics:
    """Pooled over all images below `folder`, merged in their order: the same however many threads there are."""
    from mgcda_core.methods.sml import MaxLogitStatistics

    found = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != ".")
    paths = sorted(found) if folder.is_dir() else []
    if not paths:
        raise DataError(f"sml_images: {folder} is no folder with images ({' '.join(IMAGE_SUFFIXES)})")

    def of(path: Path) -> MaxLogitStatistics:
        logits = network.segmentation_logits(read_rgb(path))
        try:
            return MaxLogitStatistics.of(logits)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    workers = min(4, os.cpu_count() or 1) if parallel else 1
    with ThreadPoolExecutor(workers, initializer=use_one_core if parallel else None) as pool:
        first, *others = pool.map(of, paths)
    for statistics in others:
        first = first.merged(statistics)
    return first


def _classes(network: TorchBackend | TorchSegmentation, image: np.ndarray) -> np.ndarray:
    import torch

    from mgcda_core.methods.baselines import score_at_size

    logits = network.segmentation_logits(image)
    return score_at_size(logits, _size(image), lambda x: x.argmax(1).to(torch.uint8))[0].cpu().numpy()


def _resized(values: Tensor, image: np.ndarray) -> Tensor:
    """[1, h, w] -> [H, W] of the image, bilinear."""
    import torch.nn.functional as F

    return F.interpolate(values[:, None], _size(image), mode="bilinear", align_corners=False)[0, 0]


def _size(image: np.ndarray) -> tuple[int, int]:
    return image.shape[0], image.shape[1]


def _in_torch(backend: Backend, what: str) -> TorchBackend:
    from mgcda_core.inference.torch_backend import TorchBackend

    if not isinstance(backend, TorchBackend):
        raise ValueError(f"{what} needs the chain's inner maps, which {backend.name} does not give: use its weights")
    return backend


def to_logit(threshold: float) -> float:
    """Logit at and above which a pixel is masked; infinite for a threshold of 0 or 1."""
    if 0 < threshold < 1:
        return math.log(threshold / (1 - threshold))
    return math.copysign(math.inf, threshold - 0.5)
