"""The chain against its recordings: with rule tensors in place of the networks, and with all networks (section 4)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from golden_compare import Expected, Judge, Outcome, compare, equal, loose, parse, relative, stepped, steps
from golden_networks import to_u8
from golden_rule import (
    STYLE_LENGTH,
    Inputs,
    Recording,
    build_deeplab,
    build_dissimilarity,
    build_encoder,
    build_generator,
    build_perceptual,
    rule,
)
from torch import Tensor, nn

from mgcda_core.config import DissimilarityConfig, SegmentationConfig, SegmenterConfig, SynthesisConfig
from mgcda_core.models import uncertainty
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter, Stages
from mgcda_core.models.dissimilarity import semantic_maps
from mgcda_core.models.resize import truncate_8bit
from mgcda_core.models.synthesis import id_maps, label_ids

_OFFSETS = (2, 0)  # section 4 lists [2::k, 2::k] for maps at the working size, [::k, ::k] for the small ones
_DESCRIBED = frozenset({"work_hw", "diss_hw", "photo_hw", "ngf", "sub_step"})
_VOID_SIZE = (16, 32)
_NORMALISED_STEP = 1.01 / 255 / 0.224  # one 8-bit step after the ImageNet normalisation


class _Fixed(nn.Module):
    """Stands for a network: returns what it was given, remembers its inputs."""

    def __init__(self, output: Any) -> None:
        super().__init__()
        self.output = output
        self.inputs: tuple[Tensor, ...] = ()

    def forward(self, *inputs: Tensor) -> Any:
        self.inputs = inputs
        return self.output


def glue(recording: Recording) -> Outcome:
    """The arithmetic between the networks, each replaced by the rule's tensor."""
    outcome = Outcome(described=_DESCRIBED)
    work, diss, photo_hw = (_size(recording, key) for key in ("work_hw", "diss_hw", "photo_hw"))
    inputs = Inputs(recording.salt, outcome.crcs)
    photo = _photo(inputs, photo_hw)
    style = torch.zeros(1, STYLE_LENGTH)
    segmenter = _segmenter(work, diss)
    segmenter.segmentation = segmentation = _Fixed(inputs.draw("seg_logits", (1, 19, *work), "logits"))
    segmenter.style_encoder = encoder = _Fixed((style, style))
    segmenter.generator = _Fixed(inputs.draw("generated", (1, 3, *diss), "image_pm1"))
    segmenter.perceptual = perceptual = _Fixed(inputs.draw("perceptual_raw", (1, 1, *diss), "prior"))
    comparison = _Fixed(0.5 * inputs.draw("diss_logits", (1, 2, *diss), "logits"))
    comparison.semantics = segmenter.dissimilarity.semantics
    segmenter.dissimilarity = comparison
    with torch.inference_mode():
        stages = segmenter.stages(photo)
        logits = segmenter.compare(stages)
        floats = relative(1e-5)
        outcome.expected = {
            **_shared(stages, floats, steps(5e-4), equal()),
            **_void(inputs),
            "seg_input": _expected(segmentation.inputs[0], "nchw", floats),
            "encoder_input": _expected(encoder.inputs[0], "nchw", floats),
            "ensemble": _expected(segmenter.ensemble_score(logits, stages, diss), "nhw", stepped(1e-5, 5e-4, 1e-3)),
            "anomaly_score": _expected(
                segmenter.ensemble_score(logits, stages, photo_hw), "nhw", stepped(1e-5, 1e-2, 1e-3)
            ),
        }
        segmenter.config = dataclasses.replace(segmenter.config, entropy_weight=0.0)
        softmax = segmenter.ensemble_score(logits, stages, diss)
    outcome.expected["diss_softmax1"] = _expected(softmax, "nhw", floats)
    for name, tensor in zip(("image_norm_small", "synthesis_norm"), perceptual.inputs, strict=True):
        outcome.expected[name] = _expected(tensor, "nchw", stepped(1e-5, 5e-4, _NORMALISED_STEP))
    outcome.crcs["crc_resized_rgb"] = rule.array_crc(_rgb(stages)[0])
    return outcome


