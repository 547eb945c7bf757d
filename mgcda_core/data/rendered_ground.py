"""What surrounds the things of a rendered scene: light, sky, skyline, the flat ground with its road, and the sensor."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import cv2
import numpy as np

from mgcda_core.data.rendered_canvas import Canvas, noise_tile
from mgcda_core.data.rendered_textures import ground_tile

ROAD, SIDEWALK, BUILDING, VEGETATION, TERRAIN, SKY = 0, 1, 2, 8, 9, 10
_TILE_M, _TEXEL_M = 10.24, 0.02


@dataclass(frozen=True)
class Weather:
    """Light of a scene; colours are float32 [3] RGB factors."""

    sun: np.ndarray
    """float [3] unit vector towards the sun: x forward, y left, z up, in the camera's world."""
    direct: np.ndarray
    ambient: np.ndarray
    zenith: np.ndarray
    horizon: np.ndarray
    clouds: float
    """0 clear .. 1 covered."""
    haze_per_m: float
    shadow: float
    """Darkness of cast shadows, 0 (none) .. 1 (black)."""

    def light(self, normal: tuple[float, float, float]) -> np.ndarray:
        """float32 [3] colour factor on a surface with this unit normal."""
        return (self.ambient + self.direct * max(0.0, float(np.dot(self.sun, normal)))).astype(np.float32)


def random_weather(rng: np.random.Generator) -> Weather:
    """Sun, thin cloud, overcast or dusk."""
    kind = rng.choice(["sun", "overcast", "dusk"], p=[0.54, 0.39, 0.07])
    azimuth, elevation = rng.uniform(-np.pi, np.pi), np.radians(rng.uniform(22, 60))
    if kind == "dusk":
        elevation = np.radians(rng.uniform(8, 18))
    c = np.cos(elevation)
    sun = np.array((c * np.cos(azimuth), c * np.sin(azimuth), np.sin(elevation)))
    level = rng.uniform(0.85, 1.1)
    if kind == "sun":
        direct, ambient = np.array((0.78, 0.72, 0.62)), np.array((0.56, 0.6, 0.67))
        zenith, horizon = np.array((0.36, 0.53, 0.76)), np.array((0.82, 0.87, 0.92))
        clouds, haze, shadow = rng.uniform(0.0, 0.75), rng.uniform(0.0008, 0.004), rng.uniform(0.38, 0.58)
    elif kind == "overcast":
        direct, ambient = np.array((0.1, 0.1, 0.1)), np.array((0.86, 0.88, 0.91))
        zenith, horizon = np.array((0.68, 0.71, 0.75)), np.array((0.87, 0.88, 0.89))
        clouds, haze, shadow = rng.uniform(0.8, 1.0), rng.uniform(0.002, 0.009), 0.0
    else:
        direct, ambient = np.array((0.7, 0.52, 0.36)), np.array((0.6, 0.6, 0.64))
        zenith, horizon = np.array((0.42, 0.5, 0.64)), np.array((0.88, 0.76, 0.64))
        clouds, haze, shadow = rng.uniform(0.1, 0.8), rng.uniform(0.002, 0.006), rng.uniform(0.2, 0.4)
    tint = 1 + rng.normal(0, 0.015, 3)
    return Weather(
        sun, direct * level, ambient * level, zenith * tint, horizon * tint, float(clouds), float(haze), float(shadow)
    )


