"""The chain: its four networks and how they are joined.

`PROFILES` holds the two chains this package ships a configuration for:
`reference` (the published sizes, SynBoost / MGCDA) and `lite` (real time).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal

PRIORS = ("entropy", "perceptual", "distance", "distillation")
"""The maps of `DissimilarityConfig.prior` in their order: softmax entropy, perceptual difference, softmax distance, and
the error of a DiCNet student."""


class ConfigError(ValueError):
    """A configuration value is out of range; the message names the field and what to do."""


@dataclass(frozen=True)
class SegmentationConfig:
    """The closed-set segmentation network at the head of the chain."""

    architecture: Literal["deeplabv3plus", "enet", "ddrnet23_slim", "huggingface"] = "ddrnet23_slim"
    """Network: DeepLabV3+ with WideResNet-38, ENet, DDRNet-23-slim (real time), or any of Hugging Face transformers."""
    source: str = ""
    """With `huggingface`: hub name or folder of the model; training starts from its weights."""
    huggingface: str = ""
    """With `huggingface`: the model's own configuration as JSON. Training fills it in, so that a weights file needs
    neither the hub nor the folder."""
    width: int = 32
    """Base width in channels (DDRNet 32, WideResNet-38 stem 64, ENet 16 are the published sizes)."""
    num_classes: int = 19
    """Classes of the output, Cityscapes train ids (a network with a 20th void output keeps its own; it is cut off)."""
    size: tuple[int, int] = (384, 768)
    """Working size (height, width) the image is resized to before the network."""
    normalise: Literal["imagenet", "unit"] = "imagenet"
    """Input range: ImageNet mean and std, or plain [0, 1] (the public ENet weights)."""
    unknown: bool = False
    """One more output after the classes, for what is none of them: synthetic-unknown's class, PEBAL's abstention. No
    predicted class is ever it."""

    @property
    def outputs(self) -> int:
        """Channels of the network's logits: the classes first, then `unknown`."""
        return self.num_classes + self.unknown


@dataclass(frozen=True)
class StudentConfig:
    """DiCNet's distilled network: a DDRNet-23-slim that regresses the segmentation network's features."""

    width: int = 16
    """Base width in channels; below the segmentation network's, so that it can learn the scenes but no more."""


@dataclass(frozen=True)
class SynthesisConfig:
    """CC-FPSE generator and its style encoder (spec 1.5)."""

    ngf: int = 64
    """Generator width; the deepest blocks have 16 x ngf channels, the label pyramid ngf."""
    hidden: int = 128
    """Hidden channels of the weight- and gate-predicting convolutions."""
    z_dim: int = 256
    """Length of the style code."""
    encoder_width: int = 64
    """Channels of the style encoder's first layer; it grows to 8 times that."""
    size: tuple[int, int] = (256, 512)
    """Size (height, width) of the label maps and of the finest block; both are multiples of 64."""
    detail: Literal[1, 2] = 1
    """Resolution of the generated image, as a multiple of `size`: with 2 the last convolution gives 2x2 pixels a place
    (Shi et al., Real-Time Single Image and Video Super-Resolution ..., CVPR 2016)."""
    style: Literal["mean", "sample"] = "mean"
    """Style code at inference: the encoder's mean (reproducible) or a sample, as the original draws it."""


@dataclass(frozen=True)
class DissimilarityConfig:
    """DissimilarityNet (spec 1.7)."""

    width: float = 1.0
    """Factor on every channel count; 1.0 is the published size (18.8 M parameters)."""
    detail: Literal[1, 2] = 1
    """Resolution at which image and re-synthesis enter, as a multiple of `size`: with 2 their encoder's first
    convolution has stride 2."""
    stem_kernel: int = 7
    """Kernel of the first convolution of the semantic and the prior encoder."""
    spade_hidden: int = 128
    """Hidden channels of every SPADE layer at width 1."""
    correlation_groups: int = 1
    """Correlation channels at every level: the features' channels are summed in as many groups (published: 1)."""
    void_channel: bool = False
    """A semantic channel for void (255) beside the classes' (published: void is zero in all)."""
    semantic: bool = True
    """Encode the predicted semantics as a third input."""
    prior: tuple[Literal["entropy", "perceptual", "distance", "distillation"], ...] = PRIORS[:3]
    """Maps by whose encoding the fused features are multiplied: entropy, perceptual, distance; these and distillation,
    the error of DiCNet's student (Zhou et al., arXiv 2112.09908), whose network the chain then holds; or none."""
    correlation: bool = True
    """Prepend the image-synthesis correlation channel at every level."""
    residual: bool = False
    """Start from the entropy's logit and learn what to correct (published: no). The decoder's instance norms lose how
    sure the segmentation is of the image as a whole, and a short training does not find its way back."""
    spade: Literal["decoder", "none"] = "decoder"
    """Where the semantics modulate the decoder: SPADE layers, or plain convolutions."""
    size: tuple[int, int] = (256, 512)
    """Size (height, width) of semantics, uncertainty maps and logits; both are multiples of 8."""

    def __post_init__(self) -> None:
        if self.prior not in (PRIORS[:3], PRIORS, ()):
            raise ConfigError(f"dissimilarity.prior is [{', '.join(self.prior)}]: give [{', '.join(PRIORS[:3])}], "
                              f"[{', '.join(PRIORS)}] or []")  # fmt: skip

    @property
    def maps(self) -> int:
        """Channels of the uncertainty maps the chain computes, whether or not they are encoded: three, or with
        distillation four."""
        return max(3, len(self.prior))


