"""Every dataclass and default of the package; a docstring stands under each field.

Sizes are (height, width) everywhere. `PROFILES` holds the two chains this package ships a configuration for:
`reference` (the published sizes, SynBoost / MGCDA) and `lite` (real time).
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, Literal


class ConfigError(ValueError):
    """A configuration value is out of range; the message names the field and what to do."""


@dataclass(frozen=True)
class SegmentationConfig:
    """The closed-set segmentation network at the head of the chain."""

    architecture: Literal["deeplabv3plus", "enet", "ddrnet23_slim"] = "ddrnet23_slim"
    """Network: DeepLabV3+ with WideResNet-38, ENet, or DDRNet-23-slim (real time)."""
    width: int = 32
    """Base width in channels (DDRNet 32, WideResNet-38 stem 64, ENet 16 are the published sizes)."""
    num_classes: int = 19
    """Classes of the output, Cityscapes train ids (a network with a 20th void output keeps its own; it is cut off)."""
    size: tuple[int, int] = (384, 768)
    """Working size (height, width) the image is resized to before the network."""
    normalise: Literal["imagenet", "unit"] = "imagenet"
    """Input range: ImageNet mean and std, or plain [0, 1] (the public ENet weights)."""


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
    """Synthesis size (height, width); both are multiples of 64."""
    style: Literal["mean", "sample"] = "mean"
    """Style code at inference: the encoder's mean (reproducible) or a sample, as the original draws it."""


@dataclass(frozen=True)
class DissimilarityConfig:
    """DissimilarityNet (spec 1.7)."""

    width: float = 1.0
    """Factor on every channel count; 1.0 is the published size (18.8 M parameters)."""
    semantic: bool = True
    """Encode the predicted semantics as a third input."""
    prior: bool = True
    """Multiply the fused features by the encoded uncertainty maps."""
    correlation: bool = True
    """Prepend the image-synthesis correlation channel at every level."""
    spade: Literal["decoder", "none"] = "decoder"
    """Where the semantics modulate the decoder: SPADE layers, or plain convolutions."""
    size: tuple[int, int] = (256, 512)
    """Working size (height, width); both are multiples of 8."""


@dataclass(frozen=True)
class SegmenterConfig:
    """The whole chain: segmentation, synthesis, uncertainty, dissimilarity."""

    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    synthesis: SynthesisConfig = field(default_factory=SynthesisConfig)
    dissimilarity: DissimilarityConfig = field(default_factory=DissimilarityConfig)
    scaling: Literal["fixed", "reference"] = "fixed"
    """Uncertainty maps and resizing: `fixed` scales (a clean road stays low), or `reference` (per-image extrema,
    8-bit steps, nearest down-sampling, spec 1.4), which imported weights need."""
    perceptual: Literal["segmentation", "vgg19"] = "segmentation"
    """Frozen encoder of the perceptual difference: the segmentation network's own early stages, or VGG19."""
    entropy_weight: float = 0.0
    """Share of the softmax entropy in the final score (0.25 in SynBoost's ensemble, spec 1.8)."""
    threshold: float = 0.5
    """Score above which a pixel is masked as an anomaly; chosen on held-out synthetic data at the end of training."""

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


def _typed_as(default: Any, value: Any, name: str) -> Any:
    """A value of JSON in the type of the field's default: a dataclass, a size, a number, a text, yes or no."""
    if dataclasses.is_dataclass(default) and isinstance(value, dict):
        if wrong := sorted(value.keys() ^ vars(default).keys()):
            raise ValueError(f"{name} {'has an unknown' if wrong[0] in value else 'lacks the'} field {wrong[0]}")
        return type(default)(**{key: _typed_as(getattr(default, key), entry, key) for key, entry in value.items()})
    if isinstance(default, tuple) and isinstance(value, list) and [type(v) for v in value] == [int, int]:
        return tuple(value)
    if type(value) is type(default) or (type(default) is float and type(value) is int):
        return value
    kind = "two whole numbers" if isinstance(default, tuple) else type(default).__name__
    raise ValueError(f"{name} is {value!r}, not {kind}")


PROFILES: dict[str, SegmenterConfig] = {
    "reference": SegmenterConfig(
        segmentation=SegmentationConfig(architecture="deeplabv3plus", width=64, size=(1024, 2048)),
        scaling="reference",
        perceptual="vgg19",
        entropy_weight=0.25,
    ),
    "lite": SegmenterConfig(
        segmentation=SegmentationConfig(architecture="ddrnet23_slim", width=24, size=(384, 768)),
        synthesis=SynthesisConfig(ngf=8, hidden=12, z_dim=64, encoder_width=8, size=(128, 256)),
        dissimilarity=DissimilarityConfig(width=0.1875, size=(256, 512)),
    ),
}


