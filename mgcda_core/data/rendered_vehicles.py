"""Cars, vans, trucks and buses as a few textured faces: two ends, two sides, glass, bonnet and roof."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from mgcda_core.data.rendered_canvas import Canvas, Texture, facing, fractal

CAR, TRUCK, BUS = 13, 14, 15
VEHICLE_VARIANTS = {"car": 40, "van": 8, "truck": 8, "bus": 6}
_PPM = 70
_CLEAR = {"van": 0.22, "truck": 0.4, "bus": 0.26}


@dataclass(frozen=True)
class Vehicle:
    """Size in metres, label and textures (uint8 RGBA) of one vehicle; x runs from the rear end forwards."""

    label: int
    length: float
    width: float
    height: float
    belt: float
    """Height of the lower edge of the windows; equals height for a plain box."""
    glass: tuple[float, float, float, float]
    """x of the rear window's foot and top, of the windscreen's top and foot."""
    rear: Texture
    front: Texture
    side: Texture
    cabin: Texture | None
    pane: Texture | None
    plain: Texture
    """Bare body colour."""


@functools.lru_cache(maxsize=128)
def vehicle(kind: str, index: int) -> Vehicle:
    """Vehicle number `index` of a kind of VEHICLE_VARIANTS; always the same."""
    rng = np.random.default_rng([sum(map(ord, kind)), index, 5])
    grey = rng.choice([0.07, 0.12, 0.2, 0.35, 0.5, 0.62, 0.78, 0.85])
    vivid = np.asarray([(0.5, 0.07, 0.07), (0.1, 0.16, 0.36), (0.13, 0.27, 0.22), (0.5, 0.42, 0.3), (0.3, 0.1, 0.12),
                        (0.75, 0.6, 0.1), (0.2, 0.35, 0.5)][rng.integers(7)])  # fmt: skip
    colour = np.full(3, grey) + rng.normal(0, 0.012, 3) if rng.random() < 0.68 else vivid * rng.uniform(0.7, 1.3)
    if kind == "car":
        return _car(rng, colour)
    sizes = {"van": (5.2, 1.95, 2.2, CAR), "truck": (8.0, 2.45, 3.3, TRUCK), "bus": (11.5, 2.5, 3.0, BUS)}
    length, width, height, label = sizes[kind]
    length, height = length * rng.uniform(0.9, 1.1), height * rng.uniform(0.92, 1.08)
    if kind == "truck" and rng.random() < 0.6:
        colour = rng.uniform(0.55, 0.85) * np.ones(3)
    side = _box_side(rng, kind, length, height, colour)
    rear, front = (_box_end(rng, kind, width, height, colour, end) for end in ("rear", "front"))
    return Vehicle(label, length, width, height, height, (0, 0, length, length), rear, front, side, None, None,
                   _finish(_plate(rng, 0.1, 0.1, colour)))  # fmt: skip


def _car(rng: np.random.Generator, colour: np.ndarray) -> Vehicle:
    body = rng.choice(["hatch", "sedan", "suv", "wagon"], p=[0.4, 0.2, 0.25, 0.15])
    height = {"hatch": 1.48, "sedan": 1.44, "suv": 1.68, "wagon": 1.5}[body] * rng.uniform(0.97, 1.04)
    length = {"hatch": 4.0, "sedan": 4.6, "suv": 4.5, "wagon": 4.6}[body] * rng.uniform(0.95, 1.05)
    width, belt = rng.uniform(1.72, 1.86), height * 0.63
    rear_foot = {"hatch": 0.12, "sedan": 0.6, "suv": 0.1, "wagon": 0.1}[body]
    rear_top = rear_foot + {"hatch": 0.5, "sedan": 0.65, "suv": 0.35, "wagon": 0.45}[body]
    glass = (rear_foot, rear_top, length - rng.uniform(1.75, 1.95), length - rng.uniform(0.95, 1.15))
    whole = _car_side(rng, length, height, belt, glass, colour).pixels
    cut = round(whole.shape[0] * (1 - belt / height))
    return Vehicle(CAR, length, width, height, belt, glass, _car_end(rng, width, belt, colour, "rear"),
                   _car_end(rng, width, belt, colour, "front"), Texture(whole[cut:]), Texture(whole[:cut]),
                   _pane(rng, colour), _finish(_plate(rng, 0.1, 0.1, colour)))  # fmt: skip


def _plate(rng: np.random.Generator, height_m: float, width_m: float, colour: np.ndarray) -> np.ndarray:
    """float32 [h, w, 4]: body colour with a faint sheen, opaque."""
    h, w = round(height_m * _PPM), round(width_m * _PPM)
    sheen = np.interp(np.linspace(0, 1, h), (0, 0.12, 0.4, 0.75, 1), (1.25, 1.1, 1.0, 0.8, 0.6))[:, None]
    sheen = sheen * (1 + 0.06 * fractal(rng, (h, w), 2, 3))
    return np.dstack([np.clip(sheen[..., None] * colour, 0, 1), np.ones((h, w))]).astype(np.float32)


def _finish(image: np.ndarray) -> Texture:
    image = np.clip(image, 0, 1)
    image[..., :3] *= image[..., 3:]
    return Texture((image * 255).astype(np.uint8))


def _rect(image: np.ndarray, x0: float, z0: float, x1: float, z1: float, colour: object) -> None:
    """Fill a rectangle given in metres from the bottom left corner."""
    h = image.shape[0]
    rows = slice(max(round(h - z1 * _PPM), 0), max(round(h - z0 * _PPM), 0))
    image[rows, max(round(x0 * _PPM), 0) : max(round(x1 * _PPM), 0), :3] = colour


def _underside(image: np.ndarray, wheels: list[tuple[float, float]], clearance: float) -> None:
    """Open the gap under the body except where the wheels [x0, x1] in metres stand; darken the sill."""
    h, w = image.shape[:2]
    row = round(h - clearance * _PPM)
    image[row - 6 : row, :, :3] *= 0.45
    image[row:, :, 3] = 0
    image[row : row + max(2, (h - row) // 3), :, :] = (0.03, 0.03, 0.03, 1)
    for x0, x1 in wheels:
        image[row:, max(round(x0 * _PPM), 0) : min(round(x1 * _PPM), w)] = (0.05, 0.05, 0.055, 1)


def _car_end(rng: np.random.Generator, width: float, belt: float, colour: np.ndarray, end: str) -> Texture:
    image = _plate(rng, belt, width, colour)
    lamp = (0.5, 0.04, 0.04) if end == "rear" else (0.82, 0.84, 0.86)
    lw, lz, lh = rng.uniform(0.22, 0.4), belt - rng.uniform(0.3, 0.36), rng.uniform(0.13, 0.26)
    for x in (0.03, width - 0.03 - lw):
        _rect(image, x, lz, x + lw, lz + lh, lamp)
        _rect(image, x + lw * 0.25, lz + lh * 0.3, x + lw * 0.7, lz + lh * 0.75, np.clip(np.array(lamp) * 1.5, 0, 1))
    if end == "front":
        _rect(image, width * 0.28, belt - 0.4, width * 0.72, belt - 0.2, (0.07, 0.07, 0.08))
        _rect(image, width * 0.18, 0.26, width * 0.82, 0.36, (0.05, 0.05, 0.05))
    else:
        image[: round(0.04 * _PPM), :, :3] *= 0.7
    _rect(image, 0.04, 0.42, width - 0.04, 0.435, colour * 0.45)
    _rect(image, width / 2 - 0.26, 0.44, width / 2 + 0.26, 0.55, (0.8, 0.8, 0.76))
    _underside(image, [(0.05, 0.26), (width - 0.26, width - 0.05)], 0.2)
    corner = image[..., 3].copy()  # rounded shoulders
    w = corner.shape[1]
    for i in range(10):
        cut = round((1 - np.sqrt(1 - (1 - i / 10) ** 2)) * 8)
        corner[i, :cut] = corner[i, w - cut :] = 0
    image[..., 3] = corner
    return _finish(image)


def _pane(rng: np.random.Generator, colour: np.ndarray) -> Texture:
    """Windscreen or rear window with its frame."""
    image = _plate(rng, 0.6, 1.5, colour)
    h, w = image.shape[:2]
    glass = np.linspace(0.34, 0.1, h)[:, None, None] * np.array((0.85, 0.95, 1.05))
    glass = glass * (1 + 0.5 * fractal(rng, (h, w), 2, 3))[..., None]
    image[4 : h - 1, 6 : w - 6, :3] = glass[4 : h - 1, 6 : w - 6]
    for x in (0.3, 0.7):  # head rests
        cv2.ellipse(image, (int(x * w), int(0.75 * h)), (9, 12), 0, 0, 360, (0.06, 0.06, 0.07, 1.0), -1, cv2.LINE_AA)
    return _finish(image)


def _wheel(image: np.ndarray, x: float, radius: float, rim: float) -> None:
    h = image.shape[0]
    centre = (round(x * _PPM), round(h - radius * _PPM))
    r = round(radius * _PPM)
    cv2.circle(image, centre, round(r * 1.16), (0.02, 0.02, 0.02, 1.0), -1, cv2.LINE_AA)
    image[h - round(0.16 * _PPM) :, centre[0] - round(r * 1.4) : centre[0] + round(r * 1.4), 3] = 0
    cv2.circle(image, centre, r, (0.06, 0.06, 0.065, 1.0), -1, cv2.LINE_AA)
    cv2.circle(image, centre, round(r * 0.66), (rim, rim, rim * 1.02, 1.0), -1, cv2.LINE_AA)
    for k in range(5):
        a = 2 * np.pi * k / 5
        tip = (round(centre[0] + 0.58 * r * np.cos(a)), round(centre[1] + 0.58 * r * np.sin(a)))
        cv2.line(image, centre, tip, (rim * 0.4, rim * 0.4, rim * 0.4, 1.0), 3, cv2.LINE_AA)


def _car_side(rng: np.random.Generator, length: float, height: float, belt: float,
              glass: tuple[float, float, float, float], colour: np.ndarray) -> Texture:  # fmt: skip
    """The whole side, rear end left."""
    image = _plate(rng, height, length, colour)
    h, w = image.shape[:2]
    top, shoulder = 0, h - belt * _PPM
    a0, a1, b1, b0 = (v * _PPM for v in glass)
    outline = [(0, h), (0, shoulder + 8), (4, shoulder), (a0, shoulder), (a1, top + 1), (b1, top + 1), (b0, shoulder),
               (w - 12, shoulder + 0.12 * _PPM), (w - 1, shoulder + 0.3 * _PPM), (w, h)]  # fmt: skip
    keep = np.zeros((h, w), np.float32)
    cv2.fillPoly(keep, [np.round(np.array(outline) * 16).astype(np.int32)], 1.0, cv2.LINE_AA, shift=4)
    pillar = 0.1 * _PPM
    window = [
        (a0 + pillar * 1.6, shoulder - 3),
        (a1 + pillar, top + 6),
        (b1 - pillar * 0.4, top + 6),
        (b0 - pillar * 1.8, shoulder - 3),
    ]
    cv2.fillPoly(image, [np.round(np.array(window)).astype(np.int32)], (0.1, 0.115, 0.13, 1.0), cv2.LINE_AA)
    shine = [(a1 + 14, top + 8), (a1 + 44, top + 8), (a1 + 20, shoulder - 5), (a1 - 4, shoulder - 5)]
    cv2.fillPoly(image, [np.round(np.array(shine)).astype(np.int32)], (0.2, 0.225, 0.25, 1.0), cv2.LINE_AA)
    post = round((a1 + b1) / 2)
    image[6 : round(shoulder), post - 3 : post + 3, :3] = colour * 0.35
    for x in (round(a0 + 0.3 * _PPM), post, round(b0 - 0.1 * _PPM)):  # door gaps
        image[round(shoulder) : h - round(0.3 * _PPM), x : x + 2, :3] *= 0.5
    image[round(shoulder) : round(shoulder) + 3, :, :3] *= 1.2
    image[..., 3] = keep
    _underside(image, [], 0.2)
    for x in (0.2 * length, 0.81 * length):
        _wheel(image, x, 0.32, rng.uniform(0.25, 0.65))
    return _finish(image)


def _box_side(rng: np.random.Generator, kind: str, length: float, height: float, colour: np.ndarray) -> Texture:
    image = _plate(rng, height, length, colour)
    glass = (0.1, 0.12, 0.14)
    if kind == "bus":
        for x in np.arange(0.3, length - 1.2, 1.45):
            _rect(image, x, 1.25, x + 1.3, height - 0.45, glass)
        _rect(image, 0, 0.75, length, 0.95, rng.uniform(0.1, 0.8, 3))
    elif kind == "truck":
        _rect(image, length - 2.2, 0.6, length - 2.1, height, (0.03, 0.03, 0.03))
        _rect(image, length - 1.5, 1.6, length - 0.4, 2.3, glass)
        if rng.random() < 0.6:
            _rect(image, length * 0.15, height * 0.45, length * 0.55, height * 0.75, rng.uniform(0.1, 0.9, 3))
    else:
        _rect(image, length - 2.0, 1.2, length - 0.7, height - 0.3, glass)
        _rect(image, length * 0.45, 0.4, length * 0.455, height - 0.2, colour * 0.5)
    _underside(image, [], _CLEAR[kind])
    for x in (0.18, 0.26, 0.84) if kind == "truck" else (0.2, 0.8):
        _wheel(image, x * length, 0.45 if kind != "van" else 0.35, 0.4)
    return _finish(image)


def _box_end(rng: np.random.Generator, kind: str, width: float, height: float, colour: np.ndarray, end: str) -> Texture:
    image = _plate(rng, height, width, colour)
    glass = np.array((0.12, 0.14, 0.16))
    if end == "front" or kind != "truck":
        low = 1.2 if kind != "bus" else 1.1
        _rect(image, 0.12, low, width - 0.12, height - (0.3 if kind != "truck" else 1.0), glass)
        _rect(image, 0.3, low + 0.3, width * 0.5, height - 0.5 if kind != "truck" else low + 0.5, glass * 1.5)
    else:
        _rect(image, width / 2 - 0.01, 0.7, width / 2 + 0.01, height - 0.1, colour * 0.5)
    lamp = (0.5, 0.05, 0.05) if end == "rear" else (0.85, 0.85, 0.85)
    for x in (0.06, width - 0.36):
        _rect(image, x, 0.6, x + 0.3, 0.78, lamp)
    _rect(image, 0, 0.35, width, 0.55, (0.09, 0.09, 0.09))
    _rect(image, width / 2 - 0.26, 0.6, width / 2 + 0.26, 0.72, (0.8, 0.8, 0.75))
    _underside(image, [(0.08, 0.4), (width - 0.4, width - 0.08)], _CLEAR[kind])
    return _finish(image)


@functools.lru_cache(maxsize=256)
def _faces(kind: str, index: int, oncoming: bool) -> tuple[np.ndarray, list[tuple[Texture, str]]]:
    """Corners float [n, 4, 3] from the middle of the near end, x away from the viewer; texture and side of each."""
    car = vehicle(kind, index)
    length, half = car.length, car.width / 2
    a0, a1, b1, b0 = car.glass
    if oncoming:
        a0, a1, b1, b0 = length - b0, length - b1, length - a1, length - a0
    belt, top, narrow = car.belt, car.height, half * 0.8
    corners: list[list[tuple[float, float, float]]] = []
    skins: list[tuple[Texture, str]] = []
    for out, name in ((1, "left"), (-1, "right")):
        mirrored = (out > 0) != oncoming
        first, second = (length, 0.0) if out > 0 else (0.0, length)
        y, y_roof = out * half, out * narrow
        corners.append([(first, y, belt), (second, y, belt), (second, y, 0), (first, y, 0)])
        skins.append((car.side.flipped if mirrored else car.side, name))
        if car.cabin is not None:
            corners.append([(first, y_roof, top), (second, y_roof, top), (second, y, belt), (first, y, belt)])
            skins.append((car.cabin.flipped if mirrored else car.cabin, name))
    if car.pane is not None:
        corners.append([(a1, narrow, top), (a1, -narrow, top), (a0, -half, belt), (a0, half, belt)])
        corners.append([(b1, narrow, top), (b1, -narrow, top), (a1, -narrow, top), (a1, narrow, top)])
        corners.append([(a0, half, belt), (a0, -half, belt), (0, -half, belt), (0, half, belt)])
        skins += [(car.pane, "end"), (car.plain, "top"), (car.plain, "top")]
    corners.append([(0, half, belt), (0, -half, belt), (0, -half, 0), (0, half, 0)])
    skins.append((car.front if oncoming else car.rear, "end"))
    return np.array(corners, float), skins


def draw_vehicle(canvas: Canvas, variant: tuple[str, int], foot: tuple[float, float], heading: float, oncoming: bool,
                 lights: dict[str, np.ndarray]) -> np.ndarray:  # fmt: skip
    """Paint a vehicle whose near end's middle stands at `foot` (x, y) and which extends along `heading` (radians).

    lights: colour factors of "end", "left", "right" and "top" faces. Returns its 8 bounding corners, float [8, 3].
    """
    car = vehicle(*variant)
    c, s = np.cos(heading), np.sin(heading)
    turn, origin = np.array([(c, s, 0), (-s, c, 0), (0, 0, 1)]), np.array((*foot, 0.0))
    corners, skins = _faces(*variant, oncoming)
    for quad, (texture, name) in zip(corners @ turn + origin, skins, strict=True):
        if facing(canvas, quad):
            canvas.quad(quad, texture, car.label, lights[name], snug=True)
    half = car.width / 2
    bounds = [(x, y, z) for x in (0.0, car.length) for y in (-half, half) for z in (0.0, car.height)]
    return np.array(bounds) @ turn + origin
