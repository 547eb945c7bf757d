"""Training scenes of several label spaces: every label is one row of a table of the train ids it may be."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mgcda_core.config import ConfigError, DataConfig, SegmentationConfig
from mgcda_core.data.camvid import load_camvid
from mgcda_core.data.cityscapes import load_cityscapes, load_cityscapes_train_ids
from mgcda_core.data.coco import load_coco_objects
from mgcda_core.data.cutouts import Cutout, load_cutouts
from mgcda_core.data.gta5 import load_gta5
from mgcda_core.data.idd import load_idd_lite
from mgcda_core.data.pascal_voc import load_pascal_voc_objects
from mgcda_core.data.rendered_scenes import RenderedScenes, draw_scenes
from mgcda_core.data.sample import Scene, Scenes, describe, read_label
from mgcda_core.data.synthia import load_synthia
from mgcda_core.labels import IGNORE
from mgcda_core.models.loading import load_strict
from mgcda_core.models.segmentation import build_segmentation
from mgcda_core.training.samples import SceneSet
from mgcda_core.weights.resolve import checksum

CLASSES = 19
TEACHER_SIZE = (256, 512)
HELD_OUT = 10
"""The objects of every tenth picture of a set without splits of its own are kept for validation."""
IN_MEMORY = 2 << 30
"""Bytes up to which a set is held in memory; a larger one (Cityscapes as published) is read at every use."""


def load_scenes(
    data: DataConfig,
    split: Literal["train", "val"],
    teacher: str | None = None,
    confidence: float = 0.5,
    coarse: Literal["sum", "teacher"] = "sum",
) -> list[SceneSet]:
    """The scenes of each configured set; their labels are rows of `label_sets` (so a train id is itself), 255 void.

    A void pixel takes the teacher's class where it is at least `confidence` sure. With `coarse: teacher` a label that
    covers several classes becomes the one among them the teacher prefers, else it stays.
    """
    sets = scene_sets(data, split)
    rows = {ids: row for row, ids in enumerate(_class_sets(sets))}
    judge = Teacher(Path(teacher), confidence, coarse) if teacher else None
    loaded: list[SceneSet] = [LabelledScenes(scenes, rows, judge) for scenes in sets]
    if data.rendered:
        drawn = rendered_scenes(data, split)
        with get_context("spawn").Pool() as workers:
            loaded.append(workers.map(drawn.__getitem__, range(len(drawn)), chunksize=8))
    print(f"{split} scenes: {describe(sets)}{f', rendered {len(loaded[-1])}' if data.rendered else ''}", flush=True)
    if not loaded:
        raise ConfigError(f"data names no scenes with a {split} split")
    return loaded


def label_sets(data: DataConfig, split: Literal["train", "val"]) -> np.ndarray:
    """bool [V, 19]: the train ids that each label of `load_scenes(data, split)` may be.

    The first 19 rows are the train ids themselves; then comes every coarser class of the configured sets, once.
    """
    table = np.zeros((len(classes := _class_sets(scene_sets(data, split))), CLASSES), bool)
    for row, ids in enumerate(classes):
        table[row, list(ids)] = True
    return table


def scene_sets(data: DataConfig, split: Literal["train", "val"]) -> list[Scenes]:
    """The configured photographic sets of a split, with their own labels, still on disk."""
    sets: list[Scenes] = []
    if data.camvid:
        sets.append(load_camvid(Path(data.camvid), split))
    if data.idd_lite:
        sets.append(load_idd_lite(Path(data.idd_lite), split))
    if data.cityscapes:
        sets.append(load_cityscapes(Path(data.cityscapes), split))
    if data.cityscapes_train_ids and split == "train":
        sets.append(load_cityscapes_train_ids(Path(data.cityscapes_train_ids)))
    if data.gta5 and split == "train":
        sets.append(load_gta5(Path(data.gta5)))
    if data.synthia and split == "train":
        sets.append(load_synthia(Path(data.synthia)))
    return sets


def rendered_scenes(data: DataConfig, split: Literal["train", "val"]) -> RenderedScenes:
    """The drawn scenes of a split; a tenth as many, of other seeds, for validation."""
    if split == "train":
        return draw_scenes(range(data.rendered))
    return draw_scenes(range(900_000, 900_000 + max(8, data.rendered // HELD_OUT)))


def load_objects(data: DataConfig, split: Literal["train", "val"]) -> list[Cutout]:
    """The objects to paste: COCO's split; of other sets those of every tenth picture are `val`, the rest `train`."""
    objects = [o for folder in data.objects for o in load_cutouts(Path(folder))]
    if data.pascal_voc:
        objects += load_pascal_voc_objects(Path(data.pascal_voc))
    pictures = {picture: i for i, picture in enumerate(dict.fromkeys(o.picture for o in objects))}
    objects = [o for o in objects if (pictures[o.picture] % HELD_OUT == 0) == (split == "val")]
    if data.coco:
        every: dict[str, Any] = {"drop_objects": frozenset(), "min_pixels": 1}
        objects += load_coco_objects(Path(data.coco), split, **(every if data.coco_objects == "published" else {}))
    if not objects:
        raise ConfigError("data names no objects to paste: set data.objects, data.coco or data.pascal_voc")
    return objects


