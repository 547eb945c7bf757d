"""The trainings and the ladder of experiments."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mgcda_core.config.chain import PROFILES, ConfigError, DissimilarityConfig, SegmenterConfig
from mgcda_core.config.data import AnomalyMixConfig, AugmentConfig, DataConfig
from mgcda_core.config.evaluation import EvaluationSet
from mgcda_core.config.loop import LoopConfig
from mgcda_core.config.perturbation import PerturbationConfig


@dataclass(frozen=True)
class OutlierConfig:
    """Outlier exposure of the segmentation network: pasted objects are to have no class (`data.objects` ...)."""

    weight: float = 0.5
    """Weight of the outlier pixels' loss beside the cross entropy."""
    mix: AnomalyMixConfig = field(default_factory=AnomalyMixConfig)
    """What is pasted, how often and how."""


@dataclass(frozen=True)
class SegmentationTraining:
    """`mgcda train segmentation`."""

    data: DataConfig
    segmenter: SegmenterConfig = field(default_factory=lambda: PROFILES["lite"])
    """The chain whose segmentation network is trained."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    initial: str | None = None
    """Weights file (or run folder) whose segmentation network is trained on; None starts from scratch, or with
    `huggingface` from the weights at its source."""
    loss: Literal["weighted", "ohem"] = "weighted"
    """Cross entropy with rare classes weighted up, or on the hardest pixels only (Shrivastava et al., CVPR 2016)."""
    ohem_threshold: float = 0.7
    """Probability of the true label below which a pixel is hard."""
    ohem_least: float = 0.0625
    """Least share of the labelled pixels that is kept, however easy."""
    coarse: Literal["sum", "teacher"] = "sum"
    """A label that covers several classes trains the sum of their probabilities, or the one the teacher prefers."""
    teacher: str | None = None
    """ENet weights (.pth state dict of tensors) whose confident predictions label void pixels; what it says of a
    scene is kept in the user's cache."""
    teacher_confidence: float = 0.5
    """Probability below which a pseudo-label is ignored where the label itself says nothing."""
    auxiliary: float = 0.4
    """Weight of the auxiliary head's loss."""
    outliers: OutlierConfig | None = None
    """Outlier exposure, so that the softmax is flat on what is no class; None trains on the scenes as they are."""

    def __post_init__(self) -> None:
        if self.loop.pictures_every:
            raise ConfigError("the segmentation training draws no pictures: set loop.pictures_every to 0")
        if self.coarse == "teacher" and not self.teacher:
            raise ConfigError("coarse: teacher needs a teacher: name its weights, or take coarse: sum")
        if not (0 < self.ohem_threshold <= 1 and 0 < self.ohem_least <= 1):
            raise ConfigError(f"ohem_threshold and ohem_least must lie in (0, 1], not {self.ohem_threshold} and "
                              f"{self.ohem_least}")  # fmt: skip


@dataclass(frozen=True)
class SynthesisTraining:
    """`mgcda train synthesis`."""

    data: DataConfig
    weights: str
    """Weights file (or run folder) with the trained segmentation network, and with `resynthesise` the start."""
    segmenter: SegmenterConfig = field(default_factory=lambda: PROFILES["lite"])
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    resynthesise: bool = False
    """Start from the generator and style encoder in `weights` instead of from scratch."""
    l1: float = 1.0
    """Weight of the L1 distance of the images (0 in CC-FPSE as published)."""
    perceptual: float = 2.0
    """Weight of the feature difference in the frozen segmentation network, or VGG19 (10 as published)."""
    kl: float = 1.6e-4
    """Weight of the style code's Kullback-Leibler divergence from a standard normal (0.05 as published)."""
    adversarial: float = 0.0
    """Weight of the hinge loss against the multi-scale discriminator; 0 trains without one."""
    feature_matching: float = 10.0
    """Weight of the L1 distance of the discriminator's features, when there is one."""
    discriminator_width: int = 64
    """Channels of the discriminator's first layer (64 as published)."""
    discriminator_lr: float = 4e-4
    """Learning rate of the discriminator (the generator's is `loop.lr`; two time scales as published: 1e-4, 4e-4)."""
    distance_network: str | None = None
    """ENet weights (.pth state dict of tensors): print the distance of the val sets' re-syntheses from their images,
    seen by its features; None does not measure it."""

    def __post_init__(self) -> None:
        if self.loop.validate_every or self.loop.pictures_every:
            raise ConfigError("the synthesis is not validated while it trains: set loop.validate_every and "
                              "loop.pictures_every to 0; distance_network measures it at the end")  # fmt: skip


