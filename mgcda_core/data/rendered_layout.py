"""The plan of a rendered street: its cross section and what stands where along it, by seed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from mgcda_core.data.rendered_canvas import Texture
from mgcda_core.data.rendered_ground import BUILDING, ROAD, SIDEWALK, TERRAIN, VEGETATION, Road
from mgcda_core.data.rendered_objects import anomalous_object
from mgcda_core.data.rendered_street import RIDER, Thing
from mgcda_core.data.rendered_textures import VARIANTS, ground_tile, street_texture
from mgcda_core.data.rendered_vehicles import VEHICLE_VARIANTS, vehicle
from mgcda_core.labels import IGNORE

WALL, FENCE, POLE, LIGHT, SIGN, PERSON = 3, 4, 5, 6, 7, 11
_VEHICLES, _SHARES = ["car", "van", "truck", "bus"], [0.76, 0.08, 0.09, 0.07]


@dataclass(frozen=True)
class _Side:
    """One side of the road while it is being furnished."""

    rng: np.random.Generator
    setting: str
    """urban, suburb or rural."""
    start: float
    end: float
    """Stretch of s in metres."""
    out: int
    """Sign of d away from the road: 1 left, -1 right."""
    kerb: float
    """d of the kerb's outer edge."""

    def d(self, metres: float) -> float:
        """d of a point so many metres off the kerb, positive = away from the road."""
        return self.kerb + self.out * metres


def plan_road(rng: np.random.Generator, setting: str) -> Road:
    """A random cross section and curvature; the camera's path is d = 0, in the middle of the right lane."""
    lane, offset = rng.uniform(3.0, 3.7), rng.normal(0, 0.2)
    lanes = int(rng.choice([1, 2, 2, 3])) if setting != "rural" else int(rng.choice([1, 2]))
    parking = 2.3 if setting != "rural" else 0.4
    right, left = -lane / 2 - offset - parking, lane / 2 - offset + lane * (lanes - 1) + parking
    asphalt = ("asphalt", int(rng.integers(6)), ROAD, float(rng.uniform(0.85, 1.2)))
    outer = ("grass", int(rng.integers(4)), TERRAIN, float(rng.uniform(0.8, 1.15)))
    if setting == "rural":
        shoulder = ("gravel", int(rng.integers(3)), TERRAIN, 1.0)
        width = rng.uniform(0.4, 1.6)
        edges = (right - width, right, left, left + width)
        strips = (outer, shoulder, asphalt, shoulder, outer)
    else:
        kerb = ("paving", 0, SIDEWALK, float(rng.uniform(1.05, 1.3)))
        walk = ("paving", int(rng.integers(5)), SIDEWALK, float(rng.uniform(0.85, 1.1)))
        beyond = walk if setting == "urban" else outer
        breadth = rng.uniform(2.2, 4.5)
        edges = (right - 0.15 - breadth, right - 0.15, right, left, left + 0.15, left + 0.15 + breadth)
        strips = (beyond, walk, kerb, asphalt, kerb, walk, beyond)
    bright = float(rng.uniform(0.6, 1.0))
    lines = [(lane / 2 - offset + lane * i, 0.13, 3.0, 9.0, bright) for i in range(lanes - 1)]
    if setting == "rural" or rng.random() < 0.35:
        lines += [(right + parking - 0.1, 0.13, 1.0, 1.0, bright), (left - parking + 0.1, 0.13, 1.0, 1.0, bright)]
    start = rng.uniform(10, 40)
    crossing = (start, start + 3.5) if setting != "rural" and rng.random() < 0.3 else None
    bend = float(rng.normal(0, 0.0022)) if rng.random() < 0.6 else 0.0
    return Road(bend, edges, strips, tuple(lines), crossing, (right, left))


def furnish(
    rng: np.random.Generator, road: Road, setting: str, reach: tuple[float, float], driving: bool
) -> list[Thing]:
    """Everything beside and on the road between s = reach[0] and reach[1], without the anomalies.

    setting: urban, suburb or rural. driving: keep the own lane free of traffic.
    """
    things: list[Thing] = []
    density = rng.uniform(0.4, 1.2)
    for out, edge in ((1, road.sides[1]), (-1, road.sides[0])):
        side = _Side(rng, setting, *reach, out, edge + 0.3 * out)
        things += _houses(side) + _fences(side) + _greenery(side, density) + _poles(side) + _people(side)
        if setting != "rural" and rng.random() < 0.7:
            things += _parked(side)
    return things + _traffic(rng, road, reach, driving)


