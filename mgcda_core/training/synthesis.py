"""`mgcda train synthesis`: the CC-FPSE generator and style encoder, with or without a discriminator.

Source: Liu et al., Learning to Predict Layout-to-image Conditional Convolutions for Semantic Image Synthesis,
NeurIPS 2019. The weights of its terms as published stand in docs/synthesis.md.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from mgcda_core.config import SynthesisTraining
from mgcda_core.data.sample import Scenes
from mgcda_core.evaluation.image_distance import Distance, Features, ImageDistance
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.models.discriminator import Discriminator
from mgcda_core.models.loading import load_strict
from mgcda_core.models.synthesis import MAP_CHANNELS
from mgcda_core.training.loop import Objective, fit
from mgcda_core.training.run import is_first_process, start_run
from mgcda_core.training.samples import SceneSamples
from mgcda_core.training.scenes import load_scenes, load_teacher, scene_sets
from mgcda_core.weights.resolve import load_weights, save_weights


class SynthesisObjective(Objective):
    """Re-synthesis from the *predicted* semantics, as at inference: image, feature and style terms, and a GAN's.

    Without `adversarial` there is no discriminator.
    """

    def __init__(self, chain: AnomalySegmenter, config: SynthesisTraining) -> None:
        super().__init__()
        self.generator, self.style_encoder = chain.generator, chain.style_encoder
        self.trained = nn.ModuleDict({"generator": chain.generator, "style_encoder": chain.style_encoder})
        self.chain, self.config = chain, config
        for part in chain.children():
            part.requires_grad_(part in (chain.generator, chain.style_encoder))
        if config.adversarial > 0:
            self.adversary = Discriminator(MAP_CHANNELS, config.discriminator_width)
            self.adversary_lr, self.adversary_betas = config.discriminator_lr, config.loop.betas

    def forward(self, image: Tensor, label: Tensor) -> dict[str, Tensor]:
        """image uint8 [B, 3, H, W]; the labels are not read. Returns the losses, "adversary" among them if there is
        a discriminator: in "loss" its parameters are constants, in "adversary" the generated image is."""
        with torch.no_grad():
            maps36, target = self.chain.synthesis_inputs(image)
        mu, logvar = self.style_encoder(target * 2 - 1)
        mu, logvar = mu.float(), logvar.float().clamp(-10, 10)
        z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
        generated = self.generator(maps36, z).float()
        seen = (generated + 1) / 2
        terms = {
            "l1": (seen - target).abs().mean(),
            "perceptual": self._feature_difference(seen, target),
            "kl": kl_divergence(mu, logvar),
        }
        adversary = {}
        if self.adversary is not None:
            against, adversary = self._against(self.adversary, generated, target * 2 - 1, maps36)
            terms |= against
        weights = vars(self.config)
        loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        return {"loss": loss, **terms, **adversary}

    def _against(
        self, discriminator: nn.Module, generated: Tensor, real: Tensor, maps36: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The generator's terms against the discriminator as it is, and the discriminator's own loss."""
        both = torch.cat([generated.detach(), real]), torch.cat([maps36, maps36])
        scores, features = discriminator(*both)
        fake_scores, real_scores = zip(*(score.chunk(2) for score in scores), strict=True)
        real_features = [feature.chunk(2)[1].detach() for feature in features]
        constants = {k: v.detach() for k, v in [*discriminator.named_parameters(), *discriminator.named_buffers()]}
        fooled, own_features = functional_call(discriminator, constants, (generated, maps36))
        terms = {
            "adversarial": hinge_generator(fooled),
            "feature_matching": feature_matching(own_features, real_features),
        }
        return terms, {"adversary": hinge_discriminator(list(real_scores), list(fake_scores))}

    def _feature_difference(self, generated: Tensor, target: Tensor) -> Tensor:
        """Of two [B, 3, h, w] in [0, 1]: VGG19's (spec 1.6) if the chain has one, else the mean over the levels of the
        segmentation network of 1 - cosine similarity."""
        chain = self.chain
        if chain.config.perceptual == "vgg19":
            return chain.perceptual(chain.normalise(target), chain.normalise(generated)).mean()
        unit_range = chain.config.segmentation.normalise == "unit"
        ours, theirs = (
            chain.segmentation.features(x if unit_range else chain.normalise(x))  # pyright: ignore[reportCallIssue]
            for x in (generated, target)
        )
        levels = [
            1 - F.cosine_similarity(a.float(), b.float(), dim=1).mean() for a, b in zip(ours, theirs, strict=True)
        ]
        return torch.stack(levels).mean()


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, e^logvar) || N(0, 1)) of style codes [B, n]: summed over the code, mean of the batch (Kingma and
    Welling, 2014)."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1).mean()