@dataclass(frozen=True)
class SegmenterConfig:
    """The whole chain: segmentation, synthesis, uncertainty, dissimilarity; or a segmentation network that scores."""

    score: Literal["dissimilarity", "msp", "unknown", "energy", "distillation"] = "dissimilarity"
    """Where the score comes from: the whole chain's comparison, or the segmentation network with neither re-synthesis
    nor comparison: 1 - largest softmax probability, probability of its `unknown` output, free energy of the classes
    (PEBAL), error of the student (DiCNet)."""
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    dissimilarity: DissimilarityConfig = field(default_factory=DissimilarityConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    """Of score `distillation`, and of a `dissimilarity.prior` that names distillation."""
    scaling: Literal["fixed", "reference"] = "fixed"
    """Uncertainty maps and resizing: `fixed` scales (a clean road stays low), or `reference` (per-image extrema,
    8-bit steps, nearest down-sampling, spec 1.4), which imported weights need."""
    perceptual: Literal["segmentation", "vgg19"] = "segmentation"
    """Frozen encoder of the perceptual difference: the segmentation network's own early stages, or VGG19."""
    entropy_weight: float = 0.0
    """Share of the softmax entropy in the final score (0.25 in SynBoost's ensemble, spec 1.8)."""
    threshold: float = 0.5
    """Score above which a pixel is masked as an anomaly; chosen on held-out synthetic data at the end of training."""

    def __post_init__(self) -> None:
        if self.score == "unknown" and not self.segmentation.unknown:
            raise ConfigError("score unknown needs segmentation.unknown, the output it reads")

    def to_json(self) -> str:
        """One line of JSON, as stored in the metadata of a weights file."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @staticmethod
    def from_json(text: str) -> SegmenterConfig:
        """Inverse of `to_json`. Raises ConfigError for unknown, missing or mistyped fields."""
        try:
            return _typed_as(SegmenterConfig(), json.loads(text), "it")
        except ValueError as error:
            raise ConfigError(f"not a segmenter configuration: {error}") from error


_LATER = ("source", "huggingface", "detail", "stem_kernel", "spade_hidden", "correlation_groups", "void_channel",
          "residual", "unknown", "student", "score")  # fmt: skip
"""Fields that came after the first weights files, which lack them: the default is what those were made with."""


def _typed_as(default: Any, value: Any, name: str) -> Any:
    """A value of JSON in the type of the field's default: a dataclass, a size, a number, a text, yes or no."""
    if dataclasses.is_dataclass(default) and isinstance(value, dict):
        value = {key: entry for key, entry in vars(default).items() if key in _LATER} | value
        if wrong := sorted(value.keys() ^ vars(default).keys()):
            raise ValueError(f"{name} {'has an unknown' if wrong[0] in value else 'lacks the'} field {wrong[0]}")
        return type(default)(**{key: _typed_as(getattr(default, key), entry, key) for key, entry in value.items()})
    if name == "prior":
        return _names(default, value)
    if isinstance(default, tuple) and isinstance(value, list) and [type(v) for v in value] == [int, int]:
        return tuple(value)
    if type(value) is type(default) or (type(default) is float and type(value) is int):
        return value
    kind = "two whole numbers" if isinstance(default, tuple) else type(default).__name__
    raise ValueError(f"{name} is {value!r}, not {kind}")


def _names(default: Any, value: Any) -> tuple[str, ...]:
    """The maps of a prior; weights files from before there was a choice say yes or no."""
    if isinstance(value, bool):
        return default if value else ()
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return tuple(value)
    raise ValueError(f"prior is {value!r}, not a list of names")


PROFILES: dict[str, SegmenterConfig] = {
    "reference": SegmenterConfig(
        segmentation=SegmentationConfig(architecture="deeplabv3plus", width=64, size=(1024, 2048)),
        scaling="reference",
        perceptual="vgg19",
        entropy_weight=0.25,
    ),
    "lite": SegmenterConfig(
        # Channels in multiples of 16, nothing finer than half the working size but the first convolutions: what ONNX
        # Runtime's CPU kernels and TensorRT run best (docs/performance.md).
        segmentation=SegmentationConfig(architecture="ddrnet23_slim", width=24, size=(256, 512)),
        synthesis=SynthesisConfig(ngf=8, hidden=16, z_dim=64, encoder_width=8, size=(64, 128), detail=2),
        dissimilarity=DissimilarityConfig(
            width=0.25,
            detail=2,
            stem_kernel=3,
            spade_hidden=64,
            correlation_groups=4,
            void_channel=True,
            residual=True,
            size=(128, 256),
        ),
        entropy_weight=0.75,
    ),
}
