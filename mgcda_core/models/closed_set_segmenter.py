"""The chain's first part alone: resizing, normalisation, segmentation network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import SegmenterConfig
from mgcda_core.models import resize
from mgcda_core.models.segmentation import build_segmentation


class ClosedSetSegmenter(nn.Module):
    """The chain's first part alone, `segmentation`: all that a baseline of the segmentation network needs."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__()
        self.config = config
        self.segmentation = build_segmentation(config.segmentation, auxiliary=False)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1), persistent=False)

    def segmentation_logits(self, image: Tensor) -> Tensor:
        """Closed-set logits float32 [B, 19, hw, ww] at the working size of uint8 [B, 3, H, W] RGB."""
        return self.classes_of(self.segmentation(self.segmentation_input(self.resized(image)))).float()

    def classes_of(self, logits: Tensor) -> Tensor:
        """The classes' channels of what the network answers, [B, 19, h, w]: all, or all but the `unknown` output."""
        return logits[:, : self.config.segmentation.num_classes] if self.config.segmentation.unknown else logits

    def resized(self, image: Tensor) -> Tensor:
        """uint8 [B, 3, H, W] -> float32 [B, 3, hw, ww] in 0..255 at the segmentation's working size."""
        size = self.config.segmentation.size
        if self.config.scaling == "reference":
            return resize.resize_bicubic_u8(image, size).float()
        return F.interpolate(image.float(), size, mode="bilinear", align_corners=False, antialias=shrinks(image, size))

    def normalise(self, image01: Tensor) -> Tensor:
        """ImageNet normalisation of [B, 3, h, w] in [0, 1]."""
        return (image01 - self.mean) / self.std

    def segmentation_input(self, resized: Tensor) -> Tensor:
        """What the segmentation network takes of what `resized` returned, [B, 3, hw, ww]."""
        return self._segmentation_range(resized / 255)

    def _segmentation_range(self, image01: Tensor) -> Tensor:
        return self.normalise(image01) if self.config.segmentation.normalise == "imagenet" else image01


def shrinks(image: Tensor, size: tuple[int, int]) -> bool:
    """Whether resizing [..., H, W] to `size` makes a side shorter, so that it needs antialiasing."""
    return image.shape[-2] > size[0] or image.shape[-1] > size[1]
