"""`mgcda train dissimilarity`: the comparing network on cached domains, with MDAT and CACL (MGCDA, section 3).

One step: 4 V + 4 A -> one forward pass with features -> weighted cross entropy + confusion losses (classifiers frozen)
+ contrastive loss -> step of network and projector -> the classifiers' own losses on detached maps -> their step
(eq. 4; spec appendix B). Classifiers and projector are never exported. `perturbation` aligns the domains instead of
MDAT, or beside it: the decoder is made invariant to perturbations of the deepest encoder feature.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import DissimilarityConfig, DissimilarityTraining, SegmenterConfig
from mgcda_core.data.sample import DataError
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL
from mgcda_core.methods import mdat
from mgcda_core.methods.cacl import Cacl, generator_for
from mgcda_core.methods.feature_perturbation import Perturbation, PerturbationLosses
from mgcda_core.models.dissimilarity import DissimilarityNet, Level
from mgcda_core.training.cache import CachedDomain, StaleCacheError, network_inputs
from mgcda_core.training.domain_samples import DomainSamples
from mgcda_core.training.held_out import operating_points, validate, write_picture
from mgcda_core.training.loop import Objective, fit
from mgcda_core.training.prepare import frozen_sha256, frozen_state
from mgcda_core.training.processes import open_fabric
from mgcda_core.training.run import is_first_process, start_run
from mgcda_core.weights.resolve import load_weights, save_weights

V = 0
"""Index of domain V where there are several."""
DEEPEST = 3
"""The encoder level whose fused feature is perturbed."""


class DissimilarityObjective(Objective):
    """L_CE + lambda_f L_conf,f + lambda_o L_conf,o + lambda_c L_CAC of a batch of cached maps (eq. 4)."""

    class_weights: Tensor

    def __init__(self, network: DissimilarityNet, class_weights: Tensor, config: DissimilarityTraining) -> None:
        super().__init__()
        self.trained = self.network = network
        self.config = config
        self.register_buffer("class_weights", class_weights)
        channels = feature_channels(network)
        self.mdat = self.perturbation = None
        if config.mdat is not None:
            levels = range(4) if config.mdat.level == "multi" else [int(config.mdat.level) - 1]
            correlation = network.config.correlation_groups if config.mdat.with_correlation else 0
            seen = [channels[k] + correlation for k in levels]
            self.mdat = mdat.Mdat(seen, config.mdat)
            self.adversary_lr, self.adversary_betas = config.mdat.lr, config.mdat.betas
        if config.perturbation is not None:
            self.perturbation = Perturbation(channels[DEEPEST], config.perturbation)
            self.adversary_lr, self.adversary_betas = config.perturbation.lr, config.perturbation.betas
        against = [method for method in (self.mdat, self.perturbation) if method is not None]
        self.adversary = nn.ModuleList(against) if len(against) > 1 else next(iter(against), None)
        if config.cacl is not None:
            self.assistant = Cacl(channels[0], config.cacl)

    def forward(
        self,
        image: Tensor,
        synthesis: Tensor,
        semantic: Tensor,
        prior: Tensor,
        label: Tensor,
        domain: Tensor,
        number: Tensor,
    ) -> dict[str, Tensor]:
        """What `DomainSamples` gives, stacked -> "loss", with MDAT or perturbations "adversary", and a log."""
        label, in_v = label.long(), domain == V
        inputs = network_inputs(self.network, image, synthesis, semantic, prior)
        logits, levels, decoder_feature = self.network.pyramid(*inputs)
        logits = logits.float()
        losses = {"cross_entropy": weighted_cross_entropy(logits, label, self.class_weights)}
        total, adversary = losses["cross_entropy"], []
        if self.mdat is not None and self.config.mdat is not None:
            tau = mdat.tau(self.step, self.config.loop.steps, self.config.mdat)
            aligned = self.mdat(logits, mdat.encoder_features(levels, self.config.mdat), in_v, tau)
            total = total + aligned.network
            losses |= aligned.log
            adversary.append(aligned.classifiers)
        if self.perturbation is not None:
            defended = self._defend(self.perturbation, levels, inputs[2:], label, in_v)
            total = total + defended.network
            losses |= defended.log
            adversary.append(defended.classifier)
        if adversary:
            losses["adversary"] = torch.stack(adversary).sum()
        if isinstance(self.assistant, Cacl) and self.config.cacl is not None:
            generators = [generator_for(self.config.loop.seed, self.step, int(n)) for n in number]
            contrast, log = self.assistant(decoder_feature, logits, label, in_v, generators, self.step)
            total = total + self.config.cacl.weight * contrast
            losses |= log
        return {"loss": total, **losses, **_rates(logits, label)}

    def _defend(
        self, method: Perturbation, levels: list[Level], maps: Sequence[Tensor], label: Tensor, in_v: Tensor
    ) -> PerturbationLosses:
        """Perturbs the deepest fused feature; `maps` are semantics and prior. Both domains have labels."""
        given = levels if method.config.encoder else [(c if c is None else c.detach(), x.detach()) for c, x in levels]
        correlation, feature = given[DEEPEST]

        def decode(x: Tensor) -> Tensor:
            return self.network.decode([*given[:DEEPEST], (correlation, x)], *maps)[0]

        def cross_entropy(logits: Tensor) -> Tensor:
            return weighted_cross_entropy(logits, label, self.class_weights)

        return method(feature, decode, cross_entropy, in_v, torch.ones_like(in_v))


def weighted_cross_entropy(logits: Tensor, label: Tensor, weights: Tensor) -> Tensor:
    """Mean over the valid pixels of all processes, each counted with its class's weight (spec 2.3, appendix B).

    logits [B, 2, h, w], label int64 [B, h, w] in {0, 1, 255}. The mean of what N processes return is the loss of their
    joined batch: the denominator is the mean of theirs.
    """
    total = F.cross_entropy(logits, label, weights, ignore_index=IGNORE, reduction="sum")
    mass = weights[label.clamp(max=1)].mul(label != IGNORE).sum()
    if dist.is_initialized():
        dist.all_reduce(mass)
        mass = mass / dist.get_world_size()
    return total / mass.clamp(min=1e-12)


def feature_channels(network: DissimilarityNet) -> list[int]:
    """Channels of the fused features of each level, fine to coarse; the first is the decoder feature's too."""
    convs = (network.conv10, network.conv9, network.conv8, network.conv7)
    return [conv.out_channels for conv in convs]


