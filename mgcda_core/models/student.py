"""DiCNet's student: a small network that regresses the segmentation network's features (Zhou et al., arXiv 2112.09908).

It is taught on road scenes alone. Where its answer is off, the segmentation network saw what no scene had.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mgcda_core.config import StudentConfig
from mgcda_core.models.segmentation.ddrnet import DDRNet23Slim


class Student(nn.Module):
    """Regresses the teacher's features, normalised by BatchNorm statistics without scale and shift.

    `norm` holds these statistics; the network ends without a BatchNorm. So 1 is the error of a student that knows the
    mean of every channel and nothing else.
    """

    def __init__(self, config: StudentConfig, channels: int) -> None:
        """channels: of the teacher's features, the third of what its `outputs` gives."""
        super().__init__()
        self.network = DDRNet23Slim(config.width, channels, auxiliary=False)
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, image: Tensor, features: Tensor) -> Tensor:
        """Error float32 [B, 1, h, w] >= 0: mean over the channels of the squared difference.

        image: normalised f32 [B, 3, H, W]; features: the teacher's of it, [B, channels, h, w], as it gave them.
        """
        wanted = self.norm(features).float()
        return (self.answer(image, wanted.shape[-2:]) - wanted).square().mean(1, keepdim=True)

    def answer(self, image: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        """The student's features float32 [B, channels, *size], normalised ones."""
        own = self.network.head(self.network.embed(image)).float()
        if tuple(own.shape[-2:]) == tuple(size):
            return own
        return F.interpolate(own, tuple(size), mode="bilinear", align_corners=False)


def distilled_channels(segmentation: nn.Module) -> int:
    """Channels of the features a student of this network regresses."""
    with torch.no_grad():
        x = torch.zeros(1, 3, 64, 128)
        mode = segmentation.training
        channels = segmentation.eval().outputs(x)[2].shape[1]  # pyright: ignore[reportCallIssue]
        segmentation.train(mode)
    return channels
