"""Textures of the ordinary street: facades, trees, people, poles, signs, ground tiles; drawn once and kept.

Every sprite is uint8 [h, w, 4] RGBA with premultiplied alpha, cropped to what it shows, its last row on the ground.
A texture is named by (kind, index): the same index always gives the same texture.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import cv2
import numpy as np

from mgcda_core.data.rendered_canvas import Texture, fractal
from mgcda_core.data.rendered_sprite import Sprite

VARIANTS = {"facade": 36, "tree": 28, "bush": 12, "person": 48, "rider": 12, "sign": 16, "light": 4, "pole": 6}
"""How many different textures of each kind there are."""


@functools.lru_cache(maxsize=512)
def street_texture(kind: str, index: int) -> Texture:
    """Texture number `index` of a kind named in VARIANTS."""
    rng = np.random.default_rng([sum(map(ord, kind)), index])
    return Texture(_PAINTERS[kind](rng))


@functools.lru_cache(maxsize=16)
def ground_tile(kind: str, index: int) -> tuple[np.ndarray, ...]:
    """uint8 [n, n, 3] tileable ground of 10.24 m x 10.24 m and its halvings: asphalt, paving, grass or gravel."""
    rng = np.random.default_rng([sum(map(ord, kind)), index, 3])
    tile = np.clip(_GROUNDS[kind](rng) * 255, 0, 255).astype(np.uint8)
    levels: list[np.ndarray] = [tile]
    while levels[-1].shape[0] > 4:
        levels.append(np.asarray(cv2.resize(levels[-1], None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8))
    return tuple(levels)


def _asphalt(rng: np.random.Generator) -> np.ndarray:
    n = 512
    grey = rng.uniform(0.3, 0.46)
    value = grey * (1 + 0.07 * fractal(rng, (n, n), 2, 4) + 0.025 * fractal(rng, (n, n), 32, 3))
    value *= 1 + 0.06 * rng.standard_normal((n, n), np.float32)
    marks = np.zeros((n, n), np.float32)
    for _ in range(rng.integers(0, 5)):  # cracks wander along the road; the sealed ones are broad and dark
        start = rng.uniform(0.1, 0.9, 2) * n
        steps = np.cumsum(rng.normal((rng.choice([-5, 5]), 0), 4, (40, 2)), 0)
        path = np.clip(start + steps, 2, n - 3).astype(np.int32)
        cv2.polylines(marks, [path], False, float(rng.uniform(0.2, 0.6)), int(rng.choice([1, 1, 2])), cv2.LINE_AA)
    for _ in range(rng.integers(0, 3)):  # patches of newer asphalt
        x, y = rng.integers(10, n - 220, 2)
        w, h = rng.integers(50, 200, 2)
        marks[y : y + h, x : x + w] += rng.uniform(-0.12, 0.22)
    if rng.random() < 0.4:
        centre = tuple(int(v) for v in rng.integers(60, n - 60, 2))
        cv2.circle(marks, centre, 16, 0.45, -1, cv2.LINE_AA)
        cv2.circle(marks, centre, 17, 0.7, 1, cv2.LINE_AA)
    tint = 1 + rng.normal(0, 0.02, 3)
    return (value * (1 - cv2.GaussianBlur(marks, (0, 0), 0.8)))[..., None] * tint


def _paving(rng: np.random.Generator) -> np.ndarray:
    n = 512
    size = int(rng.choice([8, 16, 32]))
    stones = rng.normal(1, 0.06, (n // size, n // size)).astype(np.float32)
    value = cv2.resize(stones, (n, n), interpolation=cv2.INTER_NEAREST)
    value[::size] *= 0.8
    value[:, ::size] *= 0.8
    value *= 1 + 0.09 * fractal(rng, (n, n), 3, 4) + 0.05 * rng.standard_normal((n, n), np.float32)
    base = rng.choice([(0.56, 0.54, 0.51), (0.5, 0.49, 0.48), (0.55, 0.46, 0.42), (0.62, 0.59, 0.53)])
    return value[..., None] * base


def _grass(rng: np.random.Generator) -> np.ndarray:
    n = 512
    value = 1 + 0.25 * fractal(rng, (n, n), 4, 4) + 0.22 * fractal(rng, (n, n), 64, 3)
    dry = np.clip(0.5 + 0.6 * fractal(rng, (n, n), 2, 4), 0, 1)[..., None]
    green, straw = np.array((0.24, 0.33, 0.13)), np.array((0.42, 0.38, 0.2))
    return value[..., None] * (green * (1 - 0.7 * dry) + straw * 0.7 * dry) * rng.uniform(0.8, 1.25)


def _gravel(rng: np.random.Generator) -> np.ndarray:
    n = 512
    value = 1 + 0.15 * fractal(rng, (n, n), 4, 4) + 0.2 * fractal(rng, (n, n), 64, 3)
    return value[..., None] * np.array((0.46, 0.42, 0.35)) * rng.uniform(0.8, 1.2)


def _facade(rng: np.random.Generator) -> np.ndarray:
    """A house front, 12 m wide, its floors 3 m each, at 26 pixels a metre."""
    ppm, floors = 26, int(rng.integers(2, 7))
    h, w = floors * 3 * ppm, 12 * ppm
    walls = [(0.68, 0.62, 0.52), (0.6, 0.58, 0.55), (0.55, 0.36, 0.29), (0.72, 0.69, 0.63), (0.5, 0.46, 0.43),
             (0.66, 0.52, 0.38), (0.45, 0.34, 0.3), (0.62, 0.65, 0.66), (0.74, 0.66, 0.47)]  # fmt: skip
    wall = np.asarray(walls[rng.integers(len(walls))]) * rng.uniform(0.75, 1.15) + rng.normal(0, 0.015, 3)
    value = 1 + 0.07 * fractal(rng, (h, w), 3, 5) + 0.03 * rng.standard_normal((h, w), np.float32)
    if rng.random() < 0.4:  # bricks
        value[::5] *= 0.86
        value[2::10, ::9] *= 0.9
    image = value[..., None] * wall
    image *= np.linspace(1.04, 0.93, h)[:, None, None]
    _windows(rng, image, floors, ppm)
    for floor in range(1, floors):  # cornices
        if rng.random() < 0.5:
            y = floor * 3 * ppm
            image[y - 2 : y + 1] *= 1.15
            image[y + 1 : y + 4] *= 0.72
    image[:6] *= 0.75
    image[-12:] *= 0.78
    pipe = int(rng.integers(3, w - 6))
    image[:, pipe : pipe + 3] *= 0.7
    return np.dstack([np.clip(image, 0, 1) * 255, np.full((h, w), 255.0)]).astype(np.uint8)


def _windows(rng: np.random.Generator, image: np.ndarray, floors: int, ppm: int) -> None:
    columns = int(rng.integers(3, 7))
    pitch = image.shape[1] / columns
    ww, wh = int(pitch * rng.uniform(0.38, 0.7)), int(rng.uniform(1.3, 2.0) * ppm)
    frame = np.full(3, rng.choice([0.85, 0.75, 0.3]))
    glass = np.array((0.2, 0.23, 0.27)) * rng.uniform(0.6, 1.3)
    shop = rng.random() < 0.55
    for floor in range(floors):
        top = floor * 3 * ppm + int(0.55 * ppm)
        ground = floor == floors - 1
        for column in range(columns):
            x = int((column + 0.5) * pitch - ww / 2)
            height, left, width = wh, x, ww
            if ground and shop:
                height, left, width = int(2.3 * ppm), int((column + 0.08) * pitch), int(0.84 * pitch)
            pane = np.linspace(1.5, 0.7, height)[:, None, None] * glass * rng.uniform(0.7, 1.35)
            pane = pane + rng.uniform(0, 0.22) * np.clip(fractal(rng, (height, width), 2, 2), 0, 1)[..., None]
            if rng.random() < 0.35:  # curtain or blind
                pane[: int(height * rng.uniform(0.2, 0.9))] = rng.uniform(0.4, 0.75)
            part = image[top : top + height, left : left + width]
            part[:] = pane[: part.shape[0], : part.shape[1]]
            part[:2], part[-2:], part[:, :2], part[:, -2:] = frame, frame, frame, frame
            part[2:5] *= 0.6  # the reveal's shadow
            part[:, width // 2 - 1 : width // 2 + 1] = frame
            image[top + height : top + height + 3, max(left - 2, 0) : left + width + 2] *= 1.18
    if shop and rng.random() < 0.7:  # sign board over the shop windows
        y = (floors - 1) * 3 * ppm
        image[y + 2 : y + int(0.5 * ppm)] = rng.uniform(0.15, 0.8, 3)


def _foliage(rng: np.random.Generator, sprite: Sprite, blobs: list[tuple[float, float, float]]) -> None:
    h, w = sprite.size
    yy, xx = np.mgrid[0:h, 0:w].astype(np.float32) / h
    field = np.full((h, w), -1.0, np.float32)
    relief = np.zeros((h, w), np.float32)
    for x, y, r in blobs:
        inside = 1 - np.sqrt((xx - x) ** 2 + (yy - y) ** 2) / r
        relief = np.where(inside > field, (y - yy) / r - 0.5 * (xx - x) / r, relief)
        field = np.maximum(field, inside)
    leaves = fractal(rng, (h, w), 14, 4)
    mask = np.clip((field + 0.28 * leaves) * 9 + 0.5, 0, 1)
    holes = np.clip((fractal(rng, (h, w), 9, 4) - 0.75) * 8, 0, 1) * (field < 0.5)
    greens = [(0.25, 0.32, 0.13), (0.2, 0.29, 0.14), (0.32, 0.36, 0.15), (0.36, 0.33, 0.13), (0.2, 0.25, 0.15)]
    base = np.asarray(greens[rng.integers(len(greens))]) * rng.uniform(0.75, 1.15)
    light = 0.85 + 0.42 * relief + 0.3 * leaves + 0.22 * rng.standard_normal((h, w), np.float32)
    sprite.paint(mask * (1 - holes), np.clip(base * np.clip(light, 0.25, 2.0)[..., None], 0, 1))


def _tree(rng: np.random.Generator) -> np.ndarray:
    h, w = 300, 240
    sprite = Sprite(h, w)
    bark = np.array((0.27, 0.22, 0.17)) * rng.uniform(0.7, 1.3)
    lean, fork = rng.normal(0.4, 0.015), rng.uniform(0.45, 0.65)
    trunk = sprite.limb((0.4, 1.0), (lean, fork - 0.1), 0.022, 0.014)
    for _ in range(4):
        tip = (lean + rng.uniform(-0.22, 0.22), fork - rng.uniform(0.1, 0.35))
        trunk = np.maximum(trunk, sprite.limb((lean, fork), tip, 0.012, 0.004))
    sprite.shaded(trunk, bark, 1.0, 0.3, rng)
    slim = rng.uniform(0.5, 1.0)
    blobs = [(0.4 + slim * rng.normal(0, 0.13), rng.uniform(0.16, fork), rng.uniform(0.09, 0.2)) for _ in range(14)]
    _foliage(rng, sprite, blobs)
    sprite.rgba[-2:, 118:122] = [*(bark * 0.8), 1.0]
    return sprite.texture()


def _bush(rng: np.random.Generator) -> np.ndarray:
    sprite = Sprite(120, 200)
    blobs = [(rng.uniform(0.25, 1.4), rng.uniform(0.45, 0.9), rng.uniform(0.18, 0.34)) for _ in range(16)]
    _foliage(rng, sprite, blobs)
    return sprite.texture()


def _person(rng: np.random.Generator) -> np.ndarray:
    sprite = Sprite(200, 130)
    cx, stride, lean = 0.32, rng.uniform(0.01, 0.1), rng.normal(0, 0.01)
    skin = np.asarray([(0.78, 0.6, 0.5), (0.55, 0.4, 0.32), (0.85, 0.68, 0.58), (0.38, 0.27, 0.22)][rng.integers(4)])
    coat, trousers = rng.uniform(0.05, 0.7, 3) * rng.uniform(0.4, 1), rng.uniform(0.06, 0.4) + rng.normal(0, 0.03, 3)
    coat = coat.mean() + (coat - coat.mean()) * rng.choice([0.1, 0.3, 0.8])
    skirt = rng.random() < 0.2
    for side in (-1, 1):
        foot = (cx + side * stride + 0.01 * side, 0.975)
        knee = (cx + side * (0.5 * stride + 0.02), 0.74)
        leg = np.maximum(sprite.limb((cx + side * 0.035, 0.52), knee, 0.05, 0.036),
                         sprite.limb(knee, foot, 0.036, 0.024))  # fmt: skip
        sprite.shaded(leg, np.clip(trousers * (0.85 if side < 0 else 1), 0.03, 1), 1.0, 0.12, rng)
        sprite.shaded(sprite.limb(foot, (foot[0] + 0.025, 0.985), 0.018, 0.015), (0.12, 0.1, 0.09))
    for side in (-1, 1):
        elbow = (cx + side * rng.uniform(0.1, 0.15), 0.4)
        hand = (cx + side * rng.uniform(0.08, 0.16), rng.uniform(0.48, 0.55))
        arm = np.maximum(
            sprite.limb((cx + side * 0.085, 0.23), elbow, 0.036, 0.03), sprite.limb(elbow, hand, 0.03, 0.022)
        )
        sprite.shaded(arm, coat * 0.85, 1.0, 0.15, rng)
        sprite.shaded(sprite.ellipse(*hand, 0.02, 0.024), skin)
    hem = 0.7 if skirt else rng.uniform(0.52, 0.64)
    torso = sprite.mask([(cx - 0.1, 0.2), (cx - 0.04, 0.165), (cx + 0.04, 0.165), (cx + 0.1, 0.2), (cx + 0.088, 0.4),
                         (cx + 0.1, hem), (cx - 0.1, hem), (cx - 0.088, 0.4)])  # fmt: skip
    sprite.shaded(torso, coat, 1.2, 0.18, rng)
    if rng.random() < 0.3:
        sprite.shaded(sprite.ellipse(cx + rng.choice([-1, 1]) * 0.14, 0.55, 0.05, 0.07), rng.uniform(0.05, 0.5, 3))
    sprite.shaded(sprite.limb((cx + lean, 0.12), (cx, 0.18), 0.028, 0.03), skin * 0.85)
    sprite.shaded(sprite.ellipse(cx + lean, 0.085, 0.052, 0.066), skin, 1.0)
    hair = rng.uniform(0.05, 0.35) * np.array((1.0, 0.85, 0.7))
    cap = sprite.ellipse(cx + lean, 0.066, 0.058, 0.06)
    cap[int(0.085 * 200) :, int((cx - 0.03) * 200) : int((cx + 0.06) * 200)] *= rng.choice([0.0, 1.0])
    sprite.shaded(cap, hair, 1.0, 0.2, rng)
    return sprite.texture()


def _rider(rng: np.random.Generator) -> np.ndarray:
    """A cyclist seen from behind or in front; the lower part is the bicycle (label: see BICYCLE_FROM)."""
    sprite = Sprite(200, 110)
    cx = 0.27
    sprite.shaded(sprite.ellipse(cx, 0.83, 0.022, 0.16), (0.1, 0.1, 0.1))
    sprite.shaded(sprite.limb((cx - 0.14, 0.47), (cx + 0.14, 0.47), 0.012, 0.012), (0.2, 0.2, 0.2))
    trousers, coat = rng.uniform(0.08, 0.3) + rng.normal(0, 0.03, 3), rng.uniform(0.1, 0.6, 3)
    for side in (-1, 1):
        foot = (cx + side * 0.06, 0.86 if side > 0 else 0.76)
        sprite.shaded(sprite.limb((cx + side * 0.05, 0.52), foot, 0.05, 0.028), trousers, 1.0, 0.1, rng)
    sprite.shaded(sprite.mask([(cx - 0.1, 0.2), (cx + 0.1, 0.2), (cx + 0.085, 0.55), (cx - 0.085, 0.55)]), coat, 1.2)
    for side in (-1, 1):
        sprite.shaded(sprite.limb((cx + side * 0.1, 0.22), (cx + side * 0.14, 0.45), 0.034, 0.024), coat * 0.85)
    sprite.shaded(sprite.ellipse(cx, 0.1, 0.055, 0.07), (0.7, 0.55, 0.46))
    sprite.shaded(sprite.ellipse(cx, 0.07, 0.062, 0.055), rng.uniform(0.1, 0.8, 3))
    sprite.rgba[-1, 50:58] = (0.1, 0.1, 0.1, 1.0)
    return sprite.texture()


def _sign(rng: np.random.Generator) -> np.ndarray:
    """A traffic sign plate without its pole."""
    sprite = Sprite(64, 64)
    red, blue, white, yellow = (0.7, 0.1, 0.1), (0.1, 0.25, 0.62), (0.88, 0.88, 0.86), (0.85, 0.7, 0.1)
    kind = rng.integers(5)
    ring = sprite.ellipse(0.5, 0.5, 0.49, 0.49)
    if kind == 0:
        sprite.paint(ring, red)
        sprite.paint(sprite.ellipse(0.5, 0.5, 0.36, 0.36), white)
    elif kind == 1:
        sprite.paint(ring, blue)
    elif kind == 2:
        sprite.paint(sprite.mask([(0.5, 0.04), (0.98, 0.94), (0.02, 0.94)]), red)
        sprite.paint(sprite.mask([(0.5, 0.24), (0.82, 0.84), (0.18, 0.84)]), white)
    elif kind == 3:
        sprite.paint(sprite.mask([(0.5, 0.0), (1, 0.5), (0.5, 1), (0, 0.5)]), white)
        sprite.paint(sprite.mask([(0.5, 0.12), (0.88, 0.5), (0.5, 0.88), (0.12, 0.5)]), yellow)
    else:
        sprite.paint(
            sprite.mask([(0, 0.02), (1, 0.02), (1, 0.98), (0, 0.98)]), (blue, white, (0.1, 0.4, 0.2))[rng.integers(3)]
        )
    if kind != 3:
        mark = np.clip((fractal(rng, (64, 64), 4, 2) - 0.35) * 6, 0, 1) * sprite.ellipse(0.5, 0.55, 0.2, 0.22)
        sprite.paint(mark, white if kind in (1, 4) else (0.08, 0.08, 0.08))
    return sprite.texture()


def _light(rng: np.random.Generator) -> np.ndarray:
    """A traffic light's housing without its pole."""
    sprite = Sprite(96, 36)
    sprite.paint(sprite.mask([(0.0, 0.0), (0.37, 0.0), (0.37, 1.0), (0.0, 1.0)]), (0.07, 0.08, 0.08))
    lit = int(rng.choice([0, 2]))
    for i, colour in enumerate([(0.95, 0.15, 0.1), (0.95, 0.65, 0.1), (0.2, 0.9, 0.5)]):
        sprite.paint(sprite.ellipse(0.185, 0.18 + 0.32 * i, 0.12, 0.12), np.array(colour) * (1.0 if i == lit else 0.22))
    return sprite.texture()


def _pole(rng: np.random.Generator) -> np.ndarray:
    shade = np.clip(np.linspace(1.25, 0.55, 8), 0, 2)[None, :, None] * np.ones((128, 1, 1))
    colour = rng.uniform(0.22, 0.6) * (1 + rng.normal(0, 0.03, 3))
    image = np.clip(shade * colour * (1 + 0.08 * fractal(rng, (128, 8), 16, 2))[..., None], 0, 1)
    return np.dstack([image * 255, np.full((128, 8), 255.0)]).astype(np.uint8)


_PAINTERS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "facade": _facade, "tree": _tree, "bush": _bush, "person": _person, "rider": _rider, "sign": _sign,
    "light": _light, "pole": _pole,
}  # fmt: skip
_GROUNDS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "asphalt": _asphalt, "paving": _paving, "grass": _grass, "gravel": _gravel,
}  # fmt: skip
