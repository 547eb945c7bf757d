"""Training scenes in memory with hard train-id labels; a teacher refines the coarse ones."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mgcda_core.config import ConfigError, DataConfig, SegmentationConfig
from mgcda_core.data.camvid import load_camvid
from mgcda_core.data.cityscapes import load_cityscapes_train_ids
from mgcda_core.data.cutouts import Cutout, load_cutouts
from mgcda_core.data.idd import load_idd_lite
from mgcda_core.data.rendered import render_scene
from mgcda_core.data.sample import Scene, Scenes, describe
from mgcda_core.labels import IGNORE
from mgcda_core.models.loading import load_strict
from mgcda_core.models.segmentation import build_segmentation

TEACHER_SIZE = (256, 512)
HELD_OUT = 10
"""Every tenth cut-out object is kept for validation."""


def load_scenes(
    data: DataConfig, split: Literal["train", "val"], teacher: str | None = None, confidence: float = 0.5
) -> list[list[Scene]]:
    """The scenes of each configured set, labels as train ids (255 void), read into memory.

    A label that allows several train ids becomes the teacher's favourite among them (without a teacher, the first);
    where it allows none, the teacher's own class if it is at least `confidence` sure, else 255.
    """
    sets = scene_sets(data, split)
    network = _load_teacher(Path(teacher)) if teacher else None
    loaded = []
    with ThreadPoolExecutor() as pool:
        for scenes in sets:
            read = list(pool.map(scenes.__getitem__, range(len(scenes))))
            table = scenes.train_id_table()
            loaded.append([_refined(s, table, network, confidence) for s in read])
    if data.rendered:
        count = data.rendered if split == "train" else max(8, data.rendered // HELD_OUT)
        first = 0 if split == "train" else 900_000
        with get_context("spawn").Pool() as workers:
            loaded.append(workers.map(_rendered, range(first, first + count), chunksize=8))
    print(f"{split} scenes: {describe(sets)}{f', rendered {len(loaded[-1])}' if data.rendered else ''}", flush=True)
    if not loaded:
        raise ConfigError(f"data names no scenes with a {split} split")
    return loaded


def scene_sets(data: DataConfig, split: Literal["train", "val"]) -> list[Scenes]:
    """The configured photographic sets of a split, with their own labels, still on disk."""
    sets: list[Scenes] = []
    if data.camvid:
        sets.append(load_camvid(Path(data.camvid), split))
    if data.idd_lite:
        sets.append(load_idd_lite(Path(data.idd_lite), split))
    if data.cityscapes_train_ids and split == "train":
        sets.append(load_cityscapes_train_ids(Path(data.cityscapes_train_ids)))
    return sets


def load_objects(data: DataConfig, split: Literal["train", "val"]) -> list[Cutout]:
    """The cut-out objects of every configured folder; every tenth is `val`, the rest `train`."""
    objects = [o for folder in data.objects for o in load_cutouts(Path(folder))]
    if not objects:
        raise ConfigError("data.objects names no folder of cut-out objects")
    return [o for i, o in enumerate(objects) if (i % HELD_OUT == 0) == (split == "val")]


def _rendered(seed: int) -> Scene:
    scene = render_scene(seed, anomalies=0)
    return Scene(scene.image, scene.labels, f"rendered/{seed}")


def _load_teacher(path: Path) -> nn.Module:
    network = build_segmentation(SegmentationConfig(architecture="enet", width=16, normalise="unit"))
    load_strict(network, torch.load(path, weights_only=True, map_location="cpu"), str(path))
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval()


@torch.inference_mode()
def _refined(scene: Scene, table: np.ndarray, teacher: nn.Module | None, confidence: float) -> Scene:
    allowed = table[scene.label]
    if teacher is None:
        hard = np.where(allowed.any(-1), allowed.argmax(-1), IGNORE)
        return Scene(scene.image, hard.astype(np.uint8), scene.name)
    device = next(teacher.parameters()).device
    image = torch.from_numpy(scene.image).to(device).permute(2, 0, 1)[None].float() / 255
    logits = teacher(F.interpolate(image, TEACHER_SIZE, mode="bilinear", align_corners=False, antialias=True))
    probability = F.interpolate(logits.softmax(1), scene.label.shape, mode="bilinear", align_corners=False)[0]
    options = torch.from_numpy(allowed).to(device).permute(2, 0, 1)
    chosen = (probability + 1e-6).masked_fill(~options, 0).argmax(0)
    sure, favourite = probability.max(0)
    void = torch.where(sure >= confidence, favourite, torch.full_like(favourite, IGNORE))
    hard = torch.where(options.any(0), chosen, void)
    return Scene(scene.image, hard.to(torch.uint8).cpu().numpy(), scene.name)
