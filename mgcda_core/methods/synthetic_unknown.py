"""Synthetic-unknown and its masked gradient update (Lu et al., arXiv 2111.14343; spec 7, seed 002).

Unknown samples along the boundary of the known ones: a region of a scene is moved by gradient steps to where the
network is less sure of it, the rest of the scene stays as it is. Training then weighs the known pixels at the boundary
more. Reconstruction: only the paper's abstract and introduction were at hand; the objective, the steps, the budget and
what counts as the boundary are choices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import SyntheticUnknownConfig
from mgcda_core.models.uncertainty import entropy_and_margin


def masked_gradient_update(
    confidence: Callable[[Tensor], Tensor], image: Tensor, mask: Tensor, config: SyntheticUnknownConfig
) -> Tensor:
    """uint8 [B, 3, H, W]: `image`, within `mask` moved to where the network is less sure, elsewhere the same bits.

    x~ <- clip(x~ - step * sign(gradient of the mean confidence on the mask)), `steps` times, each pixel within `budget`
    grey levels of its own and in 0..255. Whole grey levels, so that x~ is a picture like any other.

    Args: image uint8 [B, 3, H, W]; mask bool [B, H, W]; confidence: RGB float32 [B, 3, H, W] in 0..255 -> float
    [B, H, W], `softmax_confidence` of a network in evaluation mode, where images do not see each other.
    """
    if not mask.any():
        return image
    with torch.inference_mode(False), torch.enable_grad():
        inside, x = mask.clone(), image.to(torch.float32, copy=True)
        low, high = (x - config.budget).clamp(min=0), (x + config.budget).clamp(max=255)
        for _ in range(config.steps):
            # The sum: its gradient's sign is the mean's. Of x alone: the network's parameters get no gradient.
            (gradient,) = torch.autograd.grad(confidence(x.requires_grad_())[inside].sum(), x)
            moved = x.detach() - config.step * gradient.sign() * inside[:, None]
            x = torch.minimum(torch.maximum(moved, low), high)
    return x.to(torch.uint8)


def softmax_confidence(classes: Tensor) -> Tensor:
    """Largest softmax probability float32 [B, h, w] of logits [B, C, h, w] of the known classes."""
    return classes.float().softmax(1).amax(1)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, then each of its parts in the mode it had: no statistics move."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def boundary(classes: Tensor, mask: Tensor, margin: float, border: int) -> Tensor:
    """bool [B, h, w]: where the two likeliest classes differ by less than `margin`, or the mask is `border` px away.

    classes: logits [B, C, h, w] of the known classes; mask: bool [B, h, w]. The mask's own pixels are among them.
    """
    near = F.max_pool2d(mask[:, None].float(), 2 * border + 1, stride=1, padding=border) > 0
    return ((entropy_and_margin(classes.detach())[1] < margin) | near)[:, 0]