class LabelledScenes:
    """The scenes of one set with labels as rows of `label_sets`; in memory if they fit, else read at every use."""

    def __init__(self, scenes: Scenes, rows: dict[tuple[int, ...], int], teacher: Teacher | None) -> None:
        self.scenes, self.teacher = scenes, teacher
        self.row_of = np.full(256, IGNORE, np.uint8)
        for value, ids in enumerate(scenes.classes):
            self.row_of[value] = rows[ids] if ids else IGNORE
        self.held: list[Scene] = []
        first = self[0]
        fits = len(scenes) * (first.image.nbytes + first.label.nbytes) <= IN_MEMORY
        if fits or teacher:  # all at once: later a loader's process would have to run the teacher
            with ThreadPoolExecutor(1 if teacher else None) as pool:
                every = pool.map(self.__getitem__, range(len(scenes)))
                self.held = [scene for scene in every if fits]

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Scene:
        if self.held:
            return self.held[index]
        scene = self.scenes[index]
        label = self.row_of[scene.label]
        if self.teacher:
            label = self.teacher(scene, label, self.row_of, self.scenes.train_id_table())
        return Scene(scene.image, label, scene.name)


class Teacher:
    """A trained ENet that labels what labels leave open; its answers are kept in the user's cache.

    There lies one PNG a scene, named by the sum over everything the answer depends on: it is asked once, whatever run
    or process wants to know.
    """

    def __init__(self, path: Path, confidence: float, coarse: Literal["sum", "teacher"]) -> None:
        self.network, self.confidence, self.coarse = load_teacher(path), confidence, coarse
        self.key = f"{checksum(path)} {TEACHER_SIZE} {confidence} {coarse}"
        self.folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mgcda" / "labels"
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, scene: Scene, label: np.ndarray, row_of: np.ndarray, table: np.ndarray) -> np.ndarray:
        """uint8 [H, W] rows of `label_sets`: `label` where it is kept, else train ids or 255.

        `table` bool [256, 19] holds the train ids each value of `scene.label` may be, `row_of` [256] its row.
        """
        digest = hashlib.sha256(f"{self.key} {scene.image.shape}".encode())
        for part in (scene.image, scene.label, row_of, table):
            digest.update(part.tobytes())
        path = self.folder / f"{digest.hexdigest()}.png"
        if not path.is_file():
            part = path.with_suffix(f".{os.getpid()}.part")
            part.write_bytes(cv2.imencode(".png", self._judge(scene, label, table))[1].tobytes())
            part.replace(path)
        return read_label(path)

    @torch.inference_mode()
    def _judge(self, scene: Scene, label: np.ndarray, table: np.ndarray) -> np.ndarray:
        device = next(self.network.parameters()).device
        image = torch.from_numpy(scene.image).to(device).permute(2, 0, 1)[None].float() / 255
        logits = self.network(F.interpolate(image, TEACHER_SIZE, mode="bilinear", align_corners=False, antialias=True))
        probability = F.interpolate(logits.softmax(1), label.shape, mode="bilinear", align_corners=False)[0]
        sure, favourite = (x.cpu().numpy() for x in probability.max(0))
        judged = np.where((label == IGNORE) & (sure >= self.confidence), favourite, label)
        if self.coarse == "teacher":
            options = torch.from_numpy(table[scene.label]).to(device).permute(2, 0, 1)
            preferred = (probability + 1e-6).masked_fill(~options, 0).argmax(0).cpu().numpy()
            judged = np.where((label != IGNORE) & (label >= CLASSES), preferred, judged)
        return judged.astype(np.uint8)


def _class_sets(sets: list[Scenes]) -> list[tuple[int, ...]]:
    coarse = [ids for scenes in sets for ids in scenes.classes if len(ids) > 1]
    return [*((i,) for i in range(CLASSES)), *dict.fromkeys(coarse)]


def load_teacher(path: Path) -> nn.Module:
    """The ENet of a .pth state dict of tensors, in evaluation mode."""
    network = build_segmentation(SegmentationConfig(architecture="enet", width=16, normalise="unit"))
    load_strict(network, torch.load(path, weights_only=True, map_location="cpu"), str(path))
    return network.to("cuda" if torch.cuda.is_available() else "cpu").eval()
