"""The whole chain as one network: uint8 RGB in, anomaly logits at the input size out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_core.config import ConfigError, SegmenterConfig
from mgcda_core.labels import IGNORE
from mgcda_core.models import resize, uncertainty
from mgcda_core.models.closed_set_segmenter import ClosedSetSegmenter, shrinks
from mgcda_core.models.dissimilarity import DissimilarityNet
from mgcda_core.models.encoders import Vgg19Slices
from mgcda_core.models.student import Student, distilled_channels
from mgcda_core.models.synthesis import Generator, StyleEncoder, label_maps

_LEAST = 1e-6
"""Scores are kept this far from 0 and 1, so that their logits stay finite."""


@dataclass
class Resynthesis:
    """The picture painted from a frame's classes and style; sizes as in `Stages`."""

    maps36: Tensor
    """float32 [B, 36, hs, ws]: 35 one-hot label ids and the edge channel, the generator's input."""
    mu: Tensor
    logvar: Tensor
    """float32 [B, z_dim]: the style encoder's mean and log variance."""
    generated: Tensor
    """float32 [B, 3, ds hs, ds ws] in [-1, 1], the generator's output."""
    synthesis: Tensor
    """float32 [B, 3, d h, d w] in [0, 1], the re-synthesis the comparison sees."""
    features: list[Tensor]
    """The segmentation encoder's maps of it; none with reference scaling, where VGG19 looks at both pictures."""


@dataclass
class Stages(Resynthesis):
    """Every intermediate of one pass; h, w is the dissimilarity's size, d its `detail`, hs, ws, ds the synthesis'."""

    resized: Tensor
    """RGB at the segmentation's working size [B, 3, hw, ww]; 0..255 (whole numbers with reference scaling)."""
    segmentation_logits: Tensor
    """float32 [B, 19, ., .]; at the working size with reference scaling, else at h, w."""
    segmentation: Tensor
    """int64 [B, ., .] train ids, the argmax of the logits above."""
    entropy: Tensor
    """float32 [B, 1, ., .] in [0, 1], same size as the logits."""
    distance: Tensor
    """float32 [B, 1, ., .] in [0, 1], same size as the logits."""
    image: Tensor
    """float32 [B, 3, d h, d w] in [0, 1], the input image at the same size."""
    semantic: Tensor
    """float32 [B, 19 or 20, h, w], one-hot predicted classes."""
    prior: Tensor
    """float32 [B, 3, h, w] in [0, 1]: entropy, perceptual difference, distance; [B, 4, h, w] with a student, whose
    error d is the last channel as d / (1 + d)."""
    perceptual_raw: Tensor
    """float32 [B, 1, h, w]: the perceptual difference before any per-image scaling."""