def class_weights(domains: list[CachedDomain]) -> Tensor:
    """float32 [2]: 1 / ln(1.02 + f), f the class's exact share of the valid pixels, domains weighing the same."""
    shares = []
    for domain in domains:
        counts = np.sum([np.bincount(label[label != IGNORE], minlength=2) for label in domain.labels()], axis=0)
        shares.append(counts / counts.sum())
    return torch.from_numpy(1 / np.log(1.02 + np.mean(shares, axis=0))).float()


def train(config: DissimilarityTraining, run: Path, resume: bool = False) -> None:
    """Train the dissimilarity network; writes RUN/weights.safetensors, the whole chain with its threshold.

    The file holds float16, which is what ships; the figures it is chosen by were measured before the rounding.
    """
    start_run(run, config, resume=resume)
    aligned = config.mdat or config.perturbation  # every process then needs all domains equally
    fabric = open_fabric(config.loop, multiple=len(config.domains) if aligned else 1)
    torch.manual_seed(config.loop.seed)
    loaded = load_weights(config.weights)
    segmenter = dataclasses.replace(loaded.config, dissimilarity=config.dissimilarity or loaded.config.dissimilarity)
    frozen = frozen_state(loaded.state)
    digest = frozen_sha256(loaded)
    domains = [CachedDomain(Path(path), digest) for path in config.domains]
    held_out = [CachedDomain(Path(path), digest) for path in config.validation]
    _same_size(domains + held_out, segmenter.dissimilarity)
    network = DissimilarityNet(segmenter.dissimilarity, segmenter.segmentation.num_classes)
    if config.vgg16:
        network.vgg_encoder.load_torchvision(_vgg16_state(Path(config.vgg16)), config.vgg16)
    weights = torch.tensor(config.class_weights) if config.class_weights else class_weights(domains)
    objective = DissimilarityObjective(network, weights, config)
    samples = DomainSamples(domains, config.crop, config.flip, config.loop.seed)
    average = fit(
        objective, samples, config.loop, run, resume=resume, fabric=fabric,
        validate=(lambda net: validate(net, held_out, weights, fabric)) if held_out else None,
        picture=lambda net, step: write_picture(net, held_out or domains, run / "pictures" / f"{step:07d}.png"),
    )  # fmt: skip
    if is_first_process():
        export(average, segmenter, frozen, held_out, run, config.entropy_weights)
    fabric.barrier()


