"""An outlier head on a frozen segmentation network: the second kind of host the training methods attach to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class OutlierHead(nn.Module):
    """Two-class anomaly head on the features of a segmentation network, which stays frozen and in evaluation mode.

    Trained with outliers exposed (Hendrycks, Mazeika, Dietterich, ICLR 2019) on a dense head that shares the closed-set
    network's features (Bevandic, Kreso, Orsic, Segvic, GCPR 2019), without a re-synthesis.
    """

    def __init__(self, segmentation: nn.Module, channels: int = 64, decoder_channels: int = 16) -> None:
        """segmentation: has `features(image) -> list of maps`; channels, decoder_channels: of the two features."""
        super().__init__()
        self.segmentation = segmentation.requires_grad_(False).eval()
        device = next(segmentation.parameters()).device
        maps = self._maps(torch.zeros(1, 3, 64, 128, device=device))
        self.project = nn.ModuleList(nn.Conv2d(m.shape[1], channels, 1) for m in maps)
        self.decode = nn.Conv2d(channels, decoder_channels, 3, padding=1)
        self.classify = nn.Conv2d(decoder_channels, 2, 1)

    def train(self, mode: bool = True) -> OutlierHead:
        """The segmentation network never leaves evaluation mode."""
        super().train(mode)
        self.segmentation.eval()
        return self

    def forward(self, image: Tensor) -> Tensor:
        """Logits [B, 2, h, w], class 1 = anomaly, of an image [B, 3, h, w] normalised for the segmentation network."""
        return self.features(image)[0]

    def features(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits [B, 2, h, w], encoder feature [B, channels, ., .] at the finest map's size, and decoder feature
        [B, decoder_channels, h, w]: what the losses of MDAT and CACL look at.
        """
        maps = self._maps(image)
        size = maps[0].shape[-2:]
        projected = [_resize(project(m), size) for project, m in zip(self.project, maps, strict=True)]
        encoder_feature = F.relu(torch.stack(projected).sum(0))
        decoder_feature = _resize(F.relu(self.decode(encoder_feature)), image.shape[-2:])
        return self.classify(decoder_feature), encoder_feature, decoder_feature

    def _maps(self, image: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return self.segmentation.features(image)  # pyright: ignore[reportCallIssue]


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
