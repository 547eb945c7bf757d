"""The cache of the frozen networks' outputs: shards of samples that a manifest ties to their weights and settings.

CACHE/manifest.json      what made the samples: the configuration, its hash, the weights' sha256, the number of shards
CACHE/shard-00000.safetensors   the stacked maps of `PrepareConfig.shard` samples; the metadata hold each sample's
                         provenance (scene, window, objects, every drawn number), enough to make it again
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mgcda_core.config import PrepareConfig
from mgcda_core.data.sample import DataError
from mgcda_core.models.dissimilarity import DissimilarityNet

FORMAT = 1
MAPS = ("image", "synthesis", "semantic", "prior", "label")
"""image, synthesis uint8 [3, d h, d w], d the network's `detail`; semantic uint8 [h, w] train
ids; prior float16 [3, h, w] in [0, 1] (entropy, perceptual difference, distance), [4, h, w] of a chain with a student
(its error last); label uint8 [h, w] in {0, 1, 255}."""
GENERATOR = 1
"""Raised whenever the same configuration would give other composites."""
_MAY_CHANGE = ("device", "weights")
"""Not what was computed, or, for the weights' path, said better by their sum."""
_OF_DOMAIN = {"void_class": "void", "anomaly_mix": "mix", "synthetic_unknown": "unknown"}
"""The field each domain alone reads."""
_LATER_SETS = ("gta5", "synthia")
"""Sets of `data` that came after the first caches, which have none of them."""


class StaleCacheError(DataError):
    """The cache was made by other weights or another configuration, or is not complete."""


