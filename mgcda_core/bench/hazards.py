"""How well hazards are placed, and how honestly they say so, on drawn drives whose things stand at known places.

`python -m mgcda_core.bench.hazards docs/hazards.png` prints the figures of docs/hazards.md and draws its picture. The
masks are exact: what is measured is the geometry, and what a wrong pitch does to it.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgcda_core.data.rendered import DEMO_SEED_BASE, RenderedCamera, RenderedObject, RenderedScene, drive
from mgcda_core.hazards.ground_plane import Camera, Uncertainty
from mgcda_core.hazards.lens import Lens
from mgcda_core.hazards.mount import Mount
from mgcda_core.hazards.regions import Hazard, to_hazards
from mgcda_core.hazards.tracks import Tracker
from mgcda_core.prediction import Prediction, Region

BINS_M = (5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0)
PIXEL_STD = 0.5
"""Of an exact mask: the place within a pixel where an edge runs is not known."""
PITCH_STD = math.radians(1.0)
DRAWS = 20
"""Wrong pitches a frame is placed with."""
SEED, SIZE = DEMO_SEED_BASE + 700, (480, 960)


@dataclass(frozen=True)
class Placed:
    """A thing and the hazard that was made of it."""

    thing: RenderedObject
    hazard: Hazard

    @property
    def distance_m(self) -> float:
        """Where the thing stands."""
        return math.hypot(self.thing.x, self.thing.y)

    @property
    def error_m(self) -> float:
        """Distance of the hazard minus that of the thing."""
        return self.hazard.distance_m - self.distance_m


def camera_of(view: RenderedCamera, pitch_error_rad: float = 0.0) -> Camera:
    """The camera of a drawn scene, with a pitch that is wrong by so much."""
    mount = Mount.from_angles(view.height_m, pitch_rad=view.pitch_rad + pitch_error_rad)
    return Camera(Lens(view.fx, view.fy, view.cx, view.cy), mount)


def exact(scene: RenderedScene) -> Prediction:
    """The prediction of a network that makes no mistake."""
    return Prediction(np.where(scene.anomaly, np.float32(9.0), np.float32(-9.0)))


def whole_things(scene: RenderedScene) -> list[tuple[RenderedObject, Region]]:
    """The anomalies that nothing hides, neither the border nor another thing, each with its region of the mask."""
    found, regions = [], exact(scene).regions(min_area=20)
    for thing in scene.objects:
        for region in regions if thing.anomaly and thing.visible > 0.98 and thing.x > 0 else ():
            box = np.array((region.x - 0.5, region.y - 0.5, region.width, region.height))
            cut = box[0] < 1 or box[0] + box[2] > scene.anomaly.shape[1] - 2 or box[1] + box[3] > len(scene.anomaly) - 2
            if not cut and np.abs(box - thing.box).max() < 2.5:
                found.append((thing, region))
    return found


def place(scene: RenderedScene, pitch_errors_rad: np.ndarray, stated: Uncertainty) -> Iterator[Placed]:
    """The scene's things placed by its own camera, once with each pitch error [N]; those it loses are left out."""
    things = {region: thing for thing, region in whole_things(scene)}
    for error in pitch_errors_rad:
        for hazard in to_hazards(things, camera_of(scene.camera, float(error)), uncertainty=stated):
            yield Placed(things[hazard.region], hazard)


@dataclass(frozen=True)
class Followed:
    """How the things of a drive were tracked."""

    things: int
    sightings: int
    """Frames times things up to 40 m ahead that are whole: two in one region of the mask are one to a tracker."""
    missed: int
    """Sightings without a confirmed track within 0.5 m and a tenth of the distance."""
    switches: int
    """Sightings whose track has another id than at the sighting before."""
    velocity_errors: np.ndarray
    """float64 [N] m/s, forward, of tracks older than a second."""


def follow(scenes: Iterable[RenderedScene], speed_mps: float, rate_hz: float) -> Followed:
    """Track the things of a drive at this speed through exact masks, and compare with where they stand."""
    tracker, ids = Tracker(), dict[tuple[str, float], int]()
    sightings = missed = switches = 0
    errors: list[float] = []
    for number, scene in enumerate(scenes):
        hazards = to_hazards(exact(scene).regions(min_area=20), camera_of(scene.camera))
        tracks = [track for track in tracker.update(hazards, number / rate_hz) if track.confirmed]
        for thing, _ in whole_things(scene):
            if thing.x > BINS_M[-1]:
                continue
            sightings += 1
            gaps = [math.dist(track.hazard.position, (thing.x, thing.y, 0.0)) for track in tracks]
            if min(gaps, default=math.inf) > 0.5 + 0.1 * thing.x:
                missed += 1
                continue
            track, key = tracks[int(np.argmin(gaps))], (thing.name, thing.width_m)
            switches += ids.get(key, track.id) != track.id
            ids[key] = track.id
            if track.age_s > 1:
                errors.append(track.velocity[0] + speed_mps)
    return Followed(len(ids), sightings, missed, switches, np.array(errors))


