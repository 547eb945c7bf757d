"""The ceiling of each part: what lies behind the pasted anomalies, told to the frozen networks (`PrepareConfig.truth`).

No photograph of an anomaly comes with the same road without it; a composite of domain A does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mgcda_core.config import AugmentConfig
from mgcda_core.data import anomaly_mix, augment
from mgcda_core.data.cutouts import Cutout
from mgcda_core.labels import IGNORE, NORMAL
from mgcda_core.models import resize
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter, Resynthesis


@dataclasses.dataclass(frozen=True)
class Truth:
    """A composite of domain A without its anomalies; the pasted known objects stay."""

    image: np.ndarray
    """uint8 [H, W, 3] RGB in the composite's colours, with blur, noise and JPEG of its own: off the anomalies too it
    is not the same picture, unless chance degrades neither."""
    classes: np.ndarray
    """bool [H, W, 19]: the train ids a pixel may be, by its label; all of them for void and for a pasted known object,
    whose class is not recorded."""


def uncovered(
    image: np.ndarray,
    train_ids: np.ndarray,
    label: np.ndarray,
    table: np.ndarray,
    known: Sequence[Cutout],
    provenance: Mapping[str, Any],
    config: AugmentConfig,
) -> Truth:
    """What the composite of this provenance covers.

    Args:
        image, train_ids, known: as given to `anomaly_mix.compose`; label: uint8 [H, W], the scene's own, 255 void.
        table: bool [256, 19], the train ids of each label.
        provenance: of the finished composite, `photometry_seed` included.
    """
    pastes = [paste for paste in provenance["pastes"] if paste["label"] == NORMAL]
    scene = anomaly_mix.replay(image, train_ids, {"pastes": pastes}, {}, {cutout.name: cutout for cutout in known})
    picture, label = augment.resize(scene.image, np.where(scene.pasted, IGNORE, label).astype(np.uint8), config.size)
    seed = provenance["photometry_seed"]
    picture = augment.photometric(picture, dataclasses.replace(config, degrade=0), np.random.default_rng(seed))
    picture = augment.photometric(picture, dataclasses.replace(config, colour=0), np.random.default_rng((seed, 1)))
    classes = table[label]
    return Truth(picture, classes | ~classes.any(-1, keepdims=True))


def told(
    chain: AnomalySegmenter, truths: Sequence[Truth], which: Sequence[Literal["semantics", "background"]]
) -> tuple[Resynthesis | None, Tensor | None]:
    """`made` and `semantics` of `chain.stages` for a batch of composites, None for what is not in `which`.

    Where a label leaves several classes open, the segmentation of the picture without anomalies chooses among them. The
    uncertainty maps of the segmentation stay those of the composite.
    """
    device = next(chain.parameters()).device
    picture = torch.from_numpy(np.stack([t.image for t in truths])).permute(0, 3, 1, 2).to(device)
    behind = chain.stages(picture)
    made, semantics = None, None
    if "semantics" in which:
        classes = torch.from_numpy(np.stack([t.classes for t in truths])).permute(0, 3, 1, 2).to(device)
        semantics = best_of(behind.segmentation_logits, classes)
    if "background" in which:
        features: list[Tensor] = []
        if chain.config.scaling == "fixed":
            seen = chain.segmentation_input(behind.resized)
            features = chain.segmentation.features(seen)  # pyright: ignore[reportCallIssue]
        made = dataclasses.replace(behind, synthesis=behind.image, features=features)
    return made, semantics


def best_of(logits: Tensor, classes: Tensor) -> Tensor:
    """int64 [B, h, w]: the likeliest of the classes a pixel may be.

    Args: logits float [B, 19, h, w]; classes bool [B, 19, H, W], at least one True a pixel.
    """
    allowed = resize.resize_nearest(classes, (logits.shape[-2], logits.shape[-1]))
    return logits.masked_fill(~allowed, -torch.inf).argmax(1)