def hinge_discriminator(real: list[Tensor], fake: list[Tensor]) -> Tensor:
    """Mean over resolutions of mean max(0, 1 - real) + mean max(0, 1 + fake), scores [B, 1, ., .], in float32."""
    losses = [F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(losses).mean()


def hinge_generator(fake: list[Tensor]) -> Tensor:
    """Mean over resolutions of -mean(score): the generator's side of the hinge loss (Lim and Ye, 2017)."""
    return -torch.stack([score.float().mean() for score in fake]).mean()


def feature_matching(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Mean over the levels of the mean absolute difference of the discriminator's features (Wang et al., 2018)."""
    return torch.stack([(f.float() - r.float()).abs().mean() for f, r in zip(fake, real, strict=True)]).mean()


def train(config: SynthesisTraining, run: Path, resume: bool = False) -> None:
    """Train generator and style encoder on the predicted semantics; writes RUN/weights.safetensors.

    With `distance_network` it prints how far the re-syntheses of each val set are from their images, at the end and,
    if the training went on from a trained generator, at the start.
    """
    start_run(run, config, resume=resume)
    torch.manual_seed(config.loop.seed)
    loaded = load_weights(config.weights)
    segmenter = dataclasses.replace(config.segmenter, segmentation=loaded.config.segmentation)
    chain = AnomalySegmenter(segmenter)
    parts = ["segmentation", "generator", "style_encoder"] if config.resynthesise else ["segmentation"]
    parts += ["perceptual"] if config.segmenter.perceptual == "vgg19" else []
    for part in parts:
        state = {k.removeprefix(f"{part}."): v for k, v in loaded.state.items() if k.startswith(f"{part}.")}
        load_strict(chain.get_submodule(part), state, str(config.weights))
    if config.resynthesise:
        _print_distances(chain, config, "start")
    samples = SceneSamples(load_scenes(config.data, "train"), config.augment, config.loop.seed)
    average = fit(SynthesisObjective(chain, config), samples, config.loop, run, resume=resume)
    chain.load_state_dict(average.state_dict(), strict=False)
    if is_first_process():
        state = {k: v for k, v in chain.state_dict().items() if not k.startswith("dissimilarity.")}
        save_weights(run / "weights.safetensors", state, segmenter, run.name, {"part": "segmentation, synthesis"})
    _print_distances(chain, config, "end")


def _print_distances(chain: AnomalySegmenter, config: SynthesisTraining, when: str) -> None:
    if config.distance_network is None or not is_first_process():
        return
    judge = cast(Features, load_teacher(Path(config.distance_network)).to(chain.mean.device).features)
    for held_out in scene_sets(config.data, "val"):
        found = val_distance(chain, held_out, judge)
        print(f"{when}: {held_out.name} val, {found.images} images, ENet features: LPIPS-like {found.perceptual:.4f}  "
              f"Frechet {found.frechet:.4f}", flush=True)  # fmt: skip


@torch.inference_mode()
def val_distance(chain: AnomalySegmenter, scenes: Scenes, features: Features) -> Distance:
    """Distance of the re-syntheses of a set from its images, at the synthesis' size and with the mean style code."""
    device, distance = chain.mean.device, ImageDistance(features)
    chain.eval()
    for i in range(len(scenes)):
        image = torch.from_numpy(scenes[i].image).to(device).permute(2, 0, 1)[None]
        maps36, target = chain.synthesis_inputs(image)
        mu, _ = chain.style_encoder(target * 2 - 1)
        distance.add((chain.generator(maps36, mu) + 1) / 2, target)
    return distance.result()
