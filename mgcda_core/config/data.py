"""Scenes, the two training domains and the cache of the frozen networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mgcda_core.config.chain import ConfigError


@dataclass(frozen=True)
class DataConfig:
    """Where the training scenes and the objects to paste come from; leave out what you do not have."""

    camvid: str | None = None
    """Folder of CamVid, 11-class form: {train,val}/{images,labels}."""
    idd_lite: str | None = None
    """Folder of IDD-Lite: images/ and masks/, files named train_* and val_*."""
    cityscapes: str | None = None
    """Folder of Cityscapes as published: leftImg8bit/ and gtFine/."""
    cityscapes_train_ids: str | None = None
    """Folder of Cityscapes frames with train-id labels: images/ and masks/."""
    gta5: str | None = None
    """Folder of GTA5 as published: images/ and labels/; all are training scenes."""
    synthia: str | None = None
    """Folder of SYNTHIA-RAND-CITYSCAPES as published: RGB/ and GT/LABELS/; all are training scenes."""
    rendered: int = 0
    """Number of procedurally drawn scenes (seeds 0, 1, ...; the demo's seeds start at 1 000 000). They hold no void, so
    VoidClass has none of them."""
    objects: tuple[str, ...] = ()
    """Folders of cut-out objects: images/ and masks/, an instances.json if the masks hold instance ids."""
    coco: str | None = None
    """Folder of COCO as published, objects to paste: annotations/instances_train2017.json and train2017/."""
    coco_objects: Literal["clean", "published"] = "clean"
    """Of the pictures without road users: whole objects of classes no street has, or every annotation, as PEBAL pastes
    them (AnomalyMix with `group` then takes a picture's all together)."""
    pascal_voc: str | None = None
    """Folder of Pascal VOC as published, objects to paste: JPEGImages/ and SegmentationObject/."""

    def __post_init__(self) -> None:
        sets = ("camvid", "idd_lite", "cityscapes", "cityscapes_train_ids", "gta5", "synthia", "rendered")
        if not any(getattr(self, name) for name in sets):
            raise ConfigError(f"data names no scenes: set one of data.{', data.'.join(sets)}")


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


MAY_BE_ANOMALOUS = (4, 5, 9, 10, 14, 15, 16, 18, 29, 30)
"""Cityscapes label ids without a train id, less 0 unlabelled, 1 ego vehicle, 2 border, 3 out of roi and 6 ground."""


@dataclass(frozen=True)
class VoidClassConfig:
    """VoidClass, domain V: objects the labelling calls void become anomalies (spec 3.2)."""

    cityscapes_ids: tuple[int, ...] = (4, 5)
    """Cityscapes label ids that may be anomalous: 4 static, 5 dynamic, and if wanted 29 caravan, 30 trailer; (5,) is
    what SynBoost's code does. 0, 1, 2, 3 and 6 never are."""
    min_area: int = 100
    """Smallest 8-connected void region that becomes an anomaly, in pixels of a 1024x2048 image (scaled to the image's
    own area); smaller ones are ignored. 0 keeps all."""
    keep_prob: float = 1.0
    """Chance that a region becomes an anomaly; else it is ignored."""
    require_positive: bool = True
    """Leave out scenes without a region."""
    semantics: Literal["predicted", "gt+pred_in_void"] = "predicted"
    """Semantics the re-synthesis and the comparison see: the network's own, as at inference, or the true labels with
    the prediction where they are void."""
    swap_known: bool = False
    """Add, for each scene with instances, a sample in which random instances take another class and are the anomaly
    (SynBoost's instance swap, after Lis et al.); needs Cityscapes' instance ids."""

    def __post_init__(self) -> None:
        refused = [i for i in self.cityscapes_ids if i not in MAY_BE_ANOMALOUS]
        if refused:
            raise ConfigError(f"void.cityscapes_ids holds {refused[0]}, which is never an anomaly: "
                              f"choose from {', '.join(map(str, MAY_BE_ANOMALOUS))}")  # fmt: skip
        if self.min_area < 0 or not 0 <= self.keep_prob <= 1:
            raise ConfigError("void.min_area must be 0 or more and void.keep_prob a chance, 0 to 1")


@dataclass(frozen=True)
class AnomalyMixConfig:
    """AnomalyMix, domain A: objects of other pictures pasted into road scenes (PEBAL, ECCV 2022; spec 3.4)."""

    group: bool = False
    """Paste all objects of one source picture as one rigid group, as published; else single objects."""
    p_mix: float = 1.0
    """Chance that a scene gets objects at all (the published code: 0.0908)."""
    objects: tuple[int, int] = (0, 3)
    """Fewest and most objects, or groups, a scene gets."""
    scale: tuple[float, float] | None = None
    """Range of the factor on the object's own pixels, drawn uniformly; (1, 1) as published. None: `height` decides."""
    height: tuple[float, float] = (0.05, 0.8)
    """Range of an object's longer side as a share of the image height, drawn log-uniformly."""
    min_area: int = 1
    """Fewest pasted pixels, in pixels of the scene; a smaller object is left out."""
    on_road: float = 0.7
    """Chance that the object's foot stands on the road; else it lies anywhere (published: 0)."""
    flip: float = 0.5
    """Chance that an object is mirrored (published: 0)."""
    jitter: float = 0.25
    """Strength of the object's colour changes (published: 0)."""
    blend: Literal["none", "feather", "poisson"] = "feather"
    """Seam: hard overwrite as published, blurred outline, or Poisson blending (Perez et al., 2003)."""
    feather: tuple[float, float] = (0.0, 1.5)
    """Range of the blur of the object's outline in pixels of the scene, with `blend: feather`."""
    colour_match: tuple[float, float] = (0.0, 0.6)
    """Range of the share by which the object's mean and contrast move to those of its surroundings (published: 0)."""
    known: float = 0.4
    """Chance that a known object (vehicle, person) of another scene is pasted the same way with label 0, so that a
    paste edge alone is no clue (published: 0)."""

    def __post_init__(self) -> None:
        for name in ("p_mix", "on_road", "flip", "known"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"mix.{name} is {getattr(self, name)}: it is a chance, 0 to 1")
        for name in ("objects", "scale", "height", "feather", "colour_match"):
            low, high = getattr(self, name) or (1, 1)
            if not 0 <= low <= high or (low == 0 and name in ("scale", "height")):
                raise ConfigError(f"mix.{name} is {(low, high)}: it is a range from low to high, sizes above 0")


@dataclass(frozen=True)
class SyntheticUnknownConfig:
    """Synthetic-unknown, domain U: a region of a scene, moved to where the segmentation network is less sure of it.

    Masked gradient update (Lu et al., arXiv 2111.14343). Reconstruction: see spec 7, seed 002.
    """

    min_area: int = 500
    """Smallest region, in pixels of a 1024x2048 image (scaled to the image's own area)."""
    max_share: float = 0.2
    """Largest region, as a share of the image."""
    whole: float = 0.5
    """Chance that the region is all of a class; else it is one 8-connected part of it."""
    steps: int = 5
    """K, gradient steps."""
    step: int = 2
    """eta, grey levels (of 255) a pixel moves each step."""
    budget: int = 8
    """Grey levels a pixel may move in all."""

    def __post_init__(self) -> None:
        for name in ("steps", "step", "budget"):
            if getattr(self, name) < 1:
                raise ConfigError(f"unknown.{name} is {getattr(self, name)}: it must be 1 or more")
        if self.min_area < 0 or not 0 < self.max_share <= 1 or not 0 <= self.whole <= 1:
            raise ConfigError("unknown.min_area must be 0 or more, unknown.max_share and unknown.whole from 0 to 1")


@dataclass(frozen=True)
class PrepareConfig:
    """`mgcda prepare`: the frozen networks once over a domain."""

    data: DataConfig
    weights: str
    """Weights file (or run folder) with the trained segmentation and synthesis networks."""
    domain: Literal["void_class", "anomaly_mix", "synthetic_unknown"] = "anomaly_mix"
    """V, A or U."""
    split: Literal["train", "val"] = "train"
    """val takes other scenes and other objects."""
    copies: int = 1
    """Composites of each scene, each with its own crop, objects and photometry; training shows one of them an epoch.
    1 and no augmentation is the paper's fixed set."""
    limit: int = 0
    """Most scenes of each set, evenly picked; 0 = all."""
    size: tuple[int, int] | None = None
    """Size (height, width) of the cached maps; None: the dissimilarity network's of the weights."""
    detail: Literal[1, 2] | None = None
    """Resolution of the cached pictures, as a multiple of `size`; None: the dissimilarity network's of the weights."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """`augment.size` is the size of the composite the frozen networks see."""
    void: VoidClassConfig = field(default_factory=VoidClassConfig)
    mix: AnomalyMixConfig = field(default_factory=AnomalyMixConfig)
    unknown: SyntheticUnknownConfig = field(default_factory=SyntheticUnknownConfig)
    truth: tuple[Literal["semantics", "background"], ...] = ()
    """What the frozen networks are told instead of finding it, to see the ceiling of each part (anomaly_mix alone):
    `semantics`, the classes behind the pasted anomalies; `background`, the picture without them as the re-synthesis."""
    seed: int = 0
    """Seeds crops, objects, placement and photometry."""
    shard: int = 32
    """Samples a file."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the frozen networks run; auto takes the GPU if there is one."""

    def __post_init__(self) -> None:
        for name in ("copies", "shard"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.truth and self.domain != "anomaly_mix":
            raise ConfigError(f"truth needs domain anomaly_mix: what an anomaly of {self.domain} covers is not known")


@dataclass(frozen=True)
class CalibrationConfig:
    """`mgcda calibrate`: the threshold for a wanted false positive rate on road, on held-out composites."""

    data: DataConfig
    weights: str
    """Weights file (or run folder) to calibrate; it stays as it is."""
    fpr: float = 0.01
    """Wanted share of the road pixels that is masked, between 0 and 1."""
    domain: Literal["anomaly_mix", "void_class", "drawn"] = "anomaly_mix"
    """What is composed: the val split of domain A or V of `mgcda prepare`, or `data.rendered` scenes with drawn
    anomalies, which need no data set."""
    copies: int = 1
    """Composites of each scene, each with its own crop, objects and photometry."""
    limit: int = 0
    """Most scenes of each set, evenly picked; 0 = all."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """`augment.size` is the size of the composite the chain sees. A drawn scene takes its photometry alone."""
    void: VoidClassConfig = field(default_factory=VoidClassConfig)
    mix: AnomalyMixConfig = field(default_factory=AnomalyMixConfig)
    seed: int = 0
    """Seeds crops, objects, placement, photometry and the bootstrap."""
    bins: int = 15
    """Bins of the reliability diagram and its calibration error."""
    equal: Literal["mass", "width"] = "mass"
    """Bins of equally many pixels, or of equal width in score."""
    json: str | None = None
    """File for all figures."""
    plot: str | None = None
    """PNG file for the reliability diagram; needs matplotlib."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the chain runs; auto takes the GPU if there is one."""

    def __post_init__(self) -> None:
        if not 0 < self.fpr < 1:
            raise ConfigError(f"fpr is {self.fpr}: it must lie between 0 and 1, both left out")
        for name in ("copies", "bins"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}: it must be 1 or more")
        if self.limit < 0:
            raise ConfigError(f"limit is {self.limit}: it must be 0, for all scenes, or more")
        if self.domain == "drawn" and not self.data.rendered:
            raise ConfigError("domain drawn needs drawn scenes: set data.rendered")
        if self.void.swap_known or self.void.semantics != "predicted":
            raise ConfigError("calibration runs the chain on its own semantics, as it is used: leave void.swap_known "
                              "and void.semantics at their defaults")  # fmt: skip