@dataclass(frozen=True)
class DataConfig:
    """Where the training scenes and the objects to paste come from; leave out what you do not have."""

    camvid: str | None = None
    """Folder of CamVid, 11-class form: {train,val}/{images,labels}."""
    idd_lite: str | None = None
    """Folder of IDD-Lite: images/ and masks/, files named train_* and val_*."""
    cityscapes_train_ids: str | None = None
    """Folder of Cityscapes frames with train-id labels: images/ and masks/."""
    rendered: int = 0
    """Number of procedurally drawn scenes (seeds 0, 1, ...; the demo's seeds start at 1 000 000)."""
    objects: tuple[str, ...] = ()
    """Folders of cut-out objects: images/ and masks/, an instances.json if the masks hold instance ids."""

    def __post_init__(self) -> None:
        if not (self.camvid or self.idd_lite or self.cityscapes_train_ids or self.rendered):
            raise ConfigError("data names no scenes: set data.camvid, data.idd_lite, data.cityscapes_train_ids or "
                              "data.rendered")  # fmt: skip


@dataclass(frozen=True)
class AugmentConfig:
    """Geometry and photometry of a training image."""

    size: tuple[int, int] = (384, 768)
    """Size (height, width) the crop is resized to."""
    zoom: tuple[float, float] = (1.0, 2.5)
    """Range of the crop's zoom: 1 takes the largest crop of the drawn aspect, 2 half its side."""
    least_rows: int = 200
    """Rows of the source a crop keeps at least, however large the zoom: a smaller crop would only be blur."""
    aspect: tuple[float, float] = (1.6, 2.2)
    """Range of the crop's width / height before it is resized to `size`."""
    flip: float = 0.5
    """Chance of a horizontal flip."""
    colour: float = 0.35
    """Strength of brightness, contrast, saturation, hue and gamma changes; 0 turns them off."""
    degrade: float = 0.5
    """Chance each of blur, sensor noise and JPEG compression."""


@dataclass(frozen=True)
class AnomalyMixConfig:
    """AnomalyMix: objects of other pictures pasted into road scenes (spec 3.4)."""

    objects: tuple[int, int] = (0, 3)
    """Fewest and most anomalous objects a scene gets."""
    height: tuple[float, float] = (0.05, 0.8)
    """Range of an object's longer side as a share of the image height, drawn log-uniformly."""
    on_road: float = 0.7
    """Chance that the object's foot stands on the road; else it lies anywhere."""
    feather: tuple[float, float] = (0.0, 1.5)
    """Range of the blur of the object's outline in pixels of the scene."""
    colour_match: tuple[float, float] = (0.0, 0.6)
    """Range of the share by which the object's mean and contrast move to those of its surroundings."""
    known: float = 0.4
    """Chance that a known object (vehicle, person) of another scene is pasted the same way with label 0, so that a
    paste edge alone is no clue."""


@dataclass(frozen=True)
class LoopConfig:
    """The training loop's own settings."""

    steps: int = 4000
    """Optimiser steps."""
    batch: int = 16
    """Images a step."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 1e-4
    """Decoupled weight decay."""
    warmup: int = 100
    """Steps of linear warm-up; then poly decay with power `power`."""
    power: float = 0.9
    """Power of the poly decay to zero."""
    clip: float = 5.0
    """Largest gradient norm."""
    ema: float = 0.998
    """Decay of the exponential moving average of the weights, which is what gets exported."""
    workers: int = 2
    """Processes that load data."""
    seed: int = 0
    """Seeds initialisation, sampling and augmentation."""
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed"
    """Arithmetic of the forward and backward pass."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto takes the GPU if there is one."""
    log_every: int = 20
    """Steps between lines of metrics.csv."""
    checkpoint_every: int = 500
    """Steps between checkpoints."""
    minutes: float = 0.0
    """Stop after this many minutes, with a checkpoint to resume from and the weights of that moment; 0 = no limit."""


@dataclass(frozen=True)
class SegmentationTraining:
    """`mgcda train segmentation`."""

    data: DataConfig
    segmenter: SegmenterConfig = field(default_factory=lambda: PROFILES["lite"])
    """The chain whose segmentation network is trained."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    teacher: str | None = None
    """ENet weights (.pth state dict of tensors) whose predictions choose among the classes a coarse label allows."""
    teacher_confidence: float = 0.5
    """Probability below which a pseudo-label is ignored where the label itself says nothing."""
    auxiliary: float = 0.4
    """Weight of the auxiliary head's loss."""


@dataclass(frozen=True)
class SynthesisTraining:
    """`mgcda train synthesis`."""

    data: DataConfig
    weights: str
    """Weights file (or run folder) with the trained segmentation network."""
    segmenter: SegmenterConfig = field(default_factory=lambda: PROFILES["lite"])
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    perceptual: float = 2.0
    """Weight of the feature difference in the frozen segmentation network (L1 on the image has weight 1)."""
    kl: float = 0.01
    """Weight of the style code's Kullback-Leibler divergence from a standard normal."""


@dataclass(frozen=True)
class DissimilarityTraining:
    """`mgcda train dissimilarity`."""

    data: DataConfig
    weights: str
    """Weights file (or run folder) with the trained segmentation and synthesis networks."""
    segmenter: SegmenterConfig = field(default_factory=lambda: PROFILES["lite"])
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    mix: AnomalyMixConfig = field(default_factory=AnomalyMixConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    working_scale: float = 1.0
    """Factor on the segmentation's and dissimilarity's working sizes while training (0.75 nearly halves the cost of a
    step on a CPU); the exported chain keeps the sizes of `segmenter`."""
    validation_scenes: int = 96
    """Held-out composites (other scenes, other objects) that set the threshold and report AP."""