@dataclass(frozen=True)
class Road:
    """The ground as strips along a road of constant curvature; d is the distance to the left of the camera's path."""

    curvature: float
    """1 / radius in 1/m, positive = bends to the left."""
    edges: tuple[float, ...]
    """Strip borders, ascending d, metres."""
    strips: tuple[tuple[str, int, int, float], ...]
    """(tile kind, tile index, label, brightness) of the strips from right to left; one more than edges."""
    lines: tuple[tuple[float, float, float, float, float], ...]
    """Lane marks (d, width, dash, period, brightness); dash = period is a solid line."""
    crossing: tuple[float, float] | None
    """Zebra crossing between these s."""
    sides: tuple[float, float]
    """d of the carriageway's right and left edge."""

    def place(self, s: float, d: float) -> tuple[float, float, float]:
        """(x, y, heading) of the point s metres ahead along the path and d to its left, seen from s = 0."""
        k = self.curvature
        if abs(k) < 1e-7:
            return s, d, 0.0
        return float(np.sin(k * s) * (1 / k - d)), float(1 / k - np.cos(k * s) * (1 / k - d)), k * s

    def along(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inverse of `place` for arrays: (s, d) of ground points."""
        k = self.curvature
        if abs(k) < 1e-7:
            return np.broadcast_to(x, y.shape), y
        return np.arctan(k * x / (1 - k * y)) / k, (1 - np.sqrt((1 - k * y) ** 2 + (k * x) ** 2)) / k


def paint_sky(canvas: Canvas, weather: Weather, heading: float, seed: int, built: float) -> None:
    """Fill everything above the ground: sky gradient, sun glow, clouds, and a far skyline; labels with it."""
    camera, (height, width) = canvas.camera, canvas.labels.shape
    rows = int(np.clip(np.ceil(camera.horizon) + 2, 0, height))
    if rows == 0:
        return
    v = np.arange(0, rows + 1, 2, dtype=np.float32)[:, None]  # soft enough for half the resolution
    u = np.arange(0, width + 1, 2, dtype=np.float32)[None, :]
    rise = np.clip((camera.horizon - v) / camera.fy, 0.001, None)
    t = np.clip(rise / 0.75, 0, 1) ** 0.6
    sky = (weather.horizon + (weather.zenith - weather.horizon) * t[..., None]).astype(np.float32)
    sky = np.repeat(sky, u.shape[1], axis=1)
    side = (u - camera.cx) / camera.fx
    sun = weather.sun
    if sun[0] > 0.1 and weather.clouds < 0.8:
        off = (side + sun[1] / sun[0]) ** 2 + (rise - sun[2] / sun[0]) ** 2
        sky += (0.5 * np.exp(-off * 6) * weather.direct.mean())[..., None] * np.array((1, 0.93, 0.8), np.float32)
    drift = 97.0 * (seed % 31)
    map_x = ((side / (rise + 0.12)) * 90 + heading * 300 + drift).astype(np.float32)
    map_y = np.broadcast_to(90 / (rise + 0.12) + drift, map_x.shape).astype(np.float32)
    noise = cv2.remap(noise_tile(2), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    cover = np.clip((noise + 2.2 * weather.clouds - 1.2) * 0.8, 0, 1) * np.clip(rise * 12, 0, 1)
    bright = (0.86 - 0.1 * noise - 0.06 * cover) * float(weather.horizon.mean()) * 1.14
    tone = np.array((1.0, 1.0, 1.02)) * (0.6 + 0.4 * weather.horizon / weather.horizon.max())
    sky += (0.9 * cover)[..., None] * (bright[..., None] * tone.astype(np.float32) - sky)
    sky = cv2.resize(sky, (width, rows), interpolation=cv2.INTER_LINEAR)
    canvas.image[:rows], canvas.labels[:rows] = sky, SKY
    _skyline(canvas, weather, heading, seed, built, rows)


def _skyline(canvas: Canvas, weather: Weather, heading: float, seed: int, built: float, rows: int) -> None:
    camera, width = canvas.camera, canvas.labels.shape[1]
    start = max(0, rows - int(0.16 * camera.fy))
    if start >= rows:
        return
    azimuth = np.arctan((np.arange(width) - camera.cx) / camera.fx) - heading
    rng = np.random.default_rng([seed, 77])
    v = np.arange(start, rows, dtype=np.float32)[:, None]
    for layer in range(3):
        line = noise_tile(0)[int(rng.integers(512))]
        profile = np.interp((azimuth * (120 + 90 * layer)) % 512, np.arange(512), line)
        base = (0.05, 0.035, 0.025)[layer]
        tall = np.clip(base * (1 + 0.35 * profile), 0.004, None)
        label = VEGETATION
        colour = np.array((0.17, 0.23, 0.13)) * rng.uniform(0.8, 1.3)
        if rng.random() < built:
            block = np.floor(azimuth * rng.uniform(30, 60)) * 7.3
            tall = base * (0.8 + 0.9 * np.abs(np.sin(block * 12.9898)))
            label, colour = BUILDING, np.array((0.48, 0.45, 0.42)) * rng.uniform(0.7, 1.1)
        mask = np.clip((v - (camera.horizon - tall * camera.fy)[None].astype(np.float32)) + 0.5, 0, 1)
        haze = np.exp(-canvas.haze_per_m * (420, 260, 150)[layer]) * (0.75, 0.85, 0.95)[layer]
        grain = cv2.resize(noise_tile(1)[:64], (width, rows - start))
        lit = (1 + 0.18 * grain)[..., None] * (colour * weather.light((-0.7, 0, 0.7))).astype(np.float32)
        shade = (lit * haze + weather.horizon * (1 - haze)).astype(np.float32)
        canvas.image[start:rows] += mask[..., None] * (shade - canvas.image[start:rows])
        canvas.labels[start:rows][mask > 0.5] = label


def paint_ground(canvas: Canvas, weather: Weather, road: Road, travelled: float) -> int:
    """Paint the flat ground below the horizon and its labels; returns the first ground row."""
    camera, (height, width) = canvas.camera, canvas.labels.shape
    first = int(np.clip(np.floor(camera.horizon) + 1, 0, height))
    if first == height:
        return first
    tan = (np.arange(first, height, dtype=np.float64) - camera.cy) / camera.fy
    c, sn = np.cos(camera.pitch_rad), np.sin(camera.pitch_rad)
    scale = camera.height_m / np.maximum(sn + tan * c, 1e-4)
    x = np.minimum(scale * (c - tan * sn), 1500.0)
    across = np.minimum(scale, 1500.0) / camera.fx
    depth_step = np.abs(np.gradient(x)) if len(x) > 1 else np.ones(1)
    y = (-across[:, None] * (np.arange(width) - camera.cx)).astype(np.float32)
    s, d = road.along(x[:, None].astype(np.float32), y)
    s = (s + np.float32(travelled)).astype(np.float32)
    pixel = np.maximum(across, 1e-4)[:, None].astype(np.float32)
    ground = _surfaces(road, s, d, pixel, np.sqrt(across * depth_step))
    _lane_marks(road, ground, s, d, pixel, np.maximum(depth_step, 1e-4)[:, None].astype(np.float32))
    stain = cv2.remap(noise_tile(0), s * 6.3, d * 6.3 + 11, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    near = np.clip(1.6 - pixel * 6, 0, 1)
    ground *= (1 + 0.05 * stain * near)[..., None]
    ground *= weather.light((0, 0, 1))
    haze = (1 - np.exp(-canvas.haze_per_m * x)).astype(np.float32)[:, None, None]
    ground += haze * (canvas.haze_colour - ground)
    canvas.image[first:] = ground
    index = sum(((d > e).view(np.uint8) for e in road.edges), np.zeros(d.shape, np.uint8))
    canvas.labels[first:] = np.array([strip[2] for strip in road.strips], np.uint8)[index]
    return first


def _surfaces(road: Road, s: np.ndarray, d: np.ndarray, pixel: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """float32 [h, w, 3] colour of the strips, blended over a pixel at their borders."""
    levels = np.clip(np.round(np.log2(np.maximum(footprint, 1e-6) / _TEXEL_M)), 0, 7).astype(int)
    cuts = [0, *(np.flatnonzero(np.diff(levels)) + 1).tolist(), len(levels)]
    weights: dict[tuple[str, int], np.ndarray] = {}
    left, right = float(d.max()), float(d.min())
    for i, (kind, index, _, brightness) in enumerate(road.strips):
        if (i and road.edges[i - 1] > left) or (i < len(road.edges) and road.edges[i] < right):
            continue
        weight = np.full(d.shape, brightness / 255, np.float32)
        if i:
            weight *= np.clip((d - road.edges[i - 1]) / pixel + 0.5, 0, 1)
        if i < len(road.edges):
            weight *= np.clip((road.edges[i] - d) / pixel + 0.5, 0, 1)
        weights[kind, index] = weights[kind, index] + weight if (kind, index) in weights else weight
    ground = np.zeros((*d.shape, 3), np.float32)
    for tile, weight in weights.items():
        colour = _sample(ground_tile(*tile), s, d, levels, cuts)
        ground += cv2.multiply(colour, cv2.merge([weight] * 3), dtype=cv2.CV_32F)
    return ground


def _sample(
    tiles: tuple[np.ndarray, ...], s: np.ndarray, d: np.ndarray, levels: np.ndarray, cuts: list[int]
) -> np.ndarray:
    out = np.empty((*d.shape, 3), np.uint8)
    for start, stop in itertools.pairwise(cuts):
        tile = tiles[min(levels[start], len(tiles) - 1)]
        factor = np.float32(tile.shape[0] / _TILE_M)
        out[start:stop] = cv2.remap(
            tile, s[start:stop] * factor, d[start:stop] * factor, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP
        )
    return out


def _lane_marks(
    road: Road, ground: np.ndarray, s: np.ndarray, d: np.ndarray, pixel: np.ndarray, step: np.ndarray
) -> None:
    cover = np.zeros(d.shape, np.float32)
    for centre, width, dash, period, brightness in road.lines:
        line = np.clip((width / 2 - np.abs(d - centre)) / pixel + 0.5, 0, np.minimum(1, width / pixel))
        if dash < period:
            phase = np.abs((s % period) - period / 2)
            line = line * np.clip((dash / 2 - phase) / step + 0.5, 0, 1)
        cover = np.maximum(cover, line * brightness)
    if road.crossing is not None:
        inside = np.clip((s - road.crossing[0]) / step + 0.5, 0, 1) * np.clip((road.crossing[1] - s) / step + 0.5, 0, 1)
        inside *= (d > road.sides[0]) & (d < road.sides[1])
        stripes = np.clip((0.25 - np.abs(d % 1.0 - 0.5)) / pixel + 0.5, 0, 1)
        cover = np.maximum(cover, inside * stripes * 0.85)
    worn = cv2.remap(noise_tile(1), s * 40, d * 40, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    cover *= np.clip(0.86 - 0.14 * worn * np.clip(1.5 - pixel * 30, 0, 1), 0, 1)
    cover = cv2.merge([cover.astype(np.float32)] * 3)
    ground += cover * (np.float32(0.74) - ground)


def expose(image: np.ndarray, camera_seed: int, noise_seed: int) -> np.ndarray:
    """uint8 [H, W, 3]: automatic exposure, lens blur, vignette, white balance, soft highlights and sensor noise.

    camera_seed picks the camera's character, noise_seed the noise of one frame; equal seeds give equal bytes.
    """
    rng = np.random.default_rng([camera_seed, 4])
    height, width = image.shape[:2]
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.55) * max(width / 960, 0.8))
    level = np.clip((rng.uniform(0.45, 0.55) / max(float(image[::4, ::4].mean()), 0.05)) ** 0.65, 0.75, 1.8)
    yy = np.linspace(-1, 1, height, dtype=np.float32)[:, None] ** 2
    xx = np.linspace(-1, 1, width, dtype=np.float32)[None, :] ** 2
    vignette = 1 - np.float32(rng.uniform(0, 0.14)) * (xx + yy)
    gain = (level * (np.array((0.95, 1.0, 1.0)) + rng.normal(0, 0.014, 3))).astype(np.float32)
    image *= vignette[..., None] * gain
    image = cv2.transform(image, _saturation(rng.uniform(0.5, 0.85)))
    knee = np.float32(0.78)  # bright parts roll off softly instead of clipping
    bright = image > knee
    image[bright] = knee + (1 - knee) * np.tanh((image[bright] - knee) / (1 - knee))
    strength = np.float32(rng.uniform(0.002, 0.009))
    image += _sensor_noise(height, width, noise_seed) * (strength * (0.6 + 0.7 * image))
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def _saturation(amount: float) -> np.ndarray:
    """float [3, 3] colour matrix: 0 grey .. 1 unchanged. Real cameras show a street paler than its paints are."""
    return amount * np.eye(3) + (1 - amount) * np.tile((0.299, 0.587, 0.114), (3, 1))


# Neighbouring pixels of a real sensor's picture share some noise: demosaicing and compression spread it.
_NOISE = cv2.GaussianBlur(np.random.default_rng(99).standard_normal((600, 600, 3), np.float32), (0, 0), 0.5)


def _sensor_noise(height: int, width: int, seed: int) -> np.ndarray:
    y, x = (int(v) for v in np.random.default_rng([seed, 5]).integers(0, 600, 2))
    rows, columns = (np.arange(height) + y) % 600, (np.arange(width) + x) % 600
    return _NOISE[rows][:, columns]
