"""MDAT: two domain classifiers, dynamic label smoothing and the adversarial losses of MGCDA (eq. 1, 2, spec 4.1-4.4).

V is the domain of VoidClass, labelled tau; A that of AnomalyMix, labelled 1 - tau. Eq. 2 compares the classifiers'
answer on V with A's label and the other way round: it is what the *features* want, confusion. The paper puts it into
one total to be minimised and never says what the classifiers want. Minimised jointly over features and classifiers, as
printed and without reversal, eq. 2 separates the domains: the classifiers learn the exchanged labels, and at their
optimum its value is (2 tau - 1)^2 O, where O = integral p_V p_A / (p_V + p_A) of the feature densities is 1/2 for equal
and 0 for disjoint domains. So its minimum over the features is O = 0: a domain classification with renamed labels.

`mode` therefore chooses a pair (loss of the features with frozen classifiers, loss of the classifiers with frozen
features):

alternate       (confusion, truth): least squares GAN. At the optimal classifiers confusion is (2 tau - 1)^2 (2 - 3 O),
                least where the domains are equal. Recommended, and the default.
grl             (-truth, truth): gradient reversal. At the optimum the value is (2 tau - 1)^2 O / 2, greatest where the
                domains are equal. Sound, but the features climb a quadratic without a top, as the classifiers' output
                is linear: features that run away faster than the classifiers follow would gain without end. So for the
                features a pixel's squared error counts up to 1 only: the classifiers at their optimum err by at most
                2 tau - 1, where the bound changes nothing.
joint_literal   (confusion, confusion): as printed; for the comparison.

Once the classifiers have adapted, every one of these losses and its gradient scales with (2 tau - 1)^2: eq. 1 is also
an annealing of lambda to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mgcda_core.config import ConfigError, MdatConfig
from mgcda_core.models.dissimilarity import Level
from mgcda_core.models.encoders import scaled


def tau(step: int, steps: int, config: MdatConfig) -> float:
    """Label of domain V at 0-based `step` of `steps`, eq. 1: from `tau_start` linearly to `tau_end`, or constant."""
    if not config.dynamic:
        return config.tau_start
    return config.tau_start - (config.tau_start - config.tau_end) * step / steps


def confusion(maps: Tensor, in_v: Tensor, tau: float) -> Tensor:
    """Eq. 2: squared distance of each domain's maps [B, 1, h, w] to the *other* domain's label, summed over domains.

    in_v: bool [B], the images of domain V; NaN if one domain has none.
    """
    return _distance(maps, in_v, 1 - tau, tau)


def truth(maps: Tensor, in_v: Tensor, tau: float, bound: float = float("inf")) -> Tensor:
    """The classifiers' own loss (spec appendix B): half the squared distance to the own domain's label, summed.

    Shapes as for `confusion`; `bound` is the largest squared error a pixel counts with.
    """
    return 0.5 * _distance(maps, in_v, tau, 1 - tau, bound)


def _distance(maps: Tensor, in_v: Tensor, label_v: float, label_a: float, bound: float = float("inf")) -> Tensor:
    v, a = maps[in_v] - label_v, maps[~in_v] - label_a
    return v.square().clamp(max=bound).mean() + a.square().clamp(max=bound).mean()


class FeatureClassifier(nn.Sequential):
    """D_f: features [B, channels, h, w] -> domain map [B, 1, h, w], near tau for V and 1 - tau for A, linear.

    Four 3x3 convolutions to 1/2, 1/4, 1/8 of the channels and 1; `width` scales the hidden ones, down to 8, as many as
    the paper's smallest has: two or three ReLUs may all be dead from the start. 512 channels at width 1: 1,549,313
    parameters (spec 4.2).
    """

    def __init__(self, channels: int, width: float = 1.0) -> None:
        hidden = [max(8, scaled(channels // 2**k, width)) for k in (1, 2, 3)]
        super().__init__(*_convolutions([channels, *hidden, 1], stride=1))


class OutputClassifier(nn.Sequential):
    """D_o: probabilities [B, channels, h, w] -> domain map [B, 1, h, w], or [B, 1, h/16, w/16] at stride 2; linear.

    Five 3x3 convolutions of 32, 64, 128, 256 and 1 channels, the hidden ones times `width`, all but the last with
    `stride`. Two channels at width 1: 390,433 parameters (spec 4.2), 51 GMAC an image of 256x512 at stride 1.
    """

    def __init__(self, channels: int = 2, width: float = 1.0, stride: int = 1) -> None:
        super().__init__(*_convolutions([channels, *(scaled(c, width) for c in (32, 64, 128, 256)), 1], stride))


def _convolutions(channels: list[int], stride: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(channels[:-1]):
        layers += [nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.ReLU(inplace=True)]
    return [*layers, nn.Conv2d(channels[-2], channels[-1], 3, padding=1)]


def encoder_features(levels: Sequence[Level], config: MdatConfig) -> list[Tensor]:
    """The features of `DissimilarityNet.pyramid` that D_f sees: of one level, or of all with `level: multi`.

    Raises ConfigError if the correlation channel is asked for and the network has none.
    """
    chosen = levels if config.level == "multi" else [levels[int(config.level) - 1]]
    if not config.with_correlation:
        return [fused for _, fused in chosen]
    features = [torch.cat([correlation, fused], 1) for correlation, fused in chosen if correlation is not None]
    if len(features) < len(chosen):
        raise ConfigError("mdat.with_correlation needs a network with dissimilarity.correlation")
    return features


def _unit_scale(feature: Tensor) -> Tensor:
    """Each image's feature [B, C, h, w] over its root mean square, float32: no gradient along its own size is left."""
    wide = feature.float()
    return wide * torch.rsqrt(wide.square().mean((1, 2, 3), keepdim=True) + 1e-12)


