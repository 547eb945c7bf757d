"""`mgcda bench video`: what an option for video saves and what it costs, on drawn drives with their truth.

Each setting sees every frame, all in one process and in turns, so that whatever else the machine does meets all alike:
the ratios hold where the times do not.
"""

from __future__ import annotations

import json as json_format
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean, median
from typing import Any, cast

import numpy as np

from mgcda_core.config import ConfigError
from mgcda_core.config.evaluation import whole_numbers
from mgcda_core.data.rendered import RenderedCamera, RenderedScene, drive
from mgcda_core.data.rendered_bag import CAMERA_HEIGHT, DEMO_SEED, HORIZONTAL_FOV
from mgcda_core.evaluation.bag.flicker import Flicker
from mgcda_core.evaluation.pixel_metrics import PixelMetrics
from mgcda_core.inference.backend import open_backend
from mgcda_core.inference.predictor import Predictor
from mgcda_core.inference.temporal import SECONDS, Kind, TemporalFilter
from mgcda_core.prediction import Prediction

Chain = Callable[[np.ndarray, float], Prediction]
"""(image uint8 [H, W, 3] RGB, stamp in seconds) -> prediction, of one camera in order."""
SEEDS = f"{DEMO_SEED},{DEMO_SEED + 1},{DEMO_SEED + 2}"


@dataclass(frozen=True)
class Setting:
    """How the chain runs over a video; the defaults are the chain as it is."""

    synthesis_every: int = 1
    crop_top: float = 0.0
    temporal: Kind = "none"
    temporal_seconds: float = SECONDS

    @property
    def name(self) -> str:
        """The options that are not at their default, with their values."""
        changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
        return ", ".join(f"{name} {getattr(self, name)}" for name in changed) or "as it is"

    def open(self, weights: str, device: str, backend: str) -> Chain:
        """A chain that has seen no frame yet; raises as `predictor.load`."""
        predictor = self._predictor(weights, device, backend)
        steady = TemporalFilter(self.temporal, self.temporal_seconds)
        return lambda image, stamp_s: steady(predictor(image), image, stamp_s)

    def _predictor(self, weights: str, device: str, backend: str) -> Predictor:
        if self.synthesis_every == 1:
            return Predictor(open_backend(weights, device, backend), crop_top=self.crop_top)
        if backend != "torch":
            raise ConfigError(f"synthesis_every is an option of backend torch, {backend} does not have it")
        from mgcda_core.inference.torch_backend import TorchBackend
        from mgcda_core.weights.resolve import load_weights

        chain = TorchBackend(load_weights(weights), device, synthesis_every=self.synthesis_every)
        return Predictor(chain, crop_top=self.crop_top)


@dataclass
class Driven:
    """What a setting made of the frames so far."""

    metrics: PixelMetrics = field(default_factory=PixelMetrics)
    flicker: Flicker = field(default_factory=Flicker)
    seconds: list[float] = field(default_factory=list)
    cpu_seconds: list[float] = field(default_factory=list)
    """Of all cores together, which other programs disturb least."""
    temporal_shares: list[float] = field(default_factory=list)
    """Own time of the temporal filter over that of the network, of each frame."""

    def add(self, chain: Chain, scene: RenderedScene, stamp_s: float) -> None:
        """Predict one frame and judge it."""
        started, cpu = time.perf_counter(), time.process_time()
        prediction = chain(scene.image, stamp_s)
        self.cpu_seconds.append(time.process_time() - cpu)
        self.seconds.append(time.perf_counter() - started)
        spent = prediction.timings_ms
        self.temporal_shares.append(spent.get("temporal", 0.0) / spent["inference"])
        self.metrics.update(prediction.logits, scene.anomaly)
        self.flicker.add(scene.image, prediction.mask)

    def merge(self, other: Driven) -> None:
        """Add another drive of the same setting."""
        self.metrics.merge(other.metrics)
        self.flicker.merge(other.flicker)
        self.seconds += other.seconds
        self.cpu_seconds += other.cpu_seconds
        self.temporal_shares += other.temporal_shares

    def figures(self) -> dict[str, float | None]:
        """AP, FPR95 and flicker as fractions, pooled over the pixels of all frames; mean milliseconds a frame.

        flicker is None if nothing was masked. temporal_share: the temporal filter's median share of the network's time.
        """
        scores = self.metrics.compute()
        return {"ap": scores["ap"], "fpr95": scores["fpr95"], "flicker": self.flicker.value,
                "ms": 1000 * fmean(self.seconds), "cpu_ms": 1000 * fmean(self.cpu_seconds),
                "temporal_share": median(self.temporal_shares)}  # fmt: skip