def scatter_anomalies(
    rng: np.random.Generator, road: Road, count: int, reach: tuple[float, float], driving: bool
) -> list[Thing]:
    """`count` things that do not belong there, standing on the carriageway between s = reach[0] and reach[1]."""
    things = []
    for i in range(count):
        name, texture, height = anomalous_object(rng)
        width = height * _aspect(texture)
        share = (i + rng.uniform(0.1, 0.9)) / count if driving else rng.uniform(0, 1) ** 1.5
        s = float(reach[0] + (reach[1] - reach[0]) * share)
        d = float(rng.uniform(max(road.sides[0] + 0.4, -3.2), min(road.sides[1] - 0.4, 4.0)))
        if driving:  # the vehicle passes beside it
            d = float(rng.choice([-1, 1])) * (1.15 + width / 2) + float(rng.normal(0, 0.15))
        tint = float(rng.uniform(0.8, 1.15))
        things.append(Thing("anomaly", name, s, d, width, height, IGNORE, texture, anomaly=True, tint=tint))
    return things


def _aspect(texture: Texture) -> float:
    return texture.pixels.shape[1] / texture.pixels.shape[0]


def _sprite(side: _Side, kind: str, s: float, metres: float, height: float, label: int, width: float = 0.0) -> Thing:
    rng = side.rng
    texture = street_texture(kind, int(rng.integers(VARIANTS[kind])))
    if rng.random() < 0.5:
        texture = texture.flipped
    tint = float(rng.uniform(0.85, 1.12))
    return Thing(kind, kind, s, side.d(metres), width or height * _aspect(texture), height, label, texture, tint=tint)


def _houses(side: _Side) -> list[Thing]:
    things: list[Thing] = []
    rng, urban = side.rng, side.setting == "urban"
    chance = {"urban": 0.97, "suburb": 0.7, "rural": 0.06}[side.setting]
    setback = {"urban": rng.uniform(2.2, 5), "suburb": rng.uniform(4, 11), "rural": 14.0}[side.setting]
    s = side.start + rng.uniform(-8, 2)
    while s < side.end:
        variant = int(rng.integers(VARIANTS["facade"]))
        length = 12 * rng.uniform(0.8, 1.35)
        height = len(street_texture("facade", variant).pixels) / 26 * rng.uniform(0.95, 1.15)
        if not urban and height > 12:
            height *= 0.6
        d, tint = side.d(setback + rng.uniform(0, 0.8)), float(rng.uniform(0.8, 1.15))
        if rng.random() < chance:
            house = Thing("facade", "building", s, d, length, height, BUILDING, variant=("facade", variant), tint=tint)
            things.append(house)
        s += length + (0.0 if urban and rng.random() < 0.8 else rng.uniform(3, 14))
    return things


def _fences(side: _Side) -> list[Thing]:
    rng = side.rng
    if side.setting == "urban" or rng.random() > 0.45:
        return []
    kind = str(rng.choice(["fence", "wall"]))
    texture, label = (_fence(rng), FENCE) if kind == "fence" else (_wall(rng), WALL)
    height = rng.uniform(0.9, 1.7)
    starts = [float(s) for s in np.arange(side.start, side.end, 6.0) if rng.random() < 0.85]
    return [Thing(kind, kind, s, side.d(2.4), 6.0, height, label, texture) for s in starts]


def _wall(rng: np.random.Generator) -> Texture:
    tile = ground_tile("paving", int(rng.integers(3)))[2][:48]
    return Texture(np.dstack([tile, np.full(tile.shape[:2], 255, np.uint8)]))


def _fence(rng: np.random.Generator) -> Texture:
    image = np.zeros((48, 192, 4), np.uint8)
    colour = (*(np.full(3, rng.uniform(40, 170)) + rng.normal(0, 8, 3)).clip(0, 255).astype(int), 255)
    step, thick = int(rng.choice([6, 8, 12])), int(rng.choice([2, 4, 5]))
    for x in range(0, 192, step):
        image[2:, x : x + thick] = colour
    image[4:8] = image[36:40] = colour
    return Texture(image)


