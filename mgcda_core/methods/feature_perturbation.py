"""Pointwise adversarial perturbation of a feature map, and a classifier made invariant to it.

Source: Yang et al., An Adversarial Perturbation Oriented Domain Adaptation Approach for Semantic Segmentation, AAAI
2020 (arXiv 1912.08954). Aligning two domains by one adversarial loss over all positions serves the classes that cover
most of them. Here every position is perturbed by itself, as far as every other, and the classifier is to answer the
same: what it learns on a small object is what it learns on the road.

Reconstruction (spec 7, seed 003; the abstract alone was at hand): the step's form, its sizes, the loss of the defence,
the attack on the classifier's own answer where there is no label, and that BatchNorms between the feature map and the
logits use their running statistics, since those of a batch would tie the positions together and subtract a shift that
all of them share.

The domain classifier is trained as MDAT's (spec 4.4 (a)), on clean features with hard labels; no loss of it reaches
the network. It is one of its own: MDAT's answers the domain of label 0 with ReLUs that are all off, and where it has no
gradient there is nothing to attack.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import PerturbationConfig
from mgcda_core.methods.mdat import confusion, truth

Loss = Callable[[Tensor], Tensor]
"""A map or its logits [B, ., h, w] -> a scalar."""


class DomainClassifier(nn.Sequential):
    """Features [B, channels, h, w] -> domain map [B, 1, h, w], near 1 in the first domain and 0 in the second; linear.

    Three 1x1 convolutions, so that a position is judged by its own feature, with leaky ReLUs, which always have a
    gradient.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__(
            nn.Conv2d(channels, hidden, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(hidden, hidden, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(hidden, 1, 1),
        )


def perturb(features: Tensor, domain_loss: Loss, task_loss: Loss, config: PerturbationConfig) -> Tensor:
    """The perturbation delta [B, C, h, w], float32, of a feature map of this shape, which lowers `domain_loss` and
    raises `task_loss`.

    `config.steps` times, each objective moves every value by its own step, whatever the size of its gradient: sign
    before sum. Steps are in standard deviations of the value's channel over batch and positions. Only gradients of the
    map are computed, so no parameter's is touched.
    """
    start = features.detach().float()
    scale = start.std((0, 2, 3), keepdim=True)
    delta = torch.zeros_like(start)
    for _ in range(config.steps):
        x = (start + delta).requires_grad_()
        (toward,) = torch.autograd.grad(domain_loss(x), x)
        (against,) = torch.autograd.grad(task_loss(x), x)
        delta = delta + scale * (config.task_step * against.sign() - config.domain_step * toward.sign())
    return delta


@contextmanager
def running_statistics(network: nn.Module) -> Iterator[None]:
    """BatchNorms normalise with their running statistics and leave them as they are."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.training]
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


class PerturbationLosses(NamedTuple):
    """What one forward of `Perturbation` gives; the graphs of the two losses share nothing."""

    network: Tensor
    """The defence, weighted; reaches no parameter of the domain classifier."""
    classifier: Tensor
    """Reaches the domain classifier's parameters only."""
    log: dict[str, Tensor]
    """Detached scalars: L_P (cross entropy of perturbed features), L_inv (change of the probabilities, 0 to 2), L_D_p,
    D_accuracy_p (share of positions on their own domain's side of 0.5), D_attacked (that share once perturbed)."""


class Perturbation(nn.Module):
    """The domain classifier of a feature map, the attack and the defence; training only."""

    def __init__(self, channels: int, config: PerturbationConfig) -> None:
        """channels: of the feature map."""
        super().__init__()
        self.config = config
        self.domain = DomainClassifier(channels, config.hidden)

    def forward(
        self, features: Tensor, decode: Callable[[Tensor], Tensor], cross_entropy: Loss, in_v: Tensor, labelled: Tensor
    ) -> PerturbationLosses:
        """Losses of a feature map [B, C, h, w] of two domains.

        Args:
            decode: feature map -> logits [B, classes, H, W]; it is called with perturbed maps, and with `encoder` off
                must hold no other path to what made the features.
            cross_entropy: logits -> mean over the labelled images; it must leave out the others.
            in_v: bool [B], images of the first domain (V, source), of which both must be in the batch.
            labelled: bool [B]; the other images are attacked where the classifier's own answer is.
        """
        with torch.autocast(features.device.type, enabled=False):
            clean = features.detach().float()
            learning = self.domain(clean)
            own = truth(learning, in_v, 1.0)
            with torch.no_grad():
                reference = decode(clean).float()

            def task_loss(x: Tensor) -> Tensor:
                logits = decode(x).float()
                loss = cross_entropy(logits)
                if not labelled.all():  # a soft target's gradient would be 0 at the start: the answer is its minimum
                    loss = loss + F.cross_entropy(logits[~labelled], reference[~labelled].argmax(1))
                return loss

            delta = perturb(clean, lambda x: confusion(self.domain(x), in_v, 1.0), task_loss, self.config)
            logits = decode((features.float() if self.config.encoder else clean) + delta).float()
            wrong = cross_entropy(logits)
            change = (logits.softmax(1) - reference.softmax(1)).square().sum(1).mean()
            moved = self.domain(clean + delta).detach()
        right, still = ((maps.detach() > 0.5) == in_v[:, None, None, None] for maps in (learning, moved))
        log = {
            "L_P": wrong.detach(),
            "L_inv": change.detach(),
            "L_D_p": own.detach(),
            "D_accuracy_p": right.float().mean(),
            "D_attacked": still.float().mean(),
        }
        return PerturbationLosses(self.config.weight * wrong + self.config.consistency * change, own, log)