class MdatLosses(NamedTuple):
    """What one forward of `Mdat` gives; the graphs of the two losses share nothing, so their sum is one backward."""

    network: Tensor
    """Weighted by lambda_f and lambda_o; reaches logits and features, no parameter of a classifier."""
    classifiers: Tensor
    """Unweighted; reaches the classifiers' parameters only."""
    log: dict[str, Tensor]
    """Detached scalars: L_conf_f, L_conf_o (eq. 2), L_D_f, L_D_o (`truth`), D_accuracy_f, D_accuracy_o (share of
    pixels on their own domain's side of 0.5: near 0 in joint_literal, whose classifiers learn exchanged labels), tau,
    P_V, P_A (mean anomaly probability of each domain)."""


class Mdat(nn.Module):
    """The domain classifiers and both sides of their game (spec 4.4, appendix B); training only."""

    def __init__(self, channels: Sequence[int], config: MdatConfig) -> None:
        """channels: of every encoder feature `forward` will get. Raises ConfigError if there is nothing to align."""
        super().__init__()
        if not (config.feature or config.output):
            raise ConfigError("mdat.feature and mdat.output are both off: set mdat to null instead")
        if config.feature and not channels:
            raise ConfigError("mdat.feature is on, but the network gives no encoder feature: set it to false")
        self.config = config
        self.features = nn.ModuleList(FeatureClassifier(c, config.width) for c in channels if config.feature)
        self.output = OutputClassifier(config.output_channels, config.width, config.stride) if config.output else None

    def forward(self, logits: Tensor, features: Sequence[Tensor], in_v: Tensor, tau: float) -> MdatLosses:
        """Losses of logits [B, 2, h, w] and encoder features, each [B, C, ., .]; in_v bool [B], tau of eq. 1.

        Runs in float32. Every image counts the same: processes with as many images of each domain average to the
        gradient of the joined batch. Raises ValueError if a domain has no image.
        """
        if in_v.all() or not in_v.any():
            raise ValueError("mdat needs images of both domains in every batch (of every process)")
        with torch.autocast(logits.device.type, enabled=False):
            probability = logits.float().softmax(1)
            network = classifiers = logits.new_zeros((), dtype=torch.float32)
            log = {"tau": torch.tensor(tau)}
            log["P_V"], log["P_A"] = (probability[domain, 1].detach().mean() for domain in (in_v, ~in_v))
            if self.config.feature:
                seen = [_unit_scale(x) for x in features] if self.config.unit_scale else features
                pairs = list(zip(self.features, seen, strict=True))
                of_network, of_classifiers = self._play(pairs, in_v, tau, "f", log)
                network = network + self.config.lambda_f * of_network
                classifiers = classifiers + of_classifiers
            if self.output is not None:
                seen = probability[:, 2 - self.config.output_channels :]
                of_network, of_classifiers = self._play([(self.output, seen)], in_v, tau, "o", log)
                network = network + self.config.lambda_o * of_network
                classifiers = classifiers + of_classifiers
        return MdatLosses(network, classifiers, log)

    def _play(
        self, pairs: Sequence[tuple[nn.Module, Tensor]], in_v: Tensor, tau: float, suffix: str, log: dict[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Mean over (classifier, input) pairs of the loss of the inputs and of that of the classifiers."""
        own = 1.0 if self.config.labels == "hard" else tau  # V's label in the classifiers' own step
        network, classifiers, seen = [], [], []
        for classifier, x in pairs:
            # Detached parameters instead of switching requires_grad: no state that could be left halfway.
            constant = {name: p.detach() for name, p in classifier.named_parameters()}
            frozen = functional_call(classifier, constant, (x.float(),))
            learning = classifier(x.detach().float())
            of_network, of_classifier = self._losses(frozen, learning, in_v, tau, own)
            network.append(of_network)
            classifiers.append(of_classifier)
            maps = learning.detach()
            right = (maps > 0.5) == in_v[:, None, None, None]
            seen.append(torch.stack([confusion(maps, in_v, tau), truth(maps, in_v, own), right.float().mean()]))
        names = (f"L_conf_{suffix}", f"L_D_{suffix}", f"D_accuracy_{suffix}")
        log.update(zip(names, torch.stack(seen).mean(0).unbind(), strict=True))
        return torch.stack(network).mean(), torch.stack(classifiers).mean()

    def _losses(self, frozen: Tensor, learning: Tensor, in_v: Tensor, tau: float, own: float) -> tuple[Tensor, Tensor]:
        """The pair of `mode`, see the module's docstring."""
        if self.config.mode == "alternate":
            return confusion(frozen, in_v, tau), truth(learning, in_v, own)
        if self.config.mode == "grl":
            return -truth(frozen, in_v, own, bound=1.0), truth(learning, in_v, own)
        return confusion(frozen, in_v, own), confusion(learning, in_v, own)