def table(exactly: list[Placed], wrongly: list[Placed]) -> str:
    """Markdown: errors at the exact pitch, and with wrong ones beside what was stated, over the distance."""
    lines = [
        "| distance | things | error, median | 90 % | pitch off by N(0, 1°): error, median | stated std | within it |",
        "|---|---|---|---|---|---|---|",
    ]
    for low, high in (*itertools.pairwise(BINS_M), (BINS_M[0], BINS_M[-1])):
        right, wrong = ([p for p in all_ if low <= p.distance_m < high] for all_ in (exactly, wrongly))
        if not right:
            continue
        error, off = _relative(right), _relative(wrong)
        stated = np.array([p.hazard.distance_std_m / p.distance_m for p in wrong])
        within = np.mean([abs(p.error_m) <= p.hazard.distance_std_m for p in wrong])
        lines.append(
            f"| {low:g} to {high:g} m | {len(right)} | {100 * np.median(error):.2f} % | "
            f"{100 * np.percentile(error, 90):.2f} % | {100 * np.median(off):.0f} % | "
            f"{100 * np.median(stated):.0f} % | {100 * within:.0f} % |"
        )
    return "\n".join(lines)


def draw(path: Path, exactly: list[Placed], wrongly: list[Placed]) -> None:
    """Write a PNG: error of the distance over the distance, with what is stated as a band; above exact, below wrong."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 6.4), dpi=110, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    distances = np.linspace(4.0, 41.0, 75)
    for axes, placed, stated, title in (
        (upper, exactly, Uncertainty(0.0, PIXEL_STD, 0.0), "exact pitch"),
        (
            lower,
            wrongly,
            Uncertainty(PITCH_STD, PIXEL_STD, 0.0),
            "pitch off by N(0, 1 degree), drawn 20 times a frame",
        ),
    ):
        camera = Camera(Lens.from_field_of_view(SIZE, math.radians(62)), Mount.from_angles(1.45))
        feet = np.c_[distances, np.zeros((len(distances), 2))]
        band = 100 * np.sqrt(camera.road_covariances(camera.project(feet), stated)[:, 0, 0]) / distances
        axes.fill_between(distances, -band, band, color="tab:blue", alpha=0.2, linewidth=0, label="stated: 1 std")
        axes.plot([p.distance_m for p in placed], [100 * p.error_m / p.distance_m for p in placed], ".",
                  color="tab:red", markersize=3, alpha=0.5, label="measured")  # fmt: skip
        axes.axhline(0, color="0.3", linewidth=0.8)
        limit = 1.3 * float(band[distances < BINS_M[-1]].max()) + 1
        axes.set(
            ylabel="error of the distance, %", ylim=(-limit, 1.6 * limit if axes is lower else limit), xlim=(4, 41)
        )
        axes.set_title(title, fontsize=10)
        axes.grid(color="0.9")
    upper.legend(loc="upper left")
    lower.set(xlabel="distance of the thing, m")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _relative(placed: list[Placed]) -> np.ndarray:
    return np.array([abs(p.error_m) / p.distance_m for p in placed])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m mgcda_core.bench.hazards", description=__doc__)
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--drives", type=int, default=12, help="streets to drive along, 30 frames each")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    exactly: list[Placed] = []
    wrongly: list[Placed] = []
    for seed in range(SEED, SEED + options.drives):
        for scene in drive(seed, 30, SIZE, rate_hz=5.0, anomalies=8):
            exactly += place(scene, np.zeros(1), Uncertainty(0.0, PIXEL_STD, 0.0))
            wrongly += place(scene, rng.normal(0, PITCH_STD, DRAWS), Uncertainty(PITCH_STD, PIXEL_STD, 0.0))
    print(table(exactly, wrongly))
    for seed in range(SEED, SEED + options.drives // 3):
        found = follow(drive(seed, 90, SIZE, speed_mps=8.0, rate_hz=15.0, anomalies=5), 8.0, 15.0)
        print(
            f"tracks, street {seed}: {found.things} things, {found.sightings} sightings, {found.missed} missed, "
            f"{found.switches} id switches, velocity error median {np.median(np.abs(found.velocity_errors)):.2f} m/s, "
            f"90 % {np.percentile(np.abs(found.velocity_errors), 90):.2f} m/s"
        )
    few = rng.permutation(len(wrongly))[: 3 * len(exactly)]
    draw(options.picture, exactly, [wrongly[i] for i in few])


if __name__ == "__main__":
    main()