def export(
    network: nn.Module,
    segmenter: SegmenterConfig,
    frozen: dict[str, Tensor],
    held_out: list[CachedDomain],
    run: Path,
    entropy_weights: Sequence[float] = (),
) -> None:
    """Write the chain with the trained network and, from the held-out samples, its threshold and figures.

    Of several `entropy_weights` it takes the one with the best AP there; of none that of `segmenter`.
    """
    metadata = {"part": "chain"}
    if held_out:
        points = operating_points(network, held_out, entropy_weights or (segmenter.entropy_weight,))
        for p in points:
            print(f"held-out composites: entropy weight {p.entropy_weight:g}  ap {p.ap:.4f}  fpr95 {p.fpr95:.4f}  "
                  f"threshold {p.threshold:.4f}", flush=True)  # fmt: skip
        best = max(points, key=lambda p: p.ap)
        segmenter = dataclasses.replace(
            segmenter, threshold=round(best.threshold, 4), entropy_weight=best.entropy_weight
        )
        metadata |= {"held_out_ap": f"{best.ap:.4f}", "held_out_fpr95": f"{best.fpr95:.4f}"}
    state = frozen | {f"dissimilarity.{k}": v for k, v in network.state_dict().items()}
    save_weights(run / "weights.safetensors", state, segmenter, run.name, metadata, half=True)


def _vgg16_state(path: Path) -> dict[str, Tensor]:
    """torchvision's state dict: tensors alone are read. Raises DataError for a file that holds anything else."""
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise DataError(f"{path} is not a state dict of tensors: give torchvision's vgg16-397923af.pth") from error


def _same_size(caches: list[CachedDomain], network: DissimilarityConfig) -> None:
    """The maps of all caches must have the sizes of the chain that is exported."""
    for cache in caches:
        maps = cache[0]
        stored = tuple(maps["label"].shape)
        if stored != tuple(network.size):
            raise StaleCacheError(f"{cache.cache} holds maps of {stored}, the dissimilarity network works at "
                                  f"{network.size}: prepare with that size, or set dissimilarity.size")  # fmt: skip
        detail = maps["image"].shape[-1] // stored[1]
        if detail != network.detail:
            raise StaleCacheError(f"{cache.cache} holds pictures of {detail} times the maps' size, the dissimilarity "
                                  f"network takes {network.detail}: prepare with that detail, or set "
                                  "dissimilarity.detail")  # fmt: skip
        if len(maps["prior"]) != network.maps:
            raise StaleCacheError(f"{cache.cache} holds {len(maps['prior'])} uncertainty maps, the dissimilarity "
                                  f"network takes {network.maps}: prepare with weights that hold a student "
                                  "(RUN/frozen.safetensors of mgcda train dicnet) or none, as dissimilarity.prior "
                                  "says")  # fmt: skip


def _rates(logits: Tensor, label: Tensor) -> dict[str, Tensor]:
    """Share of the anomalous pixels found, and of the normal ones called anomalous, at a probability of 0.5."""
    found = logits.detach().argmax(1) == ANOMALY
    anomalous, normal = label == ANOMALY, label == NORMAL
    return {"recall": (found & anomalous).sum() / anomalous.sum().clamp(min=1),
            "false_alarm": (found & normal).sum() / normal.sum().clamp(min=1)}  # fmt: skip