class AnomalySegmenter(ClosedSetSegmenter):
    """Segmentation -> synthesis -> uncertainty -> dissimilarity (SynBoost's chain, which MGCDA trains; spec 1.0).

    Holds `segmentation`, `generator`, `style_encoder`, `dissimilarity`, with `perceptual: vgg19` `perceptual`, and
    with distillation in the prior `student`. Only the dissimilarity network is trained by MGCDA; `stages` runs the
    frozen part, `compare` the trained one.
    """

    def __init__(self, config: SegmenterConfig) -> None:
        super().__init__(config)
        if config.scaling == "reference" and max(config.dissimilarity.detail, config.synthesis.detail) > 1:
            raise ConfigError("detail 2 needs scaling fixed: the published arithmetic has no such step")
        self.generator = Generator(config.synthesis)
        self.style_encoder = StyleEncoder(config.synthesis)
        self.dissimilarity = DissimilarityNet(config.dissimilarity, config.segmentation.num_classes)
        if config.perceptual == "vgg19":
            self.perceptual = uncertainty.PerceptualDifference(Vgg19Slices())
        self._distils = "distillation" in config.dissimilarity.prior
        if self._distils:
            self.student = Student(config.student, distilled_channels(self.segmentation))

    def forward(self, image: Tensor) -> Tensor:
        """Anomaly logits of a batch of images.

        Args: image uint8 [B, 3, H, W] RGB. Returns float32 [B, H, W]; sigmoid of it is the score in (0, 1).
        """
        return self.predict(image)[0]

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What every runtime answers with: anomaly logits float32 [B, H, W] and train ids uint8 [B, h, w].

        image uint8 [B, 3, H, W] RGB; h, w is the resolution at which the chain takes its classes.
        """
        return self.answer(self.stages(image), (image.shape[-2], image.shape[-1]))

    def answer(self, stages: Stages, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What `predict` returns for frames of `size` (height, width), of what `stages` returned."""
        return self.to_input_size(self.compare(stages), stages, size), stages.segmentation.to(torch.uint8)

    def stages(self, image: Tensor, *, made: Resynthesis | None = None, semantics: Tensor | None = None) -> Stages:
        """The frozen part of the chain on uint8 [B, 3, H, W] RGB; see `Stages`.

        `made` replaces the re-synthesis, by that of an earlier frame for example. `semantics` (int64 [B, H, W] train
        ids, 255 where the prediction stays) replaces the predicted classes: for VoidClass' options.
        """
        if self.config.scaling == "reference":
            return self._reference_stages(image, made, semantics)
        return self._fixed_stages(image, made, semantics)

    def compare(self, stages: Stages) -> Tensor:
        """Dissimilarity logits float32 [B, 2, h, w] (class 1 = anomaly) of what `stages` returned."""
        return self.dissimilarity(
            self.normalise(stages.image), self.normalise(stages.synthesis), stages.semantic, stages.prior
        )

    def to_input_size(self, logits: Tensor, stages: Stages, size: tuple[int, int]) -> Tensor:
        """Two-class logits [B, 2, h, w] -> anomaly logits [B, H, W], the entropy ensemble included (spec 1.8)."""
        if self.config.entropy_weight > 0 and self.config.scaling == "reference":
            return torch.logit(self.ensemble_score(logits, stages, size), eps=_LEAST)
        difference = (logits[:, 1:] - logits[:, :1]).float()
        if self.config.entropy_weight > 0:  # resized as logits: cheaper than at full size, and no step is published
            difference = torch.logit(self._mixed(logits, stages, self.config.entropy_weight), eps=_LEAST)
        return F.interpolate(difference, size, mode="bilinear", align_corners=False)[:, 0]

    def ensemble_score(
        self, logits: Tensor, stages: Stages, size: tuple[int, int], weight: float | None = None
    ) -> Tensor:
        """(1 - w) * softmax class 1 + w * entropy, resized bicubically to [B, H, W]; may leave [0, 1] by a little.

        w is `weight`, or the configuration's `entropy_weight`.
        """
        weight = self.config.entropy_weight if weight is None else weight
        return resize.resize_bicubic_float(self._mixed(logits, stages, weight), size)[:, 0]

    def _mixed(self, logits: Tensor, stages: Stages, weight: float) -> Tensor:
        """The ensemble at the dissimilarity's size, float32 [B, 1, h, w] in [0, 1]."""
        difference = (logits[:, 1:] - logits[:, :1]).float()
        return (1 - weight) * difference.sigmoid() + weight * stages.prior[:, :1]

    def _style(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = self.style_encoder(image)
        if self.config.synthesis.style == "mean":
            return mu, mu, logvar
        return mu + torch.randn_like(mu) * torch.exp(0.5 * logvar), mu, logvar

    def _fixed_stages(self, image: Tensor, made: Resynthesis | None, semantics: Tensor | None) -> Stages:
        size, detail = self.config.dissimilarity.size, self.config.dissimilarity.detail
        resized = self.resized(image)
        logits, features, surprise = self._segmented(resized)
        labels = _overridden(logits.argmax(1), semantics)
        fine = (detail * size[0], detail * size[1])
        if made is None:
            maps36, coarse = self._synthesis_inputs(resized, labels)
            z, mu, logvar = self._style(coarse * 2 - 1)
            generated = self.generator(maps36, z).float()
            synthesis = _resize((generated + 1) / 2, fine)
            again = self.segmentation.features(  # pyright: ignore[reportCallIssue]
                self._segmentation_range(_resize(synthesis, self.config.segmentation.size))
            )
            made = Resynthesis(maps36, mu, logvar, generated, synthesis, again)
        difference = uncertainty.cosine_difference(features, made.features, size)
        entropy, distance = uncertainty.uncertainty_maps(logits, scaling="fixed")
        prior = torch.cat([entropy, difference, distance, *surprise], 1)
        return Stages(
            made.maps36, made.mu, made.logvar, made.generated, made.synthesis, made.features, resized, logits,
            labels, entropy, distance, _resize(resized / 255, fine), self.dissimilarity.semantics(labels), prior,
            difference,
        )  # fmt: skip

    def synthesis_inputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What the re-synthesis starts from, with fixed scaling; its training uses the same.

        Args: image uint8 [B, 3, H, W] RGB. Returns label maps [B, 36, hs, ws] and the image in [0, 1] at the generated
        image's size.
        """
        resized = self.resized(image)
        return self._synthesis_inputs(resized, self._segmented(resized)[0].argmax(1))

    def _segmented(self, resized: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Of the image in 0..255 at the segmentation's size, in one pass: logits [B, 19, ., .] (see `Stages`), the
        encoder's maps (none with reference scaling), and with a student the fourth map of the prior."""
        x, size = self.segmentation_input(resized), self.config.dissimilarity.size
        network, fixed, surprise = self.segmentation, self.config.scaling == "fixed", []
        if self._distils:
            logits, features, distilled = network.outputs(x, size if fixed else None)  # pyright: ignore[reportCallIssue]
            error = _resize(self.student(x, distilled), size)
            surprise = [error / (1 + error)]
        elif fixed:
            logits, features = network.logits_and_features(x, size)  # pyright: ignore[reportCallIssue]
        else:
            logits, features = network(x), []
        return self.classes_of(logits).float(), features, surprise

    def _synthesis_inputs(self, resized: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        (height, width), detail = self.config.synthesis.size, self.config.synthesis.detail
        coarse = _resize(resized / 255, (detail * height, detail * width))
        return label_maps(_nearest(labels, (height, width))), coarse

    def _reference_stages(self, image: Tensor, made: Resynthesis | None, semantics: Tensor | None) -> Stages:
        """The published arithmetic, 8-bit steps and nearest down-sampling included (spec 1.1 to 1.6)."""
        size = self.config.dissimilarity.size
        resized = self.resized(image)
        logits, _, surprise = self._segmented(resized)
        labels = _overridden(logits.argmax(1), semantics)
        entropy, distance = uncertainty.uncertainty_maps(logits, scaling="reference")
        if made is None:
            maps36 = label_maps(_nearest(labels, self.config.synthesis.size))
            coarse = resize.resize_bicubic_u8(resized.to(torch.uint8), self.config.synthesis.size).float() / 255
            z, mu, logvar = self._style(coarse * 2 - 1)
            generated = self.generator(maps36, z).float()
            synthesis = resize.truncate_8bit(resize.resize_nearest((generated + 1) / 2, size))
            made = Resynthesis(maps36, mu, logvar, generated, synthesis, [])
        small = resize.resize_nearest(resized, size) / 255
        raw = self.perceptual(self.normalise(small), self.normalise(made.synthesis)).float()
        prior = torch.cat(
            [
                resize.resize_nearest(entropy, size),
                uncertainty.minmax_8bit(raw),
                resize.resize_nearest(distance, size),
                *surprise,
            ],
            1,
        )
        return Stages(
            made.maps36, made.mu, made.logvar, made.generated, made.synthesis, made.features, resized, logits,
            labels, entropy, distance, small, self.dissimilarity.semantics(_nearest(labels, size)), prior, raw,
        )  # fmt: skip


def _nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    return resize.resize_nearest(labels[:, None].float(), size)[:, 0].long()


def _overridden(predicted: Tensor, semantics: Tensor | None) -> Tensor:
    if semantics is None:
        return predicted
    semantics = _nearest(semantics, (predicted.shape[-2], predicted.shape[-1]))
    return torch.where(semantics == IGNORE, predicted, semantics)


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    if (image.shape[-2], image.shape[-1]) == size:
        return image
    return F.interpolate(image, size, mode="bilinear", align_corners=False, antialias=shrinks(image, size))