@dataclass(frozen=True)
class MdatConfig:
    """Multi-source domain adversarial training, MDAT (spec 4.1 to 4.4)."""

    feature: bool = True
    """Align the encoder feature (FDA)."""
    output: bool = True
    """Align the anomaly map (ODA)."""
    mode: Literal["alternate", "grl", "joint_literal"] = "alternate"
    """Who minimises what, see mgcda_core.methods.mdat."""
    dynamic: bool = True
    """Dynamic label smoothing, eq. 1: tau falls from `tau_start` to `tau_end`; else it stays at `tau_start`."""
    tau_start: float = 1.0
    """tau_b of eq. 1, at the first step."""
    tau_end: float = 0.5
    """tau at the last step."""
    lambda_f: float = 0.04
    """Weight of the feature classifier's confusion loss in the total, eq. 4."""
    lambda_o: float = 0.06
    """Weight of the output classifier's confusion loss in the total, eq. 4."""
    lr: float = 1e-4
    """Learning rate of the classifiers (Adam, same decay as the network's)."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Adam's decay rates of the classifiers."""
    labels: Literal["smooth", "hard"] = "smooth"
    """Labels of the classifiers' own step: eq. 1, or 1 and 0. In grl and joint_literal, which have one loss, the
    network's too."""
    level: Literal["1", "2", "3", "4", "multi"] = "4"
    """Encoder level (fine to coarse) the feature classifier sees; multi: one classifier a level, losses averaged."""
    with_correlation: bool = False
    """The encoder feature holds the correlation channel too."""
    unit_scale: bool = False
    """The feature classifier sees each image's feature divided by its root mean square. Without it the features may
    run away: an instance norm follows them, so their size costs the network nothing (docs/ladder.md)."""
    output_channels: Literal[1, 2] = 2
    """The output classifier sees both probabilities, or the anomaly's alone."""
    width: float = 1.0
    """Factor on the classifiers' channels (lite: 0.25)."""
    stride: Literal[1, 2] = 1
    """Stride of the output classifier's convolutions but the last (lite: 2)."""


@dataclass(frozen=True)
class CaclConfig:
    """Cross-domain anomaly-aware contrastive learning, CACL (spec 4.5)."""

    sampler: Literal["random_same_domain", "random_cross_domain", "anomaly_aware"] = "anomaly_aware"
    """PCL, CPCL or CACL: random pixels within a domain, random with positives of both, or hard and easy pixels."""
    form: Literal["log", "printed"] = "log"
    """InfoNCE, or eq. 3 as printed, which lacks the logarithm and is nearly without gradient (spec 4.5)."""
    temperature: float = 0.1
    """alpha; the paper gives none."""
    weight: float = 0.1
    """lambda_c, weight in the total, eq. 4."""
    normalise: bool = True
    """Embeddings of unit length."""
    anchors: int = 50
    """N^a: anchors an image."""
    positives: int | None = None
    """N^p: easy anomalous pixels an image; None: 2 N^a."""
    hard_negatives: int | None = None
    """N^n_h: normal pixels an image that are called anomalous; None: 2 N^a."""
    easy_negatives: int | None = None
    """N^n_e: other normal pixels an image; None: 6 N^a."""
    top_up: bool = False
    """Missing hard negatives are replaced by easy ones."""
    any_positive_until: int = 0
    """Up to this step the hard anomalous pixels serve as positives too: before the network finds any anomaly there are
    no easy ones, and the loss is 0."""
    projection: tuple[int, int] = (64, 128)
    """Channels of the projector's two layers."""
    gather: bool = True
    """Contrast over the images of all processes; else each process contrasts its own."""

    def quotas(self) -> tuple[int, int, int, int]:
        """N^a, N^p, N^n_h, N^n_e."""
        wanted = (self.positives, self.hard_negatives, self.easy_negatives)
        p, h, e = (k * self.anchors if n is None else n for k, n in zip((2, 2, 6), wanted, strict=True))
        return self.anchors, p, h, e


