"""Rendered road scenes with exact ground truth: labels, anomaly mask, camera, and where everything stands.

Procedural drawing (NumPy and OpenCV), seeded: the same seed gives the same bytes. Used for training, tests and the
demo; DEMO_SEED_BASE keeps the demo's scenes out of every training set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from mgcda_core.data.rendered_canvas import NEAR_M, Canvas, RenderedCamera
from mgcda_core.data.rendered_ground import Road, Weather, expose, paint_ground, paint_sky, random_weather
from mgcda_core.data.rendered_layout import furnish, plan_road, scatter_anomalies
from mgcda_core.data.rendered_street import Thing, paint_shadow, paint_thing
from mgcda_core.labels import IGNORE

DEMO_SEED_BASE = 1_000_000
"""Training uses seeds below, demo and tests of the demo this one and above."""
_NAMED = frozenset({"person", "rider", "car", "van", "truck", "bus"})


@dataclass(frozen=True)
class RenderedObject:
    """A thing in the scene whose foot is in view."""

    name: str
    anomaly: bool
    x: float
    y: float
    """Contact point on the road in metres, x forward and y left of the point below the camera; for vehicles the
    middle of the near end."""
    width_m: float
    height_m: float
    box: tuple[float, float, float, float]
    """left, top, width, height in pixels of the whole thing, hidden parts included, cut at the image's border; the
    pixel in column i covers i - 0.5 .. i + 0.5."""
    visible: float
    """Share of its pixels in the image that nothing nearer covers, in [0, 1]."""


@dataclass(frozen=True)
class RenderedScene:
    """One frame with its truth."""

    image: np.ndarray
    """uint8 [H, W, 3] RGB."""
    labels: np.ndarray
    """uint8 [H, W] Cityscapes train ids, 255 on anomalies."""
    anomaly: np.ndarray
    """uint8 [H, W], 1 = anomaly, 0 = normal."""
    camera: RenderedCamera
    objects: list[RenderedObject]
    """People, riders, vehicles and anomalies in view, the farthest first."""


@dataclass(frozen=True)
class _World:
    seed: int
    camera: RenderedCamera
    weather: Weather
    road: Road
    things: list[Thing]
    built: float


def render_scene(
    seed: int, size: tuple[int, int] = (360, 640), anomalies: int | None = None, camera: RenderedCamera | None = None
) -> RenderedScene:
    """One road scene.

    size: (height, width). anomalies: how many things that do not belong stand on the road; None draws 0 to 3 by seed.
    camera: intrinsics and mounting; None draws a plausible one by seed. Raises ValueError for a size below 32 x 32.
    """
    rng = np.random.default_rng([seed, 1])
    count = int(rng.integers(0, 4)) if anomalies is None else anomalies
    world = _build_world(seed, size, count, camera, (-8.0, 120.0), (6.0, 38.0), driving=False)
    return _render(world, size, 0.0, 0.0, seed)


def drive(
    seed: int,
    frames: int,
    size: tuple[int, int] = (480, 960),
    *,
    speed_mps: float = 8.0,
    rate_hz: float = 15.0,
    anomalies: int = 4,
    camera: RenderedCamera | None = None,
) -> Iterator[RenderedScene]:
    """Consecutive frames of one camera moving along one street; things come nearer, their positions stay exact.

    frames: how many; speed_mps and rate_hz: the way between two of them. The rest as in `render_scene`.
    """
    step = speed_mps / rate_hz
    way = step * max(frames - 1, 0)
    world = _build_world(seed, size, anomalies, camera, (-8.0, 120.0 + way), (9.0, 24.0 + way), driving=True)
    for i in range(frames):
        yield _render(world, size, i * step, i / rate_hz, seed * 100_003 + i)


def _build_world(
    seed: int,
    size: tuple[int, int],
    anomalies: int,
    camera: RenderedCamera | None,
    reach: tuple[float, float],
    littered: tuple[float, float],
    driving: bool,
) -> _World:
    if min(size) < 32:
        raise ValueError(f"a rendered scene needs at least 32 x 32 pixels, not {size[0]} x {size[1]}")
    rng = np.random.default_rng([seed, 2])
    camera = camera or _random_camera(rng, size)
    weather = random_weather(rng)
    setting = str(rng.choice(["urban", "suburb", "rural"], p=[0.5, 0.3, 0.2]))
    road = plan_road(rng, setting)
    things = furnish(rng, road, setting, reach, driving)
    things += scatter_anomalies(np.random.default_rng([seed, 3]), road, anomalies, littered, driving)
    return _World(seed, camera, weather, road, things, {"urban": 0.75, "suburb": 0.35, "rural": 0.08}[setting])


def _random_camera(rng: np.random.Generator, size: tuple[int, int]) -> RenderedCamera:
    height, width = size
    focal = width * rng.uniform(0.62, 1.05)
    pitch = np.radians(rng.uniform(-1.0, 6.0))
    return RenderedCamera(focal, focal, (width - 1) / 2, (height - 1) / 2, float(rng.uniform(1.2, 1.7)), float(pitch))


def _render(world: _World, size: tuple[int, int], travelled: float, seconds: float, noise_seed: int) -> RenderedScene:
    turn = world.road.curvature * travelled
    c, s = np.cos(turn), np.sin(turn)
    sx, sy, sz = world.weather.sun
    weather = dataclasses.replace(world.weather, sun=np.array((c * sx + s * sy, c * sy - s * sx, sz)))
    canvas = Canvas(world.camera, np.zeros((*size, 3), np.float32), np.zeros(size, np.uint8), np.zeros(size, np.uint8),
                    np.zeros(size, np.uint16), weather.horizon.astype(np.float32), weather.haze_per_m)  # fmt: skip
    paint_sky(canvas, weather, turn, world.seed, world.built)
    first = paint_ground(canvas, weather, world.road, travelled)
    placed: list[tuple[Thing, float, float, float]] = []
    for thing in sorted(world.things, key=lambda t: -t.depth_key(seconds)):
        ahead = thing.s + thing.speed * seconds - travelled
        if ahead < 120 and thing.depth_key(seconds) - travelled > -12:
            placed.append((thing, *world.road.place(ahead, thing.d)))
    _darken(canvas, weather, placed, first)
    seen = []
    for number, (thing, x, y, heading) in enumerate(placed, start=1):
        canvas.number = number
        corners = paint_thing(canvas, thing, x, y, heading, weather)
        if thing.name in _NAMED or thing.anomaly:
            seen += _in_view(canvas, thing, (x, y), corners)
    counts = np.bincount(canvas.ids.ravel(), minlength=len(placed) + 1)
    objects = [dataclasses.replace(thing, visible=float(counts[number] / total)) for thing, number, total in seen]
    canvas.labels[canvas.anomaly > 0] = IGNORE
    image = expose(canvas.image, world.seed, noise_seed)
    return RenderedScene(image, canvas.labels, canvas.anomaly, world.camera, objects)


def _darken(canvas: Canvas, weather: Weather, placed: list[tuple[Thing, float, float, float]], first: int) -> None:
    """Cast the things' shadows on the ground."""
    mask = np.zeros(canvas.labels.shape, np.float32)
    for thing, x, y, heading in placed:
        if x < 60:
            paint_shadow(mask, canvas, thing, x, y, heading, weather.sun, weather.shadow)
    mask[first:] = cv2.GaussianBlur(mask[first:], (0, 0), 1.3) if first < len(mask) else 0
    canvas.image[first:] *= (1 - mask[first:])[..., None]


def _in_view(
    canvas: Canvas, thing: Thing, foot: tuple[float, float], corners: np.ndarray
) -> list[tuple[RenderedObject, int, int]]:
    """The thing just painted with its number and pixel count, or nothing where its foot is out of the image."""
    height, width = canvas.labels.shape
    pixels, depth = canvas.camera.project(np.vstack([(*foot, 0.0), corners]))
    (u, v), total = pixels[0], int(np.count_nonzero(canvas.ids == canvas.number))
    if depth.min() < NEAR_M or not (-0.5 <= u < width - 0.5 and -0.5 <= v < height - 0.5) or total == 0:
        return []
    left, top = np.maximum(pixels[1:].min(0), -0.5)
    right, bottom = np.minimum(pixels[1:].max(0), (width - 0.5, height - 0.5))
    box = (float(left), float(top), float(right - left), float(bottom - top))
    found = RenderedObject(thing.name, thing.anomaly, *foot, thing.width, thing.height, box, 1.0)
    return [(found, canvas.number, total)]
