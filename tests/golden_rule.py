"""The golden rule's weights and inputs, loaded into our networks (tests/golden/README.md, sections 1 and 2)."""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mgcda_core.config import DissimilarityConfig, SynthesisConfig
from mgcda_core.models import uncertainty
from mgcda_core.models.dissimilarity import DissimilarityNet
from mgcda_core.models.encoders import Vgg19Slices
from mgcda_core.models.loading import load_strict
from mgcda_core.models.segmentation.deeplabv3plus import DeepLabV3Plus
from mgcda_core.models.synthesis import Generator, StyleEncoder
from mgcda_core.weights.spectral_norm import DEAD_GENERATOR_KEYS, drop_dead_generator_keys, fold_spectral_norm

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))
rule: Any = importlib.import_module("synthetic_weights")  # the rule beside the public recordings, never from --dir

STYLE_LENGTH = 256


@dataclass(frozen=True)
class Recording:
    """One file of recorded outputs: the case's name, the salt of its weights and inputs, its arrays."""

    name: str
    salt: str
    arrays: dict[str, np.ndarray]

    def numbers(self, key: str) -> tuple[int, ...]:
        """A size or width the file must state."""
        if key not in self.arrays:
            raise ValueError(f"the recording does not state {key}")
        return tuple(int(v) for v in np.atleast_1d(self.arrays[key]))


@dataclass
class Inputs:
    """Arrays drawn by the rule, with the checksums a recording holds of them."""

    salt: str
    crcs: dict[str, int]

    def draw(self, name: str, shape: tuple[int, ...], kind: str) -> Tensor:
        array = rule.synthetic_input(name, shape, kind, self.salt)
        self.crcs[f"crc_input_{name}"] = rule.array_crc(array)
        return torch.from_numpy(array)


@cache
def recorded_keys() -> dict[str, list[tuple[str, tuple[int, ...]]]]:
    """keys.json: network -> (key, shape) of its reference state dict."""
    raw = json.loads((GOLDEN / "keys.json").read_text())
    return {name: [(key, tuple(shape)) for key, shape in keys] for name, keys in raw.items()}


@lru_cache(maxsize=6)
def weights(network: str, salt: str, gains: str) -> tuple[dict[str, Tensor], int]:
    """The rule's state dict of a network in reference keys, and its checksum."""
    state = rule.synthetic_state_dict(keys_of(network), salt, rule.GAINS[gains])
    return state, rule.state_dict_crc(state)


def keys_of(network: str) -> list[tuple[str, tuple[int, ...]]]:
    """Reference keys of a network, from keys.json; of a width or latent size not listed there, from our own module."""
    if network in recorded_keys():
        return recorded_keys()[network]
    kind, ngf, *latent = (part.lstrip("abcdefghijklmnopqrstuvwxyz") or part for part in network.split("_"))
    with torch.device("meta"):
        if kind == "encoder":
            own: nn.Module = StyleEncoder(SynthesisConfig(encoder_width=int(ngf)))
        else:
            height, width = (64 * int(v) for v in latent[0].split("x"))
            own = Generator(SynthesisConfig(ngf=int(ngf), size=(height, width)))
    return reference_keys(own)


def reference_keys(module: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    """Our generator's or style encoder's keys with the spectral-norm triplets and dead keys of the published files."""
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    keys: list[tuple[str, tuple[int, ...]]] = []
    for key, shape in shapes.items():
        if key.endswith(("conv_s.weight", ".0.0.weight")) or (key.startswith("layer") and key.endswith("weight")):
            keys += [(f"{key}_orig", shape), (f"{key}_u", shape[:1]), (f"{key}_v", (math.prod(shape[1:]),))]
        else:
            keys.append((key, shape))
    if "head_0.norm_1.weight" in shapes:
        twins = {"norm_0": "norm_2", "conv_0.norm_layer": "norm_1", "conv_2.norm_layer": "norm_2"}
        for key in DEAD_GENERATOR_KEYS:
            block, _, rest = key.partition(".")
            norm, _, leaf = rest.rpartition(".")
            keys.append((key, shapes[f"{block}.{twins[norm]}.{leaf}"]))
    return keys


def build(make: Callable[[], nn.Module], state: dict[str, Tensor], source: str) -> Any:
    """A network in evaluation mode with `state`, without the cost of a random initialisation."""
    with torch.device("meta"):
        module = make()
    module = module.to_empty(device="cpu")
    load_strict(module, state, source)
    return module.eval()


def build_generator(
    ngf: int, size: tuple[int, int], salt: str, crcs: dict[str, int], recorded_crc: int | None
) -> Generator:
    """The gains are those of the width, `_wide` at 128x256; another recorded checksum may say otherwise."""
    network = f"generator_ngf{ngf}_latent{size[0] // 64}x{size[1] // 64}"
    stem = "generator_full" if ngf == 64 else "generator_small"
    gains = [f"{stem}_wide", stem] if size == (128, 256) else [stem, f"{stem}_wide"]
    state, crc = weights(network, salt, gains[0])
    if recorded_crc not in (None, crc):
        state, crc = weights(network, salt, gains[1])
    crcs["crc_weights"] = crcs["crc_weights_generator"] = crc
    config = SynthesisConfig(ngf=ngf, size=size, z_dim=STYLE_LENGTH)
    return build(lambda: Generator(config), drop_dead_generator_keys(fold_spectral_norm(state)), network)


def build_encoder(ngf: int, salt: str, crcs: dict[str, int]) -> StyleEncoder:
    state, crcs["crc_weights"] = weights(f"encoder_ngf{ngf}", salt, "encoder")
    crcs["crc_weights_encoder"] = crcs["crc_weights"]
    config = SynthesisConfig(encoder_width=ngf, z_dim=STYLE_LENGTH)
    return build(lambda: StyleEncoder(config), fold_spectral_norm(state), "encoder")


def build_dissimilarity(network: str, salt: str, crcs: dict[str, int]) -> DissimilarityNet:
    prior = network == "dissim_prior"
    config = DissimilarityConfig() if prior else DissimilarityConfig(prior=(), spade="none")
    state, crcs["crc_weights"] = weights(network, salt, network)
    crcs["crc_weights_dissim"] = crcs["crc_weights"]
    return build(lambda: DissimilarityNet(config), state, network)


def build_perceptual(salt: str, crcs: dict[str, int]) -> uncertainty.PerceptualDifference:
    state, crcs["crc_weights"] = weights("vgg19", salt, "vgg19")
    crcs["crc_weights_vgg19"] = crcs["crc_weights"]
    return uncertainty.PerceptualDifference(build(Vgg19Slices, state, "vgg19"))


def build_deeplab(salt: str, crcs: dict[str, int]) -> nn.Module:
    state, crcs["crc_weights"] = weights("deeplab", salt, "deeplab")
    crcs["crc_weights_deeplab"] = crcs["crc_weights"]
    return build(DeepLabV3Plus, state, "deeplab")
