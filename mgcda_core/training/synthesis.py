"""`mgcda train synthesis`: the CC-FPSE generator and style encoder, without a discriminator (first generation)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import SynthesisTraining
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.models.loading import load_strict
from mgcda_core.training.checkpoint import weights_file
from mgcda_core.training.loop import Objective, fit, start_run
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import load_scenes
from mgcda_core.weights.resolve import load_weights, save_weights


class SynthesisObjective(Objective):
    """L1 and feature difference of the re-synthesis from the *predicted* semantics, as at inference, plus KL."""

    def __init__(self, chain: AnomalySegmenter, perceptual: float, kl: float) -> None:
        super().__init__()
        self.generator, self.style_encoder = chain.generator, chain.style_encoder
        self.trained = nn.ModuleDict({"generator": chain.generator, "style_encoder": chain.style_encoder})
        self.chain, self.perceptual, self.kl = chain, perceptual, kl
        chain.segmentation.requires_grad_(False)

    def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """image uint8 [B, 3, H, W]; the labels are not read."""
        with torch.no_grad():
            _, _, maps36, _, target = self.chain.synthesis_inputs(image)
        mu, logvar = self.style_encoder(target * 2 - 1)
        mu, logvar = mu.float(), logvar.float().clamp(-10, 10)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        generated = (self.generator(maps36, z).float() + 1) / 2
        l1 = (generated - target).abs().mean()
        features = self._feature_difference(generated, target)
        kl = -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1).mean() / mu.shape[1]
        return {"loss": l1 + self.perceptual * features + self.kl * kl, "l1": l1, "features": features, "kl": kl}

    def _feature_difference(self, generated: Tensor, target: Tensor) -> Tensor:
        """Mean over levels of 1 - cosine similarity, at the synthesis' size."""
        ours, theirs = (
            self.chain.segmentation.features(self.chain.normalise(x))  # pyright: ignore[reportCallIssue]
            for x in (generated, target)
        )
        levels = [
            1 - F.cosine_similarity(a.float(), b.float(), dim=1).mean() for a, b in zip(ours, theirs, strict=True)
        ]
        return torch.stack(levels).mean()


def train(config: SynthesisTraining, run: Path, resume: bool = False) -> None:
    """Train generator and style encoder on the predicted semantics; writes RUN/weights.safetensors."""
    start_run(run, config, resume=resume)
    torch.manual_seed(config.loop.seed)
    loaded = load_weights(weights_file(config.weights))
    chain = AnomalySegmenter(config.segmenter)
    segmentation = {
        k.removeprefix("segmentation."): v for k, v in loaded.state.items() if k.startswith("segmentation.")
    }
    load_strict(chain.segmentation, segmentation, str(config.weights))
    samples = SceneSamples(load_scenes(config.data, "train"), config.augment, config.loop.seed)
    average = fit(SynthesisObjective(chain, config.perceptual, config.kl), samples, config.loop, run, resume=resume)
    state = {f"segmentation.{k}": v for k, v in segmentation.items()} | average.state_dict()
    save_weights(run / "weights.safetensors", state, config.segmenter, run.name, {"part": "segmentation, synthesis"})