def full(recording: Recording) -> Outcome:
    """All networks end to end, and each stage on the recorded inputs of that stage."""
    outcome = Outcome(described=_DESCRIBED)
    work, diss, photo_hw = (_size(recording, key) for key in ("work_hw", "diss_hw", "photo_hw"))
    (ngf,) = recording.numbers("ngf")
    inputs = Inputs(recording.salt, outcome.crcs)
    photo = _photo(inputs, photo_hw)
    noise = inputs.draw("vae_eps", (1, STYLE_LENGTH), "normal")
    crc = recording.arrays.get("crc_weights_generator")
    segmenter = _segmenter(work, diss)
    segmenter.segmentation = build_deeplab(recording.salt, outcome.crcs)
    segmenter.generator = build_generator(ngf, diss, recording.salt, outcome.crcs, None if crc is None else int(crc))
    segmenter.style_encoder = build_encoder(ngf, recording.salt, outcome.crcs)
    segmenter.perceptual = build_perceptual(recording.salt, outcome.crcs)
    segmenter.dissimilarity = build_dissimilarity("dissim_prior", recording.salt, outcome.crcs)
    with torch.inference_mode():
        stages = segmenter.stages(photo)
        outcome.expected = {
            **_end_to_end(segmenter, stages, "", photo_hw),
            **_end_to_end(segmenter, _sampled(segmenter, stages, noise), "eps_", photo_hw),
            **_void(inputs),
        }
        _from_recorded_inputs(segmenter, stages, recording, outcome, photo_hw)
    outcome.crcs["crc_resized_rgb"] = rule.array_crc(_rgb(stages)[0])
    return outcome


def _segmenter(work: tuple[int, int], diss: tuple[int, int]) -> Any:
    """An AnomalySegmenter in reference mode; its networks are placeholders of any type that the caller replaces."""
    config = SegmenterConfig(
        segmentation=SegmentationConfig(architecture="enet", width=4, size=work),
        synthesis=SynthesisConfig(ngf=1, hidden=1, z_dim=STYLE_LENGTH, encoder_width=1, size=diss),
        dissimilarity=DissimilarityConfig(width=1 / 64, size=diss),
        scaling="reference",
        perceptual="vgg19",
        entropy_weight=0.25,
    )
    return AnomalySegmenter(config).eval()


def _shared(stages: Stages, floats: Judge, bytes_: Judge, labels: Judge) -> dict[str, Expected]:
    """What both chain recordings hold of steps 1 to 7."""
    nats, _margin = uncertainty.entropy_and_margin(stages.segmentation_logits)
    ids35 = stages.maps36[:, :35]
    semantic = stages.semantic.argmax(1)
    semantic[stages.semantic.sum(1) == 0] = 255
    maps: dict[str, tuple[Tensor | np.ndarray, str, Judge]] = {
        "resized_rgb": (_rgb(stages), "nhwc", equal()),
        "entropy_float255": (uncertainty.reference_entropy(nats)[:, 0] * 255, "nhw", floats),
        "entropy_u8": (to_u8(stages.entropy[:, 0]), "nhw", bytes_),
        "distance_u8": (to_u8(stages.distance[:, 0]), "nhw", bytes_),
        "segmentation": (stages.segmentation, "nhw", labels),
        "label_ids": (label_ids(stages.segmentation), "nhw", labels),
        "label_small": (ids35.argmax(1), "nhw", labels),
        "onehot36_argmax": (ids35.argmax(1), "nhw", labels),
        "onehot36_sum": (ids35.sum(1), "nhw", labels),
        "edges_small": (stages.maps36[:, 35], "nhw", labels),
        "semantic_small": (semantic, "nhw", labels),
        "synthesis_u8": (to_u8(stages.synthesis.permute(0, 2, 3, 1)), "nhwc", bytes_),
        "entropy_small_u8": (to_u8(stages.prior[:, 0]), "nhw", bytes_),
        "perceptual_u8": (to_u8(stages.prior[:, 1]), "nhw", bytes_),
        "distance_small_u8": (to_u8(stages.prior[:, 2]), "nhw", bytes_),
    }
    return {name: _expected(*entry) for name, entry in maps.items()}


def _end_to_end(
    segmenter: AnomalySegmenter, stages: Stages, prefix: str, photo_hw: tuple[int, int]
) -> dict[str, Expected]:
    """Everything a chain_full recording can hold, with the tolerances of the whole chain (section 6)."""
    logits = segmenter.compare(stages)
    close = relative(5e-5)
    expected = _shared(stages, close, steps(1e-3), equal(0.999))
    entries: dict[str, tuple[Tensor | np.ndarray, str, Judge]] = {
        "seg_logits": (stages.segmentation_logits, "nchw", close),
        "mu": (stages.mu, "nc", close),
        "logvar": (stages.logvar, "nc", close),
        "generated": (stages.generated, "nchw", close),
        "image_norm_small": (segmenter.normalise(stages.image), "nchw", relative(1e-5)),
        "synthesis_norm": (segmenter.normalise(stages.synthesis), "nchw", stepped(5e-5, 1e-3, _NORMALISED_STEP)),
        "perceptual_raw": (stages.perceptual_raw, "nchw", loose()),
        "perceptual_u8": (to_u8(stages.prior[:, 1]), "nhw", steps(2e-2)),
        "diss_logits": (logits, "nchw", loose()),
        "anomaly_score": (segmenter.ensemble_score(logits, stages, photo_hw), "nhw", loose()),
    }
    expected |= {name: _expected(*entry) for name, entry in entries.items()}
    return {prefix + name: value for name, value in expected.items()}


