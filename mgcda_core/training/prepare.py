"""`mgcda prepare`: the frozen segmentation and synthesis networks once over a training domain, into a cache.

The work is cut into shards. Each is written whole or not at all, a second run makes only those that are missing, and N
processes (torchrun) take every N-th. What a sample holds depends on the configuration and its number alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_core.config import PrepareConfig, SyntheticUnknownConfig
from mgcda_core.labels import ANOMALY, IGNORE
from mgcda_core.methods.synthetic_unknown import masked_gradient_update, softmax_confidence
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter, Stages
from mgcda_core.models.closed_set_segmenter import shrinks
from mgcda_core.models.loading import load_strict
from mgcda_core.training.cache import Manifest, shard_path, to_maps, write_shard
from mgcda_core.training.domains import Domain, TrainingComposite
from mgcda_core.training.truth import told
from mgcda_core.weights.resolve import Weights, WeightsError, load_weights

BATCH = 4
"""Composites the frozen networks see at a time; part of what a sample's last bits depend on."""


def prepare(config: PrepareConfig, out: Path) -> Path:
    """Fill the cache `out`, or what is missing of it; returns it.

    Raises StaleCacheError if the folder holds a cache of other weights or another configuration.
    """
    chain, digest = load_frozen(config.weights, config.size, config.detail)
    domain = Domain(config)
    manifest = Manifest.of(config, digest, len(domain))
    stored = Manifest.read(out)
    if stored is not None:
        stored.check(manifest, out)
    else:
        manifest.write(out)
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    todo = [s for s in range(manifest.shards)[rank::world] if not shard_path(out, s).is_file()]
    chain.to(_device(config)).eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    started = time.monotonic()
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1)) as pool:
        composites = _submitted(pool, domain, config, todo[0]) if todo else []
        for done, shard in enumerate(todo, 1):
            following = _submitted(pool, domain, config, todo[done]) if done < len(todo) else []
            made = [future.result() for future in composites]
            maps = _frozen_maps(chain, made, config)
            write_shard(shard_path(out, shard), maps, [c.provenance for c in made])
            composites = following
            left = (time.monotonic() - started) / done * (len(todo) - done)
            print(f"prepare {out}: shard {shard}, {len(todo) - done} to go, {left:.0f} s left", flush=True)
    return out


def load_frozen(
    weights: str, size: tuple[int, int] | None = None, detail: Literal[1, 2] | None = None
) -> tuple[AnomalySegmenter, str]:
    """The chain of a weights file with its frozen networks loaded, and their sha256.

    `size` and `detail` replace the dissimilarity network's. The sum is over the frozen networks alone: another
    dissimilarity network beside them does not change it.
    """
    loaded = load_weights(weights)
    frozen = frozen_state(loaded.state)
    own = loaded.config.dissimilarity
    network = dataclasses.replace(own, size=size or own.size, detail=detail or own.detail)
    chain = AnomalySegmenter(dataclasses.replace(loaded.config, dissimilarity=network))
    present = dict.fromkeys(key.split(".")[0] for key in frozen)
    missing = [name for name, _ in chain.named_children() if name not in (*present, "dissimilarity")]
    if missing:
        raise WeightsError(f"{weights} lacks {', '.join(missing)}: give the weights of mgcda train synthesis, which "
                           "hold all of the chain's frozen networks")  # fmt: skip
    for part in present:
        state = {k.removeprefix(f"{part}."): v for k, v in frozen.items() if k.startswith(f"{part}.")}
        load_strict(chain.get_submodule(part), state, weights)
    return chain.requires_grad_(False), frozen_sha256(loaded)


def frozen_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All of a chain but the dissimilarity network."""
    return {k: v for k, v in state.items() if not k.startswith("dissimilarity.")}


def frozen_sha256(weights: Weights) -> str:
    """Checksum of the frozen networks, tensors and configuration, whatever file they come from."""
    config = dataclasses.asdict(weights.config)
    fixed = {k: config[k] for k in ("segmentation", "synthesis", "scaling", "perceptual")}
    del fixed["segmentation"]["unknown"]  # the tensors' shapes say it
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode())
    state = frozen_state(weights.state)
    for key in sorted(state):
        digest.update(f"{key} {state[key].dtype} {tuple(state[key].shape)} ".encode())
        digest.update(state[key].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _device(config: PrepareConfig) -> torch.device:
    if config.device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _submitted(pool: ThreadPoolExecutor, domain: Domain, config: PrepareConfig, shard: int) -> list[Future]:
    first = shard * config.shard
    return [pool.submit(domain.__getitem__, n) for n in range(first, min(first + config.shard, len(domain)))]


@torch.inference_mode()
def _frozen_maps(chain: AnomalySegmenter, made: list[TrainingComposite], config: PrepareConfig) -> dict[str, Tensor]:
    """The maps of one shard, stacked."""
    device = next(chain.parameters()).device
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(made), BATCH):
        batch = made[start : start + BATCH]
        image = torch.from_numpy(np.stack([c.image for c in batch])).permute(0, 3, 1, 2).to(device)
        label = torch.from_numpy(np.stack([c.label for c in batch])).to(device)
        if config.domain == "synthetic_unknown":
            image = _less_sure(chain, image, label == ANOMALY, config.unknown)
        truths = [c.truth for c in batch if c.truth is not None]
        painted, semantics = told(chain, truths, config.truth) if truths else (None, _given(batch, device))
        stages = chain.stages(image, made=painted, semantics=semantics)
        parts.append(to_maps(sample_maps(stages, label)))
    return {name: torch.cat([part[name] for part in parts]).cpu().contiguous() for name in parts[0]}


def _less_sure(chain: AnomalySegmenter, image: Tensor, region: Tensor, config: SyntheticUnknownConfig) -> Tensor:
    """Domain U: uint8 [B, 3, H, W] with the regions bool [B, H, W] moved against the chain's segmentation network."""
    size = chain.config.segmentation.size

    def confidence(x: Tensor) -> Tensor:
        # Not the chain's own resizing, whose 8-bit steps with reference scaling have no gradient.
        small = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=shrinks(x, size))
        logits = chain.segmentation(chain.segmentation_input(small), x.shape[-2:])
        return softmax_confidence(chain.classes_of(logits))

    return masked_gradient_update(confidence, image, region, config)


def sample_maps(stages: Stages, label: Tensor) -> dict[str, Tensor]:
    """What the dissimilarity network is trained on: its inputs and the label at its working size."""
    size = stages.prior.shape[-2:]
    small = F.interpolate(label[:, None].float(), size, mode="nearest-exact")[:, 0]
    classes = stages.semantic[:, : stages.segmentation_logits.shape[1]]
    semantic = torch.where(classes.any(1), classes.argmax(1), IGNORE)
    return {"image": stages.image, "synthesis": stages.synthesis, "semantic": semantic, "prior": stages.prior,
            "label": small}  # fmt: skip


def _given(batch: list[TrainingComposite], device: torch.device) -> Tensor | None:
    if all(c.semantics is None for c in batch):
        return None
    maps = [np.full(c.label.shape, IGNORE, np.uint8) if c.semantics is None else c.semantics for c in batch]
    return torch.from_numpy(np.stack(maps)).long().to(device)