@dataclass(frozen=True)
class Manifest:
    """What a cache was made from."""

    config: dict[str, Any]
    config_sha256: str
    weights_sha256: str
    samples: int
    shards: int

    @staticmethod
    def of(config: PrepareConfig, weights_sha256: str, samples: int) -> Manifest:
        """The manifest `config` will have."""
        unused = [name for domain, name in _OF_DOMAIN.items() if domain != config.domain]
        kept = {k: v for k, v in asdict(config).items() if k not in (*_MAY_CHANGE, *unused)}
        if not config.truth:  # caches from before there was such a field stay valid
            del kept["truth"]
        kept["data"] = {k: v for k, v in kept["data"].items() if v is not None or k not in _LATER_SETS}
        plain = json.loads(json.dumps({"generator": GENERATOR, **kept}))
        digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()
        return Manifest(plain, digest, weights_sha256, samples, -(-samples // config.shard))

    @staticmethod
    def read(cache: Path) -> Manifest | None:
        """The manifest of a cache, or None if it has none yet. Raises DataError for one that is not readable."""
        path = cache / "manifest.json"
        if not path.is_file():
            return None
        try:
            stored = json.loads(path.read_text())
            if stored.pop("format") != FORMAT:
                raise ValueError("another format")
            return Manifest(**stored)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not a manifest of this version ({error}): remove the folder and prepare it "
                            "again") from error  # fmt: skip

    def write(self, cache: Path) -> None:
        """Write CACHE/manifest.json, all or nothing."""
        cache.mkdir(parents=True, exist_ok=True)
        part = cache / f".manifest.{os.getpid()}.part"
        part.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")
        part.replace(cache / "manifest.json")

    def check(self, other: Manifest, cache: Path) -> None:
        """Raises StaleCacheError, naming what differs, unless `other` made the same samples."""
        if self.weights_sha256 != other.weights_sha256:
            raise StaleCacheError(
                f"{cache} was made by the weights {self.weights_sha256[:12]}, not by {other.weights_sha256[:12]}: "
                "prepare another folder with these weights, or remove it"
            )
        names = dict.fromkeys((*self.config, *other.config)) if self.config_sha256 != other.config_sha256 else ()
        for name in names:
            if self.config.get(name) != other.config.get(name):
                raise StaleCacheError(f"{cache} was made with another {name}: prepare another folder, or remove it")
        if self.samples != other.samples:
            raise StaleCacheError(
                f"{cache} was made of {self.samples} samples, now there are {other.samples}: the data changed; prepare "
                "another folder, or remove it"
            )


def shard_path(cache: Path, number: int) -> Path:
    """File of shard `number`."""
    return cache / f"shard-{number:05d}.safetensors"


def write_shard(path: Path, maps: dict[str, Tensor], provenance: list[dict[str, Any]]) -> None:
    """Write one shard, synced and renamed into place, so that a file of that name is always whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    save_file(maps, part, {"provenance": json.dumps(provenance)})
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


class CachedDomain:
    """The samples of one cache; maps are read when indexed.

    Raises StaleCacheError if the cache is not complete or `weights_sha256` is not that of the weights it was made by.
    """

    def __init__(self, cache: Path, weights_sha256: str) -> None:
        manifest = Manifest.read(cache)
        if manifest is None:
            raise StaleCacheError(f"{cache} holds no cache: make it with mgcda prepare")
        if manifest.weights_sha256 != weights_sha256:
            raise StaleCacheError(f"{cache} was made by the weights {manifest.weights_sha256[:12]}, the training uses "
                                  f"{weights_sha256[:12]}: prepare it again with these")  # fmt: skip
        missing = [s for s in range(manifest.shards) if not shard_path(cache, s).is_file()]
        if missing:
            raise StaleCacheError(f"{cache} lacks {len(missing)} of {manifest.shards} shards: run the same mgcda "
                                  "prepare again, it goes on where it was")  # fmt: skip
        self.cache, self.manifest = cache, manifest
        self.provenance: list[dict[str, Any]] = [p for s in range(manifest.shards) for p in self._provenance(s)]
        if len(self.provenance) != manifest.samples:
            raise StaleCacheError(
                f"{cache} holds {len(self.provenance)} samples, its manifest says {manifest.samples}: remove it and "
                "prepare it again"
            )

    def __len__(self) -> int:
        return self.manifest.samples

    @property
    def copies(self) -> int:
        """Samples of each scene; they lie side by side."""
        return int(self.manifest.config["copies"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """The maps of one sample, see `MAPS`."""
        number, position = divmod(index, int(self.manifest.config["shard"]))
        file = self._opened(number)
        return {name: file.get_slice(name)[position] for name in MAPS}

    def name(self, index: int) -> str:
        """Scene of sample `index`, for messages."""
        return f"{self.cache.name}:{self.provenance[index]['scene']}"

    def labels(self) -> Iterator[np.ndarray]:
        """uint8 [n, h, w], shard by shard."""
        for number in range(self.manifest.shards):
            yield self._opened(number).get_tensor("label").numpy()

    def _opened(self, number: int) -> Any:
        path = shard_path(self.cache, number)
        try:
            return safe_open(path, "pt")  # memory-mapped: opening costs little, and every worker does it for itself
        except SafetensorError as error:
            raise _damaged(path, error) from error

    def _provenance(self, number: int) -> list[dict[str, Any]]:
        try:
            return json.loads((self._opened(number).metadata() or {})["provenance"])
        except (KeyError, ValueError) as error:
            raise _damaged(shard_path(self.cache, number), error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path} is damaged ({error}): remove it and run mgcda prepare again")


def network_inputs(
    network: DissimilarityNet, image: Tensor, synthesis: Tensor, semantic: Tensor, prior: Tensor
) -> tuple[Tensor, ...]:
    """Stacked maps of a cache -> the four inputs of `network`, channels last."""
    mean = torch.tensor([0.485, 0.456, 0.406], device=image.device).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], device=image.device).view(1, 3, 1, 1)
    maps = ((image.float() / 255 - mean) / std, (synthesis.float() / 255 - mean) / std,
            network.semantics(semantic), prior.float())  # fmt: skip
    return tuple(m.contiguous(memory_format=torch.channels_last) for m in maps)


def to_maps(maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the chain gives, float in [0, 1] and integer labels -> the types `MAPS` lists.

    8 bits for the pictures, which were 8-bit pictures before they were resized; float16 for the uncertainty maps, whose
    small values matter: measured in docs/training.md.
    """

    def to_bytes(x: Tensor) -> Tensor:
        return (x.float().clamp(0, 1) * 255).round().to(torch.uint8)

    return {
        "image": to_bytes(maps["image"]),
        "synthesis": to_bytes(maps["synthesis"]),
        "semantic": maps["semantic"].to(torch.uint8),
        "prior": maps["prior"].to(torch.float16),
        "label": maps["label"].to(torch.uint8),
    }
