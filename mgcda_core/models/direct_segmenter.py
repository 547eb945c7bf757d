"""A segmentation network that scores without re-synthesis and comparison: uint8 RGB in, anomaly logits out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_core.config import SegmenterConfig
from mgcda_core.models.closed_set_segmenter import ClosedSetSegmenter
from mgcda_core.models.student import Student, distilled_channels

ENERGY_MARGINS = (-12.0, -6.0)
"""PEBAL trains the free energy of the known below the first, of outliers above the second; between them lies 0.5."""
_LEAST = 1e-12  # an error of the student's whose logarithm stays finite
_BLUR, _SIGMA = 7, 1.0


class DirectSegmenter(ClosedSetSegmenter):
    """What synthetic-unknown, PEBAL and DiCNet leave at inference; `config.score` says what is read.

    Holds `segmentation` and, with score `distillation`, `student`. Answers as `AnomalySegmenter`.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config)
        if config.score == "distillation":
            self.student = Student(config.student, distilled_channels(self.segmentation))

    def forward(self, image: Tensor) -> Tensor:
        """Anomaly logits float32 [B, H, W] of uint8 [B, 3, H, W] RGB; sigmoid of it is the score in (0, 1)."""
        return self.predict(image)[0]

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly logits float32 [B, H, W] and train ids uint8 [B, h, w], h, w the segmentation's working size.

        image uint8 [B, 3, H, W] RGB.
        """
        x = self.segmentation_input(self.resized(image))
        features = None
        if self.config.score == "distillation":
            logits, _, features = self.segmentation.outputs(x)  # pyright: ignore[reportCallIssue]
        else:  # some networks need a second pass for their features
            logits = self.segmentation(x)
        classes = self.classes_of(logits).float()
        if features is not None:
            raw = self.student(x, features).clamp(min=_LEAST).log()
        elif self.config.score == "unknown":
            raw = logits[:, -1:].float() - torch.logsumexp(classes, 1, keepdim=True)
        elif self.config.score == "energy":
            raw = blurred(-torch.logsumexp(classes, 1, keepdim=True)) - sum(ENERGY_MARGINS) / 2
        else:
            raw = _unlikelihood(classes)
        size = (image.shape[-2], image.shape[-1])
        score = F.interpolate(raw, size, mode="bilinear", align_corners=False)[:, 0]
        return score, classes.argmax(1).to(torch.uint8)

    def student_error(self, image: Tensor) -> Tensor:
        """Error of the student float32 [B, 1, h, w] >= 0 on uint8 [B, 3, H, W] RGB, at the features' resolution.

        Of score `distillation` alone, whose logit is its logarithm.
        """
        x = self.segmentation_input(self.resized(image))
        return self.student(x, self.segmentation.outputs(x)[2])  # pyright: ignore[reportCallIssue]


def blurred(energy: Tensor) -> Tensor:
    """[B, 1, h, w] with a Gaussian of 7x7 and sigma 1, borders repeated, as PEBAL smooths its score (spec 7)."""
    offsets = torch.arange(_BLUR, device=energy.device) - _BLUR // 2
    row = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    row = (row / row.sum()).to(energy.dtype)
    padded = F.pad(energy, (_BLUR // 2,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, row.view(1, 1, 1, -1)), row.view(1, 1, -1, 1))


def _unlikelihood(logits: Tensor) -> Tensor:
    """Logit of 1 - max softmax, log of the others' probability over the likeliest's, [B, 1, h, w].

    The likeliest is masked, not subtracted, so that confident pixels keep their order; as in `entropy_and_margin`.
    """
    z = logits - logits.amax(1, keepdim=True)
    rest = torch.where(z == 0, 0.0, z.exp()).sum(1, keepdim=True)
    tied = (z == 0).float().sum(1, keepdim=True) - 1
    return (rest + tied).clamp(min=_LEAST).log()