def bench_video(
    weights: str = "lite",
    synthesis_every: str = "1",
    crop_top: str = "0",
    temporal: str = "none",
    temporal_seconds: str = f"{SECONDS}",
    seeds: str = SEEDS,
    frames: int = 60,
    rate_hz: float = 10.0,
    speed_mps: float = 8.0,
    anomalies: int = 5,
    size: tuple[int, int] = (480, 960),
    backend: str = "torch",
    device: str = "auto",
    json: Path | None = None,
) -> None:
    """Measure options for video one at a time against the chain as it is: AP, FPR95 and time on drawn drives.

    Args:
        weights: a shipped name, a .safetensors path, an https url or, with another backend, an exported chain.
        synthesis_every: comma list of k: the re-synthesis of a frame serves the next k - 1 too; of backend torch.
        crop_top: comma list of shares of the height, from the top, that are not looked at; in [0, 0.8].
        temporal: comma list of filters over the frames: none, ema, vote (see mgcda eval-bag).
        temporal_seconds: comma list of their time constants in seconds.
        seeds: comma list of the streets; at or above 1000000, no training set holds them.
        frames: frames of each drive.
        rate_hz: frames a second.
        speed_mps: speed of the drawn vehicle in metres a second.
        anomalies: how many things stand on each drawn road.
        size: height and width of the frames in pixels; the camera is level, the horizon at half the height.
        backend: runtime; mgcda doctor lists them.
        device: auto, cpu, cuda or cuda:N.
        json: file for the figures, those of each drive too.
    """
    if frames < 1 or not rate_hz > 0 or anomalies < 1:
        raise ConfigError(f"frames is {frames}, rate_hz {rate_hz}, anomalies {anomalies}: each must be positive")
    settings = [Setting()]
    settings += [Setting(synthesis_every=k) for k in whole_numbers(synthesis_every, "--synthesis_every")]
    settings += [Setting(crop_top=share) for share in _numbers(crop_top, "--crop_top")]
    settings += [
        Setting(temporal=cast("Kind", kind), temporal_seconds=seconds)
        for kind in temporal.split(",")
        for seconds in _numbers(temporal_seconds, "--temporal_seconds")
        if kind != "none"
    ]
    settings = list(dict.fromkeys(settings))
    streets = whole_numbers(seeds, "--seeds")
    if not streets:
        raise ConfigError("--seeds is empty: give the seed of one street at least")
    result = {
        "weights": weights, "backend": backend, "device": device, "seeds": streets, "frames": frames,
        "rate_hz": rate_hz, "speed_mps": speed_mps, "anomalies": anomalies, "size": size, "settings": [],
    }  # fmt: skip
    drives = []
    for seed in streets:
        chains = [setting.open(weights, device, backend) for setting in settings]
        scenes = drive(seed, frames, size, speed_mps=speed_mps, rate_hz=rate_hz, anomalies=anomalies,
                       camera=level_camera(size))  # fmt: skip
        drives.append(run(chains, scenes, rate_hz))
    result["settings"] = [figures(*pair) for pair in zip(settings, zip(*drives, strict=True), strict=True)]
    print(*table(result), sep="\n")
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_format.dumps(result, indent=1) + "\n")


def level_camera(size: tuple[int, int]) -> RenderedCamera:
    """The demo's camera for frames of `size` (height, width)."""
    height, width = size
    focal = width / 2 / math.tan(HORIZONTAL_FOV / 2)
    return RenderedCamera(focal, focal, (width - 1) / 2, (height - 1) / 2, CAMERA_HEIGHT, 0.0)


def run(chains: Sequence[Chain], scenes: Iterable[RenderedScene], rate_hz: float) -> list[Driven]:
    """Every chain over the frames of one drive, in turns."""
    driven = [Driven() for _ in chains]
    for number, scene in enumerate(scenes):
        for turn in range(len(chains)):
            k = (number + turn) % len(chains)
            driven[k].add(chains[k], scene, number / rate_hz)
    return driven


def figures(setting: Setting, drives: Sequence[Driven]) -> dict[str, Any]:
    """A setting's figures over all drives, and of each under `drives`."""
    every = Driven()
    for driven in drives:
        every.merge(driven)
    return {"setting": setting.name, **every.figures(), "drives": [driven.figures() for driven in drives]}


def table(result: dict[str, Any]) -> Iterator[str]:
    """The figures for people, in percent; shares are of the first setting's CPU time."""
    height, width = result["size"]
    yield f"{result['weights']}, backend {result['backend']}, device {result['device']}"
    yield (f"{len(result['seeds'])} drives of {result['frames']} frames of {height}x{width} at "
           f"{result['rate_hz']:g} frames/s and {result['speed_mps']:g} m/s")  # fmt: skip
    yield f"{'setting':<36}{'AP':>7}{'FPR95':>8}{'flicker':>9}{'ms':>8}{'CPU ms':>8}{'share':>8}  AP of each drive"
    for row in result["settings"]:
        share = row["cpu_ms"] / result["settings"][0]["cpu_ms"]
        each = " ".join(f"{100 * driven['ap']:.2f}" for driven in row["drives"])
        flicker = "n/a" if row["flicker"] is None else f"{100 * row['flicker']:.2f}"
        yield (f"{row['setting']:<36}{100 * row['ap']:7.2f}{100 * row['fpr95']:8.2f}{flicker:>9}{row['ms']:8.1f}"
               f"{row['cpu_ms']:8.1f}{share:8.1%}  {each}")  # fmt: skip
        if row["temporal_share"]:
            yield f"{'':<36}the filter takes {row['temporal_share']:.1%} of the network's time"


def _numbers(text: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{flag} is {text}: give numbers with commas between them") from None