def _greenery(side: _Side, density: float) -> list[Thing]:
    things: list[Thing] = []
    rng = side.rng
    step = {"urban": 13.0, "suburb": 9.0, "rural": 5.0}[side.setting] / density
    s = side.start + rng.uniform(0, step)
    while s < side.end:
        metres = {"urban": rng.uniform(0.7, 1.6), "suburb": rng.uniform(1, 9), "rural": rng.gamma(2.0, 5.0) + 2.5}
        if rng.random() < 0.72:
            things.append(_sprite(side, "tree", s, metres[side.setting], rng.uniform(4.5, 10), VEGETATION))
        elif side.setting != "urban":
            things.append(_sprite(side, "bush", s, metres[side.setting], rng.uniform(0.8, 2.4), VEGETATION))
        s += step * rng.uniform(0.4, 1.7)
    return things


def _poles(side: _Side) -> list[Thing]:
    things: list[Thing] = []
    rng = side.rng
    s = side.start + rng.uniform(5, 30)
    while s < side.end:
        metres, kind = rng.uniform(0.2, 0.8), rng.random()
        if kind < 0.45:  # a street lamp and its arm
            lamp = _sprite(side, "pole", s, metres, rng.uniform(5, 8), POLE, 0.14)
            arm = _sprite(side, "pole", s - 0.02, metres - 0.5, 0.14, POLE, 1.1)
            things += [lamp, dataclasses.replace(arm, lift=lamp.height - 0.1)]
        else:
            high = rng.uniform(2.2, 2.9)
            plate, label, size = ("sign", SIGN, rng.uniform(0.55, 0.8))
            if kind > 0.8:
                plate, label, size = "light", LIGHT, rng.uniform(0.8, 1.0)
            things.append(_sprite(side, "pole", s, metres, high + 0.3, POLE, 0.09))
            face = _sprite(side, plate, s - 0.03, metres, size, label)
            things.append(dataclasses.replace(face, lift=high - size * 0.2))
        s += rng.uniform(12, 45)
    return things


def _people(side: _Side) -> list[Thing]:
    things: list[Thing] = []
    rng = side.rng
    rate = {"urban": 0.09, "suburb": 0.04, "rural": 0.008}[side.setting] * rng.uniform(0.2, 1.8)
    for _ in range(int(rng.poisson(rate * (side.end - side.start)))):
        s = rng.uniform(max(side.start, 5.0), side.end)
        metres = -rng.uniform(0.3, 3.0) if rng.random() < 0.08 else rng.uniform(0.1, 2.0)
        person = _sprite(side, "person", s, metres, rng.normal(1.72, 0.09), PERSON)
        things.append(dataclasses.replace(person, speed=float(rng.choice([-1.1, 0.0, 1.2]))))
    if rng.random() < 0.25:
        s = rng.uniform(max(side.start, 9.0), side.end)
        rider = _sprite(side, "rider", s, -rng.uniform(0.7, 1.2), rng.uniform(1.7, 1.85), RIDER)
        things.append(dataclasses.replace(rider, speed=-4.0 * side.out))
    return things


def _vehicle(rng: np.random.Generator, kind: str, s: float, d: float, oncoming: bool, speed: float = 0.0) -> Thing:
    variant = (kind, int(rng.integers(VEHICLE_VARIANTS[kind])))
    car = vehicle(*variant)
    return Thing(
        "vehicle", kind, s, d, car.width, car.height, car.label, variant=variant, speed=speed, oncoming=oncoming
    )


def _parked(side: _Side) -> list[Thing]:
    things: list[Thing] = []
    rng = side.rng
    s, fill = side.start + rng.uniform(0, 12), rng.uniform(0.25, 0.9)
    while s < side.end:
        if rng.random() < fill:
            kind, turned = ("car" if rng.random() < 0.9 else "van"), bool(rng.random() < 0.1)
            things.append(_vehicle(rng, kind, s, side.d(-rng.uniform(1.25, 1.45)), (side.out > 0) != turned))
        s += rng.uniform(5.4, 7.2)
    return things


def _traffic(rng: np.random.Generator, road: Road, reach: tuple[float, float], driving: bool) -> list[Thing]:
    things = []
    if not driving and rng.random() < 0.5:
        kind = str(rng.choice(_VEHICLES, p=_SHARES))
        things.append(_vehicle(rng, kind, rng.uniform(14, 60), rng.uniform(-0.4, 0.4), False, 8.0))
    for _ in range(int(rng.integers(0, 4))):
        lane = road.sides[1] - (rng.uniform(3.6, 4.4) if road.sides[1] > 5.5 else 1.9)
        oncoming = _vehicle(rng, str(rng.choice(_VEHICLES, p=_SHARES)), rng.uniform(10, reach[1]), lane, True, -9.0)
        if lane > 2.4:  # on a road of one lane there is none
            things.append(oncoming)
    return things