def _sampled(segmenter: AnomalySegmenter, stages: Stages, noise: Tensor) -> Stages:
    """The same pass with the style code drawn, as the original does, in place of its mean."""
    z = stages.mu + noise * torch.exp(0.5 * stages.logvar)
    generated = segmenter.generator(stages.maps36, z)
    synthesis = truncate_8bit((generated + 1) / 2)
    return _with_synthesis(segmenter, dataclasses.replace(stages, generated=generated), synthesis)


def _with_synthesis(segmenter: AnomalySegmenter, stages: Stages, synthesis: Tensor) -> Stages:
    raw = segmenter.perceptual(segmenter.normalise(stages.image), segmenter.normalise(synthesis))
    prior = torch.cat([stages.prior[:, :1], uncertainty.minmax_8bit(raw), stages.prior[:, 2:]], 1)
    return dataclasses.replace(stages, synthesis=synthesis, perceptual_raw=raw, prior=prior)


def _from_recorded_inputs(
    segmenter: AnomalySegmenter, stages: Stages, recording: Recording, outcome: Outcome, photo_hw: tuple[int, int]
) -> None:
    """Each network on the recorded inputs of its step, where they are whole: no 8-bit flip can hide a fault."""
    close = relative(5e-5)
    expected: dict[str, Expected] = {}
    size = segmenter.config.dissimilarity.size
    whole = {name: torch.from_numpy(a) for name, a in recording.arrays.items() if a.shape[:2] == size}
    if "label_small" in whole and "mu" in recording.arrays:
        maps36 = id_maps(whole["label_small"].long()[None])
        generated = segmenter.generator(maps36, torch.from_numpy(recording.arrays["mu"]))
        expected["generated"] = _expected(generated, "nchw", close)
    if "synthesis_u8" in whole:
        synthesis = whole["synthesis_u8"].permute(2, 0, 1)[None].float() / 255
        stages = _with_synthesis(segmenter, stages, synthesis)
        expected["perceptual_raw"] = _expected(stages.perceptual_raw, "nchw", close)
        expected["perceptual_u8"] = _expected(to_u8(stages.prior[:, 1]), "nhw", steps(1e-3))
        names = ("entropy_small_u8", "perceptual_u8", "distance_small_u8")
        if all(name in whole for name in (*names, "semantic_small")):
            prior = torch.stack([whole[name] for name in names])[None].float() / 255
            semantic = semantic_maps(whole["semantic_small"][None])
            stages = dataclasses.replace(stages, prior=prior, semantic=semantic)
            logits = segmenter.compare(stages)
            score = segmenter.ensemble_score(logits, stages, photo_hw)
            expected["diss_logits"] = _expected(logits, "nchw", close)
            expected["anomaly_score"] = _expected(score, "nhw", close)
    part = Outcome(expected=expected)
    compare({name: a for name, a in recording.arrays.items() if parse(name, expected)}, part)
    outcome.measured += [(f"{name} (stage)", error, tolerance) for name, error, tolerance in part.measured]
    outcome.problems += part.problems


def _void(inputs: Inputs) -> dict[str, Expected]:
    one_hot = semantic_maps(inputs.draw("void_labels", (1, *_VOID_SIZE), "labels_train"))
    return {
        "void_onehot_sum": _expected(one_hot.sum(1), "nhw", equal()),
        "void_onehot_argmax": _expected(one_hot.argmax(1), "nhw", equal()),
        "void_onehot_channels": Expected(np.array(one_hot.shape[1]), "", equal()),
    }


def _expected(value: Tensor | np.ndarray, axes: str, judge: Judge) -> Expected:
    return Expected(value.numpy() if isinstance(value, Tensor) else value, axes, judge, _OFFSETS)


def _photo(inputs: Inputs, size: tuple[int, int]) -> Tensor:
    return inputs.draw("photo", (*size, 3), "image_u8").permute(2, 0, 1)[None].contiguous()


def _rgb(stages: Stages) -> np.ndarray:
    return stages.resized.to(torch.uint8).permute(0, 2, 3, 1).numpy()


def _size(recording: Recording, key: str) -> tuple[int, int]:
    height, width = recording.numbers(key)
    return height, width
