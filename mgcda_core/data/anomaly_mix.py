"""AnomalyMix, training domain A: objects of other pictures pasted into road scenes (PEBAL, ECCV 2022; spec 3.4).

Label rule: 1 on the pasted object, also over void; 255 on the scene's other void; 0 elsewhere, known objects included.
A composite is drawn first, as numbers, and pasted then: `replay` makes it again, bit for bit, from the numbers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import cv2
import numpy as np

from mgcda_core.config import AnomalyMixConfig, ConfigError
from mgcda_core.data.blend import OPAQUE, blend, draw_colour, match, recolour, resize_rgba
from mgcda_core.data.cutouts import Cutout
from mgcda_core.data.sample import DataError
from mgcda_core.labels import ANOMALY, IGNORE, NORMAL

ROAD = 0
KNOWN_OBJECTS = (11, 12, 13, 14, 15, 16, 17, 18)
"""Train ids of people and vehicles."""


@dataclass(frozen=True)
class Composite:
    """A road scene with pasted objects."""

    image: np.ndarray
    """uint8 [H, W, 3] RGB."""
    label: np.ndarray
    """uint8 [H, W] in {0, 1, 255}."""
    pasted: np.ndarray
    """bool [H, W]: anomalies and pasted known objects."""
    provenance: dict[str, Any]
    """{"pastes": the fields of each `Paste`, in the order pasted}: plain JSON values."""


@dataclass(frozen=True)
class Paste:
    """One object, or one group of objects, and every number that says how it lies in the scene."""

    label: int
    """1 anomaly, 0 known object."""
    objects: tuple[str, ...]
    """Names of the cut-outs; several make a group, at the offsets they have in their picture."""
    box: tuple[int, int, int, int]
    """Top, left, height, width in pixels of the scene."""
    scale: float
    """Pixels of the scene per pixel of the cut-out."""
    flip: bool
    colour: tuple[float, ...]
    """What `blend.draw_colour` drew."""
    match: float
    """Share by which the colours move to those of the surroundings."""
    blend: Literal["none", "feather", "poisson"]
    sigma: float
    """Blur of the outline in pixels; 0 unless `blend` is feather."""
    area: int
    """Pixels of the object, those a later one hides included."""


def compose(
    image: np.ndarray,
    train_ids: np.ndarray,
    objects: Sequence[Cutout],
    known: Sequence[Cutout],
    config: AnomalyMixConfig,
    rng: np.random.Generator,
) -> Composite:
    """Paste a random choice of `objects`, and below them all of `known`, into one scene.

    An object larger than the scene shrinks to fit it; each lies fully inside. With `config.on_road`, the middle of its
    lower edge stands on a road pixel, or anywhere if none has room above it.

    Args:
        image: uint8 [H, W, 3] RGB; train_ids: uint8 [H, W], 255 void.
        objects: the anomalies to choose from; known: people and vehicles to paste with label 0 (`known_objects`).
    Raises: ConfigError if `config` asks for objects and there are none.
    """
    if config.objects[1] and not objects:
        raise ConfigError("AnomalyMix has no objects to paste: set data.objects, data.coco or data.pascal_voc")
    feet = np.argwhere(train_ids == ROAD)
    pastes = []
    chosen = [(NORMAL, [cutout]) for cutout in known] + [(ANOMALY, unit) for unit in _choice(objects, config, rng)]
    for label, cutouts in chosen:
        rgba = _joined(cutouts)
        paste = _draw(rgba, label, tuple(c.name for c in cutouts), train_ids.shape, feet, config, rng)
        if paste.area >= config.min_area:
            pastes.append((paste, rgba))
    return _pasted(image, train_ids, pastes)


def replay(
    image: np.ndarray,
    train_ids: np.ndarray,
    provenance: Mapping[str, Any],
    objects: Mapping[str, Cutout],
    known: Mapping[str, Cutout],
) -> Composite:
    """Make a composite again, bit for bit, from the scene and the provenance `compose` left (also read from JSON).

    Args: image, train_ids: as given to `compose`; objects, known: the cut-outs by name, at least those pasted.
    Raises: DataError naming a cut-out that is missing.
    """
    pastes = []
    for recorded in provenance["pastes"]:
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in recorded.items()}
        paste = Paste(**fields)
        pool = objects if paste.label == ANOMALY else known
        missing = [name for name in paste.objects if name not in pool]
        if missing:
            raise DataError(f"the composite holds {missing[0]}, which is not among the objects given")
        pastes.append((paste, _joined([pool[name] for name in paste.objects])))
    return _pasted(image, train_ids, pastes)


def known_objects(image: np.ndarray, train_ids: np.ndarray, name: str, *, min_pixels: int = 300) -> list[Cutout]:
    """People and vehicles of a scene as cut-outs `name`#component: 8-connected components that touch no border.

    Args: image: uint8 [H, W, 3]; train_ids: uint8 [H, W]; name: the scene's.
    """
    mask = np.isin(train_ids, KNOWN_OBJECTS).astype(np.uint8)
    _, components, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
    height, width = mask.shape
    cutouts = []
    for i, (x, y, w, h, area) in enumerate(stats.tolist()):
        if i and area >= min_pixels and x > 0 and y > 0 and x + w < width and y + h < height:
            window = np.s_[y : y + h, x : x + w]
            rgba = np.dstack([image[window], (components[window] == i).astype(np.uint8) * 255])
            cutouts.append(Cutout(rgba, f"{name}#{i}", name, y, x))
    return cutouts


def _choice(objects: Sequence[Cutout], config: AnomalyMixConfig, rng: np.random.Generator) -> list[list[Cutout]]:
    """What one scene gets: single objects, or all the objects of a picture together."""
    if rng.random() >= config.p_mix:
        return []
    count = rng.integers(config.objects[0], config.objects[1] + 1)
    if not config.group:
        return [[objects[i]] for i in rng.integers(len(objects), size=count)]
    pictures: dict[str, list[Cutout]] = {}
    for cutout in objects:
        pictures.setdefault(cutout.picture, []).append(cutout)
    groups = list(pictures.values())
    return [groups[i] for i in rng.integers(len(groups), size=count)]


def _joined(cutouts: Sequence[Cutout]) -> np.ndarray:
    """Cut-outs of one picture where they lie in it, as one cut-out uint8 [h, w, 4]."""
    pixels = [cutout.rgba for cutout in cutouts]  # read once: it may come from disk
    top, left = min(c.top for c in cutouts), min(c.left for c in cutouts)
    corners = [(c.top - top, c.left - left) for c in cutouts]
    height = max(y + rgba.shape[0] for (y, _), rgba in zip(corners, pixels, strict=True))
    width = max(x + rgba.shape[1] for (_, x), rgba in zip(corners, pixels, strict=True))
    group = np.zeros((height, width, 4), np.uint8)
    for (y, x), rgba in zip(corners, pixels, strict=True):
        window = group[y : y + rgba.shape[0], x : x + rgba.shape[1]]
        free = window[..., 3] <= OPAQUE  # one object's background must not cover another
        window[free] = rgba[free]
    return group


def _draw(
    rgba: np.ndarray,
    label: int,
    names: tuple[str, ...],
    frame: tuple[int, ...],
    feet: np.ndarray,
    config: AnomalyMixConfig,
    rng: np.random.Generator,
) -> Paste:
    """Every number of one paste; `frame`: (height, width) of the scene; `feet`: int [n, 2] road pixels."""
    if config.scale:
        scale = float(rng.uniform(*config.scale))
    else:
        scale = float(frame[0] * np.exp(rng.uniform(*np.log(config.height))) / max(rgba.shape[:2]))
    scale = min(scale, frame[0] / rgba.shape[0], frame[1] / rgba.shape[1])
    height, width = max(1, round(rgba.shape[0] * scale)), max(1, round(rgba.shape[1] * scale))
    top, left = _place(height, width, frame, feet if rng.random() < config.on_road else feet[:0], rng)
    sigma = float(rng.uniform(*config.feather))  # drawn for every blend, so that one seed places all blends alike
    return Paste(
        label=label,
        objects=names,
        box=(top, left, height, width),
        scale=scale,
        flip=bool(rng.random() < config.flip),
        colour=draw_colour(config.jitter, rng),
        match=float(rng.uniform(*config.colour_match)),
        blend=config.blend,
        sigma=sigma if config.blend == "feather" else 0.0,
        area=int((resize_rgba(rgba, height, width)[..., 3] > OPAQUE).sum()),
    )


def _place(
    height: int, width: int, frame: tuple[int, ...], feet: np.ndarray, rng: np.random.Generator
) -> tuple[int, int]:
    """Top and left of a window in the frame, its foot on one of `feet` where any has room, else anywhere."""
    corners = feet - (height - 1, width // 2)
    corners = corners[(corners >= 0).all(1) & (corners[:, 1] + width <= frame[1])]
    if len(corners):
        top, left = corners[rng.integers(len(corners))].tolist()
        return top, left
    return int(rng.integers(frame[0] - height + 1)), int(rng.integers(frame[1] - width + 1))


def _pasted(image: np.ndarray, train_ids: np.ndarray, pastes: Sequence[tuple[Paste, np.ndarray]]) -> Composite:
    """The scene with the pastes laid over it one after the other."""
    image = image.copy()
    label = np.where(train_ids == IGNORE, IGNORE, NORMAL).astype(np.uint8)
    pasted = np.zeros(label.shape, bool)
    for paste, rgba in pastes:
        top, left, height, width = paste.box
        window = np.s_[top : top + height, left : left + width]
        rgba = resize_rgba(rgba, height, width, clean=paste.blend != "poisson")
        rgba = rgba[:, ::-1] if paste.flip else rgba
        alpha = rgba[..., 3]
        colour = match(recolour(rgba[..., :3], paste.colour), alpha, image[window], paste.match)
        blend(image, colour, alpha, (top, left), paste.blend, paste.sigma)
        label[window][alpha > OPAQUE] = paste.label
        pasted[window] |= alpha > OPAQUE
    return Composite(image, label, pasted, {"pastes": [asdict(paste) for paste, _ in pastes]})
