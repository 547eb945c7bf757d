"""Any semantic segmentation model of Hugging Face transformers in the place of the chain's own.

Per-pixel models (SegFormer, UPerNet, BEiT, DPT ...) give class logits. Query models (Mask2Former, EoMT, MaskFormer)
give classified masks, from which `query_log_scores` makes class log-scores. Only models whose code is part of
transformers are built: neither a folder, the hub nor a weights file ever brings code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING,
    AutoConfig,
    AutoModelForSemanticSegmentation,
    AutoModelForUniversalSegmentation,
)
from transformers.utils.hub import cached_file

from mgcda_core.config import ConfigError, SegmentationConfig

QUERY_MODELS = ("eomt", "eomt_dinov3", "mask2former", "maskformer")
SQUARE_MODELS = ("data2vec-vision", "dpt", "eomt", "eomt_dinov3")
"""Models that know one square input size; the image is resized to it on the way in."""
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class HuggingFaceSegmentation(nn.Module):
    """Network of `config.huggingface` (JSON), else of the configuration at `config.source`, randomly initialised.

    Takes ImageNet-normalised images; `scale` and `shift` bring them to the range the model was pretrained on. Raises
    ConfigError if there is no such model, or if it has another number of outputs than `config.outputs`.
    """

    distilled_norm = None

    scale: Tensor
    shift: Tensor

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__()
        if config.normalise != "imagenet":
            raise ConfigError(
                "segmentation.architecture huggingface needs segmentation.normalise imagenet, which the network turns "
                "into the model's own range"
            )
        own = _from_json(config.huggingface) if config.huggingface else _from_source(config.source)
        if own.num_labels != config.outputs:
            raise ConfigError(
                f"the model of segmentation.source '{config.source}' has {own.num_labels} classes, the chain needs "
                f"{config.outputs}: mgcda train segmentation replaces its last layer; then use the run's weights"
            )
        self.model: Any = _auto_class(own).from_config(own, dtype=torch.float32, trust_remote_code=False)
        self.register_buffer("scale", torch.ones(1, 3, 1, 1))
        self.register_buffer("shift", torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Logits f32 [B,classes,*size] of a normalised image f32 [B,3,H,W]; `size` None means (H, W)."""
        output = self.model(pixel_values=self._input(x))
        if self.model.config.model_type in QUERY_MODELS:
            logits = query_log_scores(output.class_queries_logits, output.masks_queries_logits)
        else:
            logits = output.logits.float()
        return F.interpolate(logits, tuple(size or x.shape[-2:]), mode="bilinear", align_corners=False)

    def logits_and_features(self, x: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, list[Tensor]]:
        """`forward` and `features` of the same x; two passes, since few of these models give both."""
        return self(x, size), self.features(x)

    def outputs(self, x: Tensor, size: tuple[int, int] | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """`forward`, `features` and the last of these, which a student learns, of the same x."""
        logits, features = self.logits_and_features(x, size)
        return logits, features, features[-1]

    def features(self, x: Tensor) -> list[Tensor]:
        """Encoder maps [B,C,h,w], fine to coarse or (plain transformers) shallow to deep, for a perceptual difference.

        x: normalised f32 [B,3,H,W]. Of more than five hidden states four are taken, evenly spaced, the last included.
        """
        x = self._input(x)
        output = self.model.base_model(pixel_values=x, output_hidden_states=True)
        states = output.get("encoder_hidden_states") or output.hidden_states
        if len(states) > 5:
            states = [states[(i * (len(states) - 1)) // 4] for i in range(1, 5)]
        return [state if state.ndim == 4 else self._to_map(state, x) for state in states]

    def training_logits(self, x: Tensor) -> list[Tensor]:
        """[logits] f32 [B,classes,H,W]: query models too are trained by the per-pixel loss, without matching."""
        return [self(x)]

    def load_pretrained(self, source: str) -> None:
        """Take the weights and input range at `source` (hub name or folder); layers of another shape start anew.

        Without a preprocessor_config.json the range is ImageNet's. Raises ConfigError if there are no weights.
        """
        own = self.model.config
        with _one_sentence(source, "weights"):
            self.model, loading = _auto_class(own).from_pretrained(
                source,
                config=own,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                trust_remote_code=False,
            )
            path = cached_file(source, "preprocessor_config.json", _raise_exceptions_for_missing_entries=False)
        self.model.train(self.training)
        mean, std = _input_range(json.loads(Path(path).read_text()), source) if path else (IMAGENET_MEAN, IMAGENET_STD)
        self.scale.copy_((torch.tensor(IMAGENET_STD) / torch.tensor(std)).view(1, 3, 1, 1))
        self.shift.copy_(((torch.tensor(IMAGENET_MEAN) - torch.tensor(mean)) / torch.tensor(std)).view(1, 3, 1, 1))
        new = sorted({*loading["missing_keys"], *(str(key[0]) for key in loading["mismatched_keys"])})
        print(f"{source}: pretrained{f', but for new {chr(44).join(new)}' if new else ''}", flush=True)

    def _input(self, x: Tensor) -> Tensor:
        x = x * self.scale + self.shift
        if self.model.config.model_type not in SQUARE_MODELS:
            return x
        side = self.model.config.image_size
        return F.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)

    def _to_map(self, tokens: Tensor, x: Tensor) -> Tensor:
        """[B,n,C] tokens, the patches last (class, register and query tokens stand in front) -> [B,C,h,w]."""
        patch = self.model.config.patch_size
        rows, columns = x.shape[-2] // patch, x.shape[-1] // patch
        return tokens[:, -rows * columns :].transpose(1, 2).unflatten(2, (rows, columns))


def query_log_scores(classes: Tensor, masks: Tensor) -> Tensor:
    """Log of p_c = sum_q softmax(class_q)_c sigmoid(mask_q) at every pixel, f32 [B,C,h,w].

    classes: logits [B,Q,C+1], the last one "no object"; masks: logits [B,Q,h,w]. The softmax of the result is p_c
    normalised over the classes; where no query claims a pixel all scores are near the floor log 1e-6, so it is uniform,
    which the uncertainty maps read as unsure. Source: semantic inference of MaskFormer (Cheng, Schwing, Kirillov,
    "Per-Pixel Classification is Not All You Need for Semantic Segmentation", NeurIPS 2021, section 3.4), whose argmax
    this keeps.
    """
    with torch.autocast(masks.device.type, enabled=False):  # bfloat16 would round the sum to two digits
        named = classes.float().softmax(-1)[..., :-1]
        return torch.einsum("bqc,bqhw->bchw", named, masks.float().sigmoid()).add(1e-6).log()


def training_configuration(source: str, num_classes: int) -> str:
    """The configuration at `source` (hub name or folder) with `num_classes` outputs and no auxiliary head, as JSON."""
    own = _from_source(source)
    if own.num_labels != num_classes:
        own.num_labels = num_classes
    if hasattr(own, "use_auxiliary_head"):
        own.use_auxiliary_head = False
    return json.dumps(json.loads(own.to_json_string()), sort_keys=True)


def _from_json(text: str) -> Any:
    """Configuration object of JSON text; entries that could name code to fetch (kernels, modules) are dropped."""

    def harmless(entries: dict[str, Any]) -> dict[str, Any]:
        return {k: v for k, v in entries.items() if k != "auto_map" and "implementation" not in k}

    try:
        entries = json.loads(text, object_hook=harmless)
        return AutoConfig.for_model(entries.pop("model_type"), **entries)
    except (ValueError, KeyError, TypeError, AttributeError, StrictDataclassError) as error:
        raise ConfigError(
            f"segmentation.huggingface is no configuration this version of transformers reads "
            f"({type(error).__name__}: {_first_line(error)}); update transformers"
        ) from error


def _from_source(source: str) -> Any:
    if not source:
        raise ConfigError("segmentation.architecture huggingface needs segmentation.source: a hub name or a folder")
    with _one_sentence(source, "config.json"):
        return AutoConfig.from_pretrained(source, trust_remote_code=False)


def _auto_class(own: Any) -> Any:
    if type(own) in MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING:
        return AutoModelForSemanticSegmentation
    if own.model_type in QUERY_MODELS:
        return AutoModelForUniversalSegmentation
    raise ConfigError(
        f"'{own.model_type}' is no semantic segmentation model of transformers; use one of "
        f"AutoModelForSemanticSegmentation or {', '.join(QUERY_MODELS)}"
    )


def _input_range(preprocessor: dict[str, Any], source: str) -> tuple[Any, Any]:
    """Mean and std per channel on a [0, 1] image that the model's own preprocessing uses."""
    if preprocessor.get("do_flip_channel_order"):
        raise ConfigError(f"{source} reads blue-green-red images, which the chain does not make: use another model")
    if not preprocessor.get("do_normalize", True):
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    return preprocessor.get("image_mean", IMAGENET_MEAN), preprocessor.get("image_std", IMAGENET_STD)


@contextmanager
def _one_sentence(source: str, what: str) -> Iterator[None]:
    """transformers' errors are of many kinds and run over many lines: one ConfigError instead."""
    try:
        yield
    except (OSError, ValueError, KeyError, StrictDataclassError) as error:
        raise ConfigError(
            f"segmentation.source '{source}' gives no usable {what} ({_first_line(error)}): name a folder written by "
            "save_pretrained, or a model of the Hugging Face hub that can be reached"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
