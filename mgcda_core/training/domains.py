"""The training domains as numbered composites: VoidClass V and AnomalyMix A (paper section 3.1; spec 3.2, 3.4).

A third, synthetic-unknown U (spec 7, seed 002), is no part of MGCDA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from mgcda_core.config import ConfigError, PrepareConfig
from mgcda_core.data import anomaly_mix, augment, void_class
from mgcda_core.data.cutouts import Cutout
from mgcda_core.data.sample import DataError, Scene, Scenes
from mgcda_core.data.unknown_region import draw_region
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL, TRAIN_TO_LABEL_ID
from mgcda_core.training.scenes import load_objects, rendered_scenes, scene_sets
from mgcda_core.training.truth import Truth, uncovered

Kind = Literal["void", "swap", "mix", "unknown"]
KINDS: tuple[Kind, ...] = ("void", "swap", "mix", "unknown")
TRIES = 20
"""Windows drawn for a VoidClass sample before the whole scene is taken: most small windows hold no region."""


@dataclass(frozen=True)
class TrainingComposite:
    """One sample of a domain, before the frozen networks."""

    image: np.ndarray
    """uint8 [H, W, 3] RGB; of domain U before the frozen segmentation network changes it where the label is 1."""
    label: np.ndarray
    """uint8 [H, W] in {0, 1, 255}."""
    semantics: np.ndarray | None
    """uint8 [H, W] train ids that replace the predicted classes, 255 where the prediction stays; None: predicted."""
    provenance: dict[str, Any]
    """Scene, window, regions or pastes, and the seed of the photometry: plain JSON values."""
    truth: Truth | None = None
    """What the pasted anomalies cover, if `PrepareConfig.truth` asks for it."""


class Domain:
    """The composites of `mgcda prepare`, numbered: copies of a scene lie side by side, sample n depends on n alone.

    Raises ConfigError if no scene is left.
    """

    def __init__(self, config: PrepareConfig) -> None:
        self.config = config
        self.sets = scene_sets(config.data, config.split)
        if config.data.rendered and config.domain != "void_class":
            self.sets.append(rendered_scenes(config.data, config.split))
        self.scenes = [(s, i) for s, scenes in enumerate(self.sets) for i in picked(len(scenes), config.limit)]
        self.kinds: list[tuple[int, int, Kind]]
        self.objects = load_objects(config.data, config.split) if config.domain == "anomaly_mix" else []
        if config.domain == "anomaly_mix":
            self.kinds = [(s, i, "mix") for s, i in self.scenes]
        elif config.domain == "synthetic_unknown":
            self.kinds = [(s, i, "unknown") for s, i in self.scenes]
        else:
            self.kinds = [kind for s, i in self.scenes for kind in self._void_kinds(s, i)]
        if not self.kinds:
            raise ConfigError(
                f"no {config.split} scene is left for {config.domain}: of {len(self.scenes)} labelled ones none has a "
                "void region of void.min_area pixels"
            )
        if config.domain == "void_class" and config.void.swap_known and not any(k == "swap" for _, _, k in self.kinds):
            raise ConfigError("void.swap_known needs instance ids: set data.cityscapes")

    def __len__(self) -> int:
        return len(self.kinds) * self.config.copies

    def __getitem__(self, number: int) -> TrainingComposite:
        which, index, kind = self.kinds[number // self.config.copies]
        rng = np.random.default_rng((self.config.seed, KINDS.index(kind), number))
        scenes = self.sets[which]
        scene = scenes[index]
        if kind == "mix":
            return self._mixed(scene, scenes, rng)
        if kind == "unknown":
            return self._region(scene, rng)
        return self._voided(scene, scenes, rng) if kind == "void" else self._swapped(scene, scenes, rng)

    def _mixed(self, scene: Scene, scenes: Scenes, rng: np.random.Generator) -> TrainingComposite:
        config = self.config
        window = augment.draw_window(scene.label, config.augment, rng)
        image, train_ids = window.cut(scene.image), window.cut(_train_ids(scene.label, scenes))
        known = self._known(rng)
        # Pasted before resizing, at the scene's own resolution: an object sharper than its scene would be a clue.
        composite = anomaly_mix.compose(image, train_ids, self.objects, known, config.mix, rng)
        made = self._finished(scene, window, composite.image, composite.label, None, composite.provenance, rng)
        if not config.truth:
            return made
        label, table = window.cut(scene.label), scenes.train_id_table()
        truth = uncovered(image, train_ids, label, table, known, made.provenance, config.augment)
        return replace(made, truth=truth)

    def _known(self, rng: np.random.Generator) -> list[Cutout]:
        """Vehicles and people of one other scene, if `mix.known` wants them."""
        if rng.random() >= self.config.mix.known:
            return []
        which, index = self.scenes[int(rng.integers(len(self.scenes)))]
        other = self.sets[which][index]
        found = anomaly_mix.known_objects(other.image, _train_ids(other.label, self.sets[which]), other.name)
        return [found[i] for i in rng.permutation(len(found))[:2]]

    def _voided(self, scene: Scene, scenes: Scenes, rng: np.random.Generator) -> TrainingComposite:
        window, label, regions = self._void_window(scene, scenes, rng)
        given = None
        if self.config.void.semantics == "gt+pred_in_void":
            given = window.cut(_train_ids(scene.label, scenes, coarse=False))
        return self._finished(
            scene, window, window.cut(scene.image), window.cut(label), given, {"regions": regions}, rng
        )

    def _void_window(
        self, scene: Scene, scenes: Scenes, rng: np.random.Generator
    ) -> tuple[augment.Window, np.ndarray, list[dict[str, Any]]]:
        """A window that holds an anomaly, if the scene does; the label of the whole scene and its regions."""
        label, regions = self._void_label(scene, scenes)
        height, width = label.shape
        for _ in range(TRIES):
            window = augment.draw_window(label, self.config.augment, rng)
            if not regions or (window.cut(label) == 1).any():
                return window, label, regions
        return augment.Window(0, 0, height, width, False), label, regions

    def _void_label(self, scene: Scene, scenes: Scenes) -> tuple[np.ndarray, list[dict[str, Any]]]:
        """Label and regions of a whole scene; which regions are kept depends on the seed and the scene's name alone."""
        assert scene.raw is not None
        rng = np.random.default_rng((self.config.seed, *scene.name.encode()))
        values = self.config.void.cityscapes_ids if scene.instances is not None else scenes.void_values
        return void_class.label_regions(scene.raw, values, self.config.void, rng, ignored=scene.label == IGNORE)

    def _swapped(self, scene: Scene, scenes: Scenes, rng: np.random.Generator) -> TrainingComposite:
        assert scene.raw is not None and scene.instances is not None
        window = augment.draw_window(scene.label, self.config.augment, rng)
        swapped, label, regions = void_class.swap_instances(scene.raw, scene.instances, scene.label == IGNORE, rng)
        given = _TRAIN_ID[swapped]
        return self._finished(
            scene, window, window.cut(scene.image), window.cut(label), window.cut(given), {"swapped": regions}, rng
        )

    def _finished(
        self,
        scene: Scene,
        window: augment.Window,
        image: np.ndarray,
        label: np.ndarray,
        given: np.ndarray | None,
        facts: dict[str, Any],
        rng: np.random.Generator,
    ) -> TrainingComposite:
        """Resized to `augment.size`, with photometry of a seed of its own that the provenance names."""
        size = self.config.augment.size
        image, label = augment.resize(np.ascontiguousarray(image), np.ascontiguousarray(label), size)
        given = None if given is None else augment.resize(image, np.ascontiguousarray(given), size)[1]
        seed = int(rng.integers(2**31))
        image = augment.photometric(image, self.config.augment, np.random.default_rng(seed))
        facts = {"scene": scene.name, "window": asdict(window), "photometry_seed": seed, **facts}
        return TrainingComposite(image, label, given, facts)

    def _region(self, scene: Scene, rng: np.random.Generator) -> TrainingComposite:
        window = augment.draw_window(scene.label, self.config.augment, rng)
        label = window.cut(scene.label)
        region = draw_region(label, self.config.unknown, rng)
        label = np.where(region, ANOMALY, np.where(label == IGNORE, IGNORE, NORMAL)).astype(np.uint8)
        facts = {"region": int(region.sum())}
        return self._finished(scene, window, window.cut(scene.image), label, None, facts, rng)

    def _void_kinds(self, which: int, index: int) -> list[tuple[int, int, Kind]]:
        """What a scene adds to VoidClass: itself, if it has a region, and its instance swap, if that is wanted."""
        scenes = self.sets[which]
        scene = scenes[index]
        if scene.raw is None:
            raise DataError(f"{scene.name} has no stored label values: VoidClass cannot use {scenes.name}")
        kinds: list[tuple[int, int, Kind]] = []
        _, regions = self._void_label(scene, scenes)
        if regions or not self.config.void.require_positive:
            kinds.append((which, index, "void"))
        if self.config.void.swap_known and scene.instances is not None and (scene.instances >= 10_000).any():
            kinds.append((which, index, "swap"))
        return kinds


_TRAIN_ID = np.full(256, IGNORE, np.uint8)
_TRAIN_ID[list(TRAIN_TO_LABEL_ID)] = range(len(TRAIN_TO_LABEL_ID))


def picked(count: int, limit: int) -> Sequence[int]:
    """`limit` of `count` numbers, evenly spread."""
    if not 0 < limit < count:
        return range(count)
    return [i * count // limit for i in range(limit)]


def _train_ids(label: np.ndarray, scenes: Scenes, *, coarse: bool = True) -> np.ndarray:
    """A set's own classes -> train ids uint8 [H, W], 255 void; a class that covers several is the first, or 255."""
    table = np.full(256, IGNORE, np.uint8)
    for value, ids in enumerate(scenes.classes):
        if len(ids) == 1 or (ids and coarse):
            table[value] = ids[0]
    return table[label]