@dataclass(frozen=True)
class DissimilarityTraining:
    """`mgcda train dissimilarity`: on the caches `mgcda prepare` makes.

    How the two domains are aligned is which of `mdat` and `perturbation` are set: one, both or none.
    """

    weights: str
    """Weights file (or run folder) with the frozen segmentation and synthesis networks the caches were made by."""
    void_class: str | None = None
    """Cache of domain V; None trains on A alone."""
    anomaly_mix: str | None = None
    """Cache of domain A; None trains on V alone."""
    validation: tuple[str, ...] = ()
    """Caches of held-out scenes and objects: choose the best weights, set the threshold, report AP and FPR95."""
    dissimilarity: DissimilarityConfig | None = None
    """The network that is trained; None: as in `weights`, which say what the rest of the chain is."""
    entropy_weights: tuple[float, ...] = ()
    """Shares of the softmax entropy in the score, of which the one with the best AP on `validation` is taken; none: the
    share of `weights`."""
    crop: tuple[int, int] | None = None
    """Train on random windows (height, width) of the cached maps, multiples of 8; None: on the whole."""
    flip: float = 0.5
    """Chance of a horizontal flip, of all maps jointly."""
    class_weights: tuple[float, float] | None = None
    """Weights of normal and anomalous pixels in the cross entropy; None: 1 / ln(1.02 + f) of the exact pixel shares f
    of the caches (spec 2.3)."""
    vgg16: str | None = None
    """torchvision's ImageNet weights (vgg16-397923af.pth) the image encoder starts from, as published; needs
    dissimilarity.width 1. None starts from random weights."""
    synthetic_unknown: str | None = None
    """Cache of domain U, synthetic-unknown's, as a third one. Ours: the paper has two domains. What aligns or contrasts
    domains then sets V against the others, A and U together."""
    mdat: MdatConfig | None = None
    """Domain adversarial training; needs both domains."""
    perturbation: PerturbationConfig | None = None
    """Invariance to pointwise feature perturbations instead of, or beside, MDAT; needs both domains."""
    cacl: CaclConfig | None = None
    """Contrastive learning; needs both domains."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Its batch is shared equally by the domains: 8 is 4 + 4."""

    def __post_init__(self) -> None:
        domains = self.domains
        if not domains:
            raise ConfigError("no training domain: set void_class, anomaly_mix or both to caches of mgcda prepare")
        if (self.mdat or self.perturbation or self.cacl) and not (self.void_class and len(domains) > 1):
            raise ConfigError("mdat, perturbation and cacl align two domains: set void_class and anomaly_mix")
        if self.mdat and self.perturbation and (self.mdat.lr, self.mdat.betas) != (
            self.perturbation.lr, self.perturbation.betas,
        ):  # fmt: skip
            raise ConfigError("the domain classifiers of mdat and perturbation share one optimiser: give both the same "
                              "lr and betas")  # fmt: skip
        if self.loop.validate_every and not self.validation:
            raise ConfigError("loop.validate_every needs caches to judge by: set validation")
        if self.entropy_weights and not self.validation:
            raise ConfigError("entropy_weights are chosen on held-out caches: set validation")
        if not all(0 <= weight <= 1 for weight in self.entropy_weights):
            raise ConfigError(f"entropy_weights are {self.entropy_weights}: they must lie in [0, 1]")
        if self.loop.batch % len(domains):
            raise ConfigError(f"loop.batch is {self.loop.batch}: it must be a multiple of {len(domains)}, with "
                              "as many images of each domain")  # fmt: skip
        if self.crop and (self.crop[0] % 8 or self.crop[1] % 8):
            raise ConfigError(f"crop is {self.crop}: height and width must be multiples of 8")

    @property
    def domains(self) -> list[str]:
        """The caches that are trained on, V first if it is among them."""
        return [path for path in (self.void_class, self.anomaly_mix, self.synthetic_unknown) if path]


@dataclass(frozen=True)
class LadderConfig:
    """`mgcda ladder`: the paper's ablation under one budget."""

    base: DissimilarityTraining
    """What every rung shares; its mdat and cacl hold the full method's settings."""
    sets: tuple[EvaluationSet, ...]
    """Where every rung is measured."""
    rungs: tuple[str, ...] = ()
    """Names of the rungs to climb; empty = all nine."""
    seeds: tuple[int, ...] = (0, 1)
    sweep: str = ""
    """Dotted name of one field of `base` to sweep on the last rung (cacl.anchors), instead of the ladder."""
    values: tuple[str, ...] = ()
    """Values of the swept field."""
