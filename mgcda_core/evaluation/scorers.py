"""Anomaly scores of one image: the whole chain, or what a part of it says alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgcda_core.config import ScoreName


@dataclass(frozen=True)
class Scorer:
    """Callable uint8 [H, W, 3] RGB -> float32 [H, W], higher = more anomalous."""

    score: Callable[[np.ndarray], np.ndarray]
    parallel: bool
    """Whether several threads may score at a time: one image a core beats one image on all cores (no barriers)."""

    def __call__(self, image: np.ndarray) -> np.ndarray:
        return self.score(image)

    def prepare_thread(self) -> None:
        """To be called once in each worker thread."""
        if self.parallel:
            import torch

            torch.set_num_threads(1)  # of this thread only


def open_scorer(weights: str | Path, score: ScoreName, device: str = "auto") -> tuple[Scorer, str]:
    """The chain's logits ("model") or a baseline of its segmentation network, and the sha256 of the weights.

    Raises as `predictor.load`, and ValueError if the backend gives no segmentation logits for a baseline.
    """
    from mgcda_core.inference.predictor import load
    from mgcda_core.inference.torch_backend import TorchBackend

    predictor = load(weights, device)
    backend = predictor.backend
    height, width = backend.config.segmentation.size
    # The published chain needs gigabytes an image at its size: there one image at a time has to do.
    parallel = backend.device == "cpu" and height * width <= 512 * 1024
    if score == "model":
        return Scorer(lambda image: predictor(image).logits, parallel), backend.sha256
    if not isinstance(backend, TorchBackend):
        raise ValueError(f"score {score} needs the segmentation network's logits, which {backend.name} does not give")
    from mgcda_core.methods.baselines import BASELINES, score_at_size

    baseline, network = BASELINES[score], backend

    def baseline_score(image: np.ndarray) -> np.ndarray:
        logits = network.segmentation_logits(image)
        return score_at_size(logits, (image.shape[0], image.shape[1]), baseline)[0].cpu().numpy()

    return Scorer(baseline_score, parallel), backend.sha256
