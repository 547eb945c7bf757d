"""Things that do not belong on a road, drawn procedurally: boxes, tyres, rocks, animals, bags, furniture, blobs.

Each painter takes a generator and returns a sprite and its height in metres; no two calls look alike.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from mgcda_core.data.rendered_canvas import Texture, fractal
from mgcda_core.data.rendered_sprite import Sprite

Painted = tuple[Sprite, float]


def anomalous_object(rng: np.random.Generator, name: str | None = None) -> tuple[str, Texture, float]:
    """A random thing: its name, texture (premultiplied RGBA) and height in metres."""
    name = name or str(rng.choice(list(_PAINTERS)))
    sprite, height = _PAINTERS[name](rng)
    texture = sprite.texture()
    if rng.random() < 0.5:
        texture = texture[:, ::-1]
    return name, Texture(texture), height * texture.shape[0] / sprite.size[0]


def _skin(rng: np.random.Generator, size: tuple[int, int], colour: np.ndarray | None = None) -> np.ndarray:
    """float32 [h, w, 3]: a surface of a random colour with multi-scale noise, sometimes striped, spotted or printed."""
    if colour is None:
        colour = rng.uniform(0.08, 0.75) * (1 + rng.normal(0, 0.1, 3))
        if rng.random() < 0.4:
            colour = 0.35 * colour + 0.65 * rng.uniform(0.05, 0.9, 3)
    noise = 1 + rng.uniform(0.04, 0.2) * fractal(rng, size, 4, 4) + 0.04 * rng.standard_normal(size, np.float32)
    image = noise[..., None] * np.asarray(colour, np.float32)
    pattern, other = rng.random(), 0.4 * rng.uniform(0.1, 0.8) + 0.6 * rng.uniform(0.05, 0.9, 3)
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32) / size[0]
    if pattern < 0.12:
        angle = rng.uniform(0, np.pi)
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * rng.uniform(20, 70))
        image += np.clip(wave * 3, 0, 1)[..., None] * (other - image)
    elif pattern < 0.26:
        spots = np.clip((fractal(rng, size, int(rng.integers(3, 8)), 3) - 0.3) * 5, 0, 1)
        image += spots[..., None] * (other - image)
    return np.clip(image, 0, 1).astype(np.float32)


def _carton(rng: np.random.Generator) -> Painted:
    """A box seen from a little above: front, one side and the lid."""
    sprite = Sprite(128, 220)
    tan = np.array((0.58, 0.44, 0.3)) * rng.uniform(0.7, 1.2)
    colour = tan if rng.random() < 0.65 else None
    w, d, lid = rng.uniform(0.5, 1.1), rng.uniform(0.12, 0.45), rng.uniform(0.06, 0.2)
    left, top = 0.1, 0.1 + lid
    front = sprite.mask([(left, top), (left + w, top), (left + w, 1.0), (left, 1.0)])
    skin = _skin(rng, sprite.size, colour)
    if rng.random() < 0.6:  # tape, then print
        x = int((left + w / 2) * 128)
        skin[:, x - 5 : x + 5] *= rng.uniform(1.05, 1.25)
    if rng.random() < 0.5:
        x, y = int((left + 0.1 * w) * 128), int(rng.uniform(0.45, 0.7) * 128)
        skin[y : y + 22, x : x + int(0.3 * w * 128)] = rng.uniform(0.1, 0.9, 3)
    skin = np.clip(skin, 0, 1)
    sprite.paint(front, skin * np.linspace(1.02, 0.8, 128)[:, None, None])
    side = [(left + w, top), (left + w + d, top - lid), (left + w + d, 1.0 - 0.5 * lid), (left + w, 1.0)]
    sprite.paint(sprite.mask(side), skin * rng.uniform(0.45, 0.7))
    cover = [(left, top), (left + d, top - lid), (left + w + d, top - lid), (left + w, top)]
    sprite.paint(sprite.mask(cover), np.clip(skin * 1.18, 0, 1))
    if rng.random() < 0.4:  # an open flap
        flap = [(left, top), (left - 0.08, top - 0.1), (left + w * 0.8, top - 0.12), (left + w, top)]
        sprite.paint(sprite.mask(flap), skin * 0.85)
    return sprite, rng.uniform(0.35, 1.1)


def _tyre(rng: np.random.Generator) -> Painted:
    sprite = Sprite(128, 140)
    dark = rng.uniform(0.06, 0.16) * np.ones(3)
    if rng.random() < 0.5:  # upright
        squeeze = rng.uniform(0.45, 1.0)
        sprite.shaded(sprite.ellipse(0.5 + 0.09, 0.5, 0.48 * squeeze, 0.48), dark * 0.7, 1.0, 0.2, rng)
        sprite.shaded(sprite.ellipse(0.5, 0.5, 0.48 * squeeze, 0.48), dark, 1.0, 0.2, rng)
        rim = rng.uniform(0.1, 0.6) * np.ones(3)
        sprite.shaded(sprite.ellipse(0.5, 0.5, 0.27 * squeeze, 0.27), rim, 1.0, 0.4, rng)
        sprite.paint(sprite.ellipse(0.5, 0.5, 0.07 * squeeze, 0.07), dark)
        return sprite, rng.uniform(0.55, 1.0)
    sprite.shaded(sprite.mask([(0.05, 0.72), (1.02, 0.72), (0.98, 0.95), (0.85, 1.0), (0.2, 1.0), (0.08, 0.95)]), dark)
    sprite.shaded(sprite.ellipse(0.535, 0.72, 0.49, 0.16), dark * 1.3, 1.0, 0.2, rng)
    sprite.paint(sprite.ellipse(0.535, 0.72, 0.25, 0.075), dark * 0.35)
    return sprite, rng.uniform(0.5, 0.9)


def _outline(rng: np.random.Generator, rough: float, lobes: int = 7, floor: float = 0.98) -> np.ndarray:
    """float [n, 2] a closed random contour around (0.6, 0.55), flattened at the bottom."""
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    radius = 0.42 + sum(
        rough / k**0.8 * np.cos(k * t + rng.uniform(0, 6.28)) * rng.uniform(0.3, 1) for k in range(2, lobes)
    )
    x, y = 0.65 + rng.uniform(0.7, 1.35) * radius * np.cos(t), 0.56 + radius * np.sin(t)
    return np.stack([x, np.minimum(y, floor)], 1)


def _rock(rng: np.random.Generator) -> Painted:
    sprite = Sprite(120, 160)
    stone = np.asarray([(0.45, 0.43, 0.4), (0.36, 0.33, 0.3), (0.55, 0.48, 0.4)][rng.integers(3)]) * rng.uniform(
        0.7, 1.3
    )
    mask = sprite.mask(_outline(rng, 0.07))
    facets = fractal(rng, sprite.size, 3, 3)
    dx = cv2.Sobel(facets, cv2.CV_32F, 1, 0) + cv2.Sobel(facets, cv2.CV_32F, 0, 1)
    sprite.shaded(mask, np.clip(_skin(rng, sprite.size, stone) * (1 + 0.55 * dx)[..., None], 0.02, 1), 0.6, 0.2, rng)
    return sprite, rng.uniform(0.25, 1.2)


def _blob(rng: np.random.Generator) -> Painted:
    """Anything: a random outline with a random surface."""
    sprite = Sprite(128, 170)
    mask = sprite.mask(_outline(rng, rng.uniform(0.04, 0.16), int(rng.integers(4, 12)), rng.uniform(0.8, 1.0)))
    sprite.shaded(mask, _skin(rng, sprite.size), rng.uniform(0.3, 1.6), rng.uniform(0, 0.3), rng)
    return sprite, rng.uniform(0.3, 2.2)


def _bag(rng: np.random.Generator) -> Painted:
    sprite = Sprite(120, 150)
    colours = [(0.05, 0.05, 0.06), (0.1, 0.15, 0.4), (0.85, 0.85, 0.83), (0.15, 0.35, 0.2), (0.8, 0.55, 0.1)]
    colour = np.asarray(colours[rng.integers(len(colours))]) * rng.uniform(0.8, 1.2)
    mask = sprite.mask(_outline(rng, 0.05))
    mask = np.maximum(mask, sprite.limb((0.65, 0.25), (0.65 + rng.uniform(-0.1, 0.1), 0.06), 0.06, 0.09))
    folds = fractal(rng, sprite.size, 6, 4)
    light = 1 + 0.45 * cv2.Sobel(folds, cv2.CV_32F, 1, 0) + 0.25 * folds
    shine = np.clip((fractal(rng, sprite.size, 7, 3) - 0.7) * 3, 0, 0.5)
    sprite.shaded(mask, np.clip(colour * light[..., None] + shine[..., None], 0, 1), 0.6)
    return sprite, rng.uniform(0.35, 0.95)


_COATS = (
    (0.45, 0.32, 0.2),
    (0.3, 0.22, 0.15),
    (0.75, 0.7, 0.62),
    (0.12, 0.1, 0.09),
    (0.6, 0.45, 0.28),
    (0.5, 0.48, 0.45),
)


def _animal(rng: np.random.Generator) -> Painted:
    """A four-legged animal from the side: dog, deer, sheep, cow, boar by proportions."""
    sprite = Sprite(150, 230)
    coat = _skin(rng, sprite.size, np.asarray(_COATS[rng.integers(len(_COATS))]) * rng.uniform(0.8, 1.2))
    leg, girth, length = rng.uniform(0.25, 0.45), rng.uniform(0.11, 0.2), rng.uniform(0.42, 0.7)
    back = 1.0 - leg - girth
    x0, x1 = 0.45, 0.45 + length
    for x, swing, shade in ((x0, 0.05, 0.7), (x1, -0.04, 0.7), (x0 + 0.04, -0.05, 1.0), (x1 - 0.04, 0.06, 1.0)):
        knee = (x + swing * rng.uniform(0.2, 1.2), 1.0 - leg * 0.5)
        foot = (x + swing * rng.uniform(0.5, 1.5), 0.98)
        limb = np.maximum(
            sprite.limb((x, back + 0.04), knee, girth * 0.5, 0.035), sprite.limb(knee, foot, 0.033, 0.022)
        )
        sprite.shaded(limb, coat * shade)
    neck = rng.uniform(0.1, 0.3)
    head = (x0 - rng.uniform(0.1, 0.2), back - neck)
    body = np.maximum(sprite.limb((x0, back), (x1, back + 0.01), girth, girth * rng.uniform(0.8, 1.05)),
                      sprite.limb((x0, back - 0.02), head, girth * 0.7, 0.065))  # fmt: skip
    muzzle = (head[0] - rng.uniform(0.08, 0.16), head[1] + rng.uniform(0.02, 0.1))
    body = np.maximum(body, sprite.limb(head, muzzle, 0.068, 0.035))
    body = np.maximum(
        body, sprite.limb((x1 + girth * 0.7, back), (x1 + girth + 0.08, back + rng.uniform(-0.1, 0.2)), 0.025, 0.012)
    )
    for dx in (0.0, 0.05):
        ear = [
            (head[0] + dx - 0.02, head[1] - 0.03),
            (head[0] + dx + 0.02, head[1] - 0.15),
            (head[0] + dx + 0.05, head[1] - 0.02),
        ]
        body = np.maximum(body, sprite.mask(ear))
    sprite.shaded(body, coat, 1.2, 0.15, rng)
    if rng.random() < 0.25:
        for side in (-0.06, 0.08):
            tip = (head[0] + side, head[1] - 0.22)
            sprite.shaded(sprite.limb((head[0], head[1] - 0.05), tip, 0.016, 0.008), (0.4, 0.32, 0.22))
    sprite.paint(sprite.ellipse(head[0] - 0.02, head[1] - 0.01, 0.012, 0.012), (0.03, 0.03, 0.03))
    return sprite, rng.uniform(0.6, 2.0)


def _barrel(rng: np.random.Generator) -> Painted:
    sprite = Sprite(140, 120)
    x0, x1 = 0.12, 0.12 + rng.uniform(0.5, 0.65)
    mid, rx = (x0 + x1) / 2, (x1 - x0) / 2
    skin = _skin(
        rng, sprite.size, rng.choice([(0.1, 0.25, 0.55), (0.55, 0.15, 0.1), (0.75, 0.4, 0.05), (0.3, 0.32, 0.33)])
    )
    profile = np.interp(
        np.linspace(0, 120 / 140, 120), np.linspace(x0, x1, 7), (0.45, 0.85, 1.15, 1.1, 0.9, 0.65, 0.35)
    )
    body = np.maximum(sprite.mask([(x0, 0.1), (x1, 0.1), (x1, 0.93), (x0, 0.93)]), sprite.ellipse(mid, 0.93, rx, 0.06))
    for y in (0.35, 0.65):
        skin[int(y * 140) : int(y * 140) + 4] *= 0.7
    if rng.random() < 0.4:
        skin[30:60] = rng.uniform(0.6, 0.95, 3)
    sprite.paint(body, np.clip(skin * profile[None, :, None], 0, 1))
    sprite.paint(sprite.ellipse(mid, 0.1, rx, 0.06), np.clip(skin * 1.15, 0, 1))
    return sprite, rng.uniform(0.7, 1.1)


def _cone(rng: np.random.Generator) -> Painted:
    sprite = Sprite(120, 110)
    orange = np.array((0.85, 0.3, 0.08)) * rng.uniform(0.7, 1.1)
    skin = np.tile(_skin(rng, (120, 1), orange), (1, 110, 1))[:, :110] * np.linspace(1.25, 0.6, 110)[None, :, None]
    for y in (rng.uniform(0.25, 0.35), rng.uniform(0.55, 0.65)):
        skin[int(y * 120) : int((y + 0.13) * 120)] = np.linspace(0.95, 0.6, 110)[None, :, None]
    sprite.paint(
        sprite.mask([(0.05, 0.93), (0.15, 0.87), (0.75, 0.87), (0.85, 0.93), (0.85, 1.0), (0.05, 1.0)]), orange * 0.75
    )
    sprite.paint(sprite.mask([(0.41, 0.04), (0.49, 0.04), (0.68, 0.93), (0.22, 0.93)]), np.clip(skin, 0, 1))
    return sprite, rng.uniform(0.45, 0.9)


def _furniture(rng: np.random.Generator) -> Painted:
    """A chair, a table, a sofa or shelves from the front."""
    sprite = Sprite(140, 230)
    skin = _skin(rng, sprite.size)
    dark = skin * 0.55

    def block(x0: float, y0: float, x1: float, y1: float, surface: np.ndarray) -> None:
        sprite.paint(sprite.mask([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), surface)

    kind = rng.integers(4)
    w = rng.uniform(0.5, 0.8) if kind == 0 else rng.uniform(0.9, 1.4)
    x0, x1 = 0.1, 0.1 + w
    if kind == 2:  # sofa
        block(x0, 0.2, x1, 0.7, skin * 0.85)
        sprite.shaded(sprite.limb((x0 + 0.2, 0.62), (x1 - 0.2, 0.62), 0.13, 0.13), np.clip(skin * 1.1, 0, 1), 0.8)
        block(x0, 0.7, x1, 0.93, skin * 0.7)
        for x in (x0 + 0.06, x1 - 0.06):
            sprite.shaded(sprite.limb((x, 0.48), (x, 0.9), 0.09, 0.09), skin)
            block(x - 0.03, 0.95, x + 0.03, 1.0, dark * 0.4)
    elif kind == 3:  # shelves
        block(x0, 0.1, x1, 1.0, dark * 0.6)
        for y in (0.1, 0.38, 0.66, 0.95):
            block(x0, y, x1, y + 0.05, skin)
        for x in (x0, (x0 + x1) / 2, x1 - 0.05):
            block(x, 0.1, x + 0.05, 1.0, skin * 0.9)
    else:
        seat = 0.55 if kind == 0 else 0.25
        for x, shade in ((x0 + 0.1, dark), (x1 - 0.14, dark), (x0, skin * 0.9), (x1 - 0.05, skin * 0.9)):
            block(x, seat, x + 0.05, 1.0 if shade is not dark else 0.92, shade)
        block(x0 - 0.02, seat - 0.03, x1 + 0.02, seat + 0.05, skin)
        if kind == 0:
            for x in (x0, x1 - 0.05):
                block(x, 0.05, x + 0.05, seat, skin * 0.9)
            for y in (0.08, 0.25):
                block(x0, y, x1, y + 0.09, np.clip(skin * 1.05, 0, 1))
    return sprite, rng.uniform(0.7, 1.3)


def _planks(rng: np.random.Generator) -> Painted:
    """A pile of timber, pipes or a fallen branch."""
    sprite = Sprite(90, 260)
    wood = np.array((0.5, 0.38, 0.25)) * rng.uniform(0.6, 1.3)
    thick = rng.uniform(0.05, 0.12)
    for _ in range(rng.integers(2, 7)):
        y = rng.uniform(0.45, 0.85)
        a, b = (rng.uniform(0.15, 0.8), y), (rng.uniform(1.6, 2.7), min(y + rng.uniform(-0.3, 0.12), 0.9))
        sprite.shaded(
            sprite.limb(a, b, thick, thick * rng.uniform(0.4, 1)), _skin(rng, sprite.size, wood), 1.2, 0.3, rng
        )
    sprite.shaded(sprite.limb((0.5, 0.9), (2.2, 0.9), 0.1, 0.1), wood * 0.8, 1.2, 0.3, rng)
    return sprite, rng.uniform(0.3, 0.9)


def _suitcase(rng: np.random.Generator) -> Painted:
    sprite = Sprite(140, 130)
    w = rng.uniform(0.45, 0.7)
    x0, x1 = 0.1, 0.1 + w
    handle = sprite.limb((x0 + 0.15 * w, 0.04), (x1 - 0.15 * w, 0.04), 0.018, 0.018)
    for x in (x0 + 0.15 * w, x1 - 0.15 * w):
        handle = np.maximum(handle, sprite.limb((x, 0.04), (x, 0.3), 0.014, 0.014))
        sprite.paint(sprite.ellipse(x, 0.965, 0.03, 0.035), (0.05, 0.05, 0.05))
    sprite.paint(handle, (0.2, 0.2, 0.2))
    r = 0.05
    shell = np.maximum(
        sprite.limb((x0 + r, 0.28 + r), (x1 - r, 0.28 + r), r, r), sprite.limb((x0 + r, 0.9), (x1 - r, 0.9), r, r)
    )
    shell = np.maximum(shell, sprite.mask([(x0, 0.28 + r), (x1, 0.28 + r), (x1, 0.9), (x0, 0.9)]))
    skin = _skin(rng, sprite.size)
    skin[:, :: int(rng.integers(9, 16))] *= 0.75
    sprite.shaded(shell, skin, 0.2)
    return sprite, rng.uniform(0.6, 1.0)


_PAINTERS: dict[str, Callable[[np.random.Generator], Painted]] = {
    "carton": _carton, "tyre": _tyre, "rock": _rock, "blob": _blob, "bag": _bag, "animal": _animal, "barrel": _barrel,
    "cone": _cone, "furniture": _furniture, "planks": _planks, "suitcase": _suitcase,
}  # fmt: skip
ANOMALY_NAMES = tuple(_PAINTERS)
