"""How the things of a rendered street are painted: houses, walls, sprites, vehicles and their shadows."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from mgcda_core.data.rendered_canvas import NEAR_M, Canvas, Texture, facing
from mgcda_core.data.rendered_ground import BUILDING, Weather
from mgcda_core.data.rendered_textures import ground_tile, street_texture
from mgcda_core.data.rendered_vehicles import draw_vehicle, vehicle

RIDER, BICYCLE = 12, 18
_BLACK = Texture(np.full((4, 4), 255, np.uint8))


@dataclass(frozen=True)
class Thing:
    """One thing beside or on the road."""

    kind: str
    """facade, wall, fence, vehicle, rider, or any upright sprite (tree, bush, person, pole, sign, light, anomaly)."""
    name: str
    s: float
    """Metres along the path to its near end (its foot, for a sprite)."""
    d: float
    """Metres to the left of the path: its foot; the street side of a house."""
    width: float
    """Metres across; along the road for houses, walls and fences."""
    height: float
    label: int
    texture: Texture | None = None
    variant: tuple[str, int] = ("", 0)
    lift: float = 0.0
    """Height of its lower edge above the road."""
    speed: float = 0.0
    """Metres a second along the road."""
    oncoming: bool = False
    anomaly: bool = False
    tint: float = 1.0

    def depth_key(self, seconds: float) -> float:
        """Sorting value: larger is painted earlier."""
        reach = self.width if self.kind in ("facade", "wall", "fence") else 0.0
        return self.s + self.speed * seconds + reach + (0.01 if self.kind == "facade" else 0.0)


def paint_shadow(mask: np.ndarray, canvas: Canvas, thing: Thing, x: float, y: float, heading: float, sun: np.ndarray,
                 cast: float) -> None:  # fmt: skip
    """Add the thing's cast and contact shadow to a float32 [H, W] mask of the ground (1 = black).

    sun: unit vector towards the sun; cast: darkness of cast shadows, 0 for none.
    """
    if thing.kind == "vehicle":
        _vehicle_shadow(mask, canvas, thing, x, y, heading, sun, cast)
        return
    if thing.kind in ("facade", "wall", "fence"):
        if cast > 0:
            reach = -sun[:2] / sun[2] * thing.height
            far = (x + np.cos(heading) * thing.width, y + np.sin(heading) * thing.width)
            feet = [(far[0] + reach[0], far[1] + reach[1]), (x + reach[0], y + reach[1]), (x, y), far]
            _ground_quad(mask, canvas, feet, _BLACK, cast)
        return
    half = thing.width / 2
    if thing.lift == 0.0 and thing.kind != "pole":
        contact = max(half, 0.12) * 1.15
        far_x, near_x = x + contact * 0.8, x - contact * 0.5
        feet = [(far_x, y + contact), (far_x, y - contact), (near_x, y - contact), (near_x, y + contact)]
        _ground_quad(mask, canvas, feet, _CONTACT, 0.6)
    if thing.texture is not None and cast > 0:  # the picture itself, laid down away from the sun
        flat = sun[:2] / max(float(np.hypot(*sun[:2])), 1e-6)
        side = np.array((-flat[1], flat[0])) * half
        base = np.array((x, y)) - sun[:2] / sun[2] * thing.lift
        top = base - sun[:2] / sun[2] * thing.height
        feet = [tuple(top + side), tuple(top - side), tuple(base - side), tuple(base + side)]
        _ground_quad(mask, canvas, feet, thing.texture.alpha, cast)


def _vehicle_shadow(mask: np.ndarray, canvas: Canvas, thing: Thing, x: float, y: float, heading: float,
                    sun: np.ndarray, cast: float) -> None:  # fmt: skip
    car = vehicle(*thing.variant)
    c, s = np.cos(heading), np.sin(heading)
    near, far, half = -0.15, car.length + 0.15, car.width / 2 + 0.12
    outline = ((far, half), (far, -half), (near, -half), (near, half))
    feet = [(x + c * a - s * b, y + s * a + c * b) for a, b in outline]
    _ground_quad(mask, canvas, feet, _BLACK, 0.8)
    if cast > 0:
        reach = -sun[:2] / sun[2] * car.height * 0.9
        _ground_hull(mask, canvas, np.array(feet + [(a + reach[0], b + reach[1]) for a, b in feet]), cast)


def _contact() -> Texture:
    yy, xx = np.mgrid[-1:1:33j, -1:1:33j]
    return Texture((255 * np.clip(1.15 - np.sqrt(xx**2 + yy**2), 0, 1) ** 0.8).clip(0, 255).astype(np.uint8))


_CONTACT = _contact()


def _ground_quad(
    mask: np.ndarray, canvas: Canvas, feet: list[tuple[float, float]], alpha: Texture, strength: float
) -> None:
    warped = canvas.warp(np.array([(a, b, 0.0) for a, b in feet]), alpha)
    if warped is not None:
        (x, y, w, h), patch, _ = warped
        part = mask[y : y + h, x : x + w]
        np.maximum(part, patch.astype(np.float32) * (strength / 255), out=part)


def _ground_hull(mask: np.ndarray, canvas: Canvas, feet: np.ndarray, strength: float) -> None:
    pixels, depth = canvas.camera.project(np.c_[feet, np.zeros(len(feet))])
    if depth.min() < NEAR_M:
        return
    hull = cv2.convexHull(pixels.astype(np.float32))[:, 0]
    layer = np.zeros(mask.shape, np.uint8)
    cv2.fillConvexPoly(layer, np.round(np.clip(hull, -30000, 30000)).astype(np.int32), 1)
    np.maximum(mask, layer * np.float32(strength), out=mask)


def paint_thing(canvas: Canvas, thing: Thing, x: float, y: float, heading: float, weather: Weather) -> np.ndarray:
    """Paint one thing whose foot is at (x, y); returns its bounding corners in the world, float [n, 3]."""
    toward = weather.light((-0.9, 0.0, 0.44)) * thing.tint
    if thing.kind == "vehicle":
        c, s = np.cos(heading), np.sin(heading)
        lights = {"end": weather.light((-c, -s, 0.2)), "left": weather.light((-s, c, 0.2)),
                  "right": weather.light((s, -c, 0.2)), "top": weather.light((0, 0, 1.0))}  # fmt: skip
        return draw_vehicle(canvas, thing.variant, (x, y), heading, thing.oncoming, lights)
    if thing.kind == "facade":
        return _paint_house(canvas, thing, x, y, heading, weather)
    if thing.kind in ("wall", "fence"):
        c, s = np.cos(heading), np.sin(heading)
        near, far = (x, y), (x + c * thing.width, y + s * thing.width)
        a, b = (near, far) if thing.d > 0 else (far, near)
        corners = _upright(a, b, 0.0, thing.height)
        assert thing.texture is not None
        canvas.quad(corners, thing.texture, thing.label, weather.light((-s, -c * np.sign(thing.d), 0.1)) * thing.tint)
        return corners
    assert thing.texture is not None
    half = thing.width / 2
    corners = _upright((x, y + half), (x, y - half), thing.lift, thing.lift + thing.height)
    if thing.kind == "rider":  # the lower part is the bicycle
        rows = len(thing.texture.pixels)
        cut = round(rows * 0.56)
        middle = thing.height * (1 - cut / rows)
        canvas.quad(
            _upright((x, y + half), (x, y - half), 0.0, middle), Texture(thing.texture.pixels[cut:]), BICYCLE, toward
        )
        canvas.quad(
            _upright((x, y + half), (x, y - half), middle, thing.height),
            Texture(thing.texture.pixels[:cut]),
            RIDER,
            toward,
        )
    else:
        canvas.quad(corners, thing.texture, thing.label, toward, anomaly=thing.anomaly)
    return corners


def _upright(left: tuple[float, float], right: tuple[float, float], bottom: float, top: float) -> np.ndarray:
    return np.array([(*left, top), (*right, top), (*right, bottom), (*left, bottom)])


def _paint_house(canvas: Canvas, thing: Thing, x: float, y: float, heading: float, weather: Weather) -> np.ndarray:
    c, s = np.cos(heading), np.sin(heading)
    side = np.sign(thing.d)
    texture = street_texture(*thing.variant)
    high, deep = thing.height, 9.0

    def at(along: float, out: float) -> tuple[float, float]:
        return x + c * along - s * side * out, y + s * along + c * side * out

    near, far, back = at(0, 0), at(thing.width, 0), at(0, deep)
    front = _upright(near, far, 0.0, high) if side > 0 else _upright(far, near, 0.0, high)
    gable = _upright(back, near, 0.0, high) if side > 0 else _upright(near, back, 0.0, high)
    if thing.variant[1] % 2:  # a hipped roof
        roof = _roof(thing.variant[1] % 3)
        ridge = [(*at(a, 3.0), high + 2.6) for a in (2.5, thing.width - 2.5)]
        eaves = [(*near, high), (*far, high)]
        face = [ridge[0], ridge[1], eaves[1], eaves[0]] if side > 0 else [ridge[1], ridge[0], eaves[0], eaves[1]]
        end = [(*at(2.5, deep - 3), high + 2.6), ridge[0], eaves[0], (*back, high)]
        end = end if side > 0 else [end[1], end[0], end[3], end[2]]
        for corners, normal in ((face, (s * side, -c * side, 0.8)), (end, (-c, -s, 0.8))):
            if facing(canvas, np.array(corners)):
                canvas.quad(np.array(corners), roof, BUILDING, weather.light(normal) * thing.tint * 0.75, snug=True)
    for corners, skin, normal in ((gable, texture, (-c, -s, 0.0)), (front, texture, (s * side, -c * side, 0.0))):
        if facing(canvas, corners):
            canvas.quad(corners, skin, BUILDING, weather.light(normal) * thing.tint, snug=True)
    return np.concatenate([front, gable])


@functools.lru_cache(maxsize=4)
def _roof(colour: int) -> Texture:
    tiles = np.array(((118, 66, 48), (92, 84, 82), (70, 60, 58))[colour])
    rough = np.clip(ground_tile("gravel", 0)[2] / 108.0 * tiles, 0, 255)
    return Texture(np.dstack([rough, np.full((128, 128), 255)]).astype(np.uint8))
