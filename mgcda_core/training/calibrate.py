"""`mgcda calibrate`: a threshold for a wanted false positive rate on road, chosen on held-out composites.

The composites are those of `mgcda prepare --split val`, or drawn scenes; never a set the project is measured on. The
whole chain runs on each at its size, through the same predictor as `mgcda predict`.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mgcda_core.config import CalibrationConfig, ConfigError, PrepareConfig
from mgcda_core.data.augment import Window, photometric
from mgcda_core.data.rendered import render_scene
from mgcda_core.evaluation.calibration import (
    OperatingPoint,
    Reliability,
    Scaling,
    ThresholdSearch,
    fit_scaling,
    reliability,
)
from mgcda_core.evaluation.pixel_metrics import PixelMetrics
from mgcda_core.inference.predictor import Predictor, load
from mgcda_core.labels import NORMAL
from mgcda_core.training.domains import Domain, picked
from mgcda_core.training.scenes import rendered_scenes
from mgcda_core.weights.resolve import load_weights, save_weights

ROAD = 0
"""Train id of road."""
CURVE = 40
"""Bins of equal width in the diagram: where a score is rare too."""


@dataclass(frozen=True)
class HeldOutImage:
    """One composite and where its road is."""

    image: np.ndarray
    """uint8 [H, W, 3] RGB."""
    label: np.ndarray
    """uint8 [H, W] in {0, 1, 255}."""
    road: np.ndarray
    """bool [H, W]: road by the scene's labels, nothing pasted on it."""
    scene: str


class PastedImages:
    """The composites of a domain's val split, with their road."""

    def __init__(self, config: CalibrationConfig) -> None:
        shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(PrepareConfig) if hasattr(config, f.name)}
        self.domain = Domain(PrepareConfig(**shared, split="val"))
        scenes = Counter(self.domain.sets[which].name for which, _, _ in self.domain.kinds)
        self.described = ", ".join(f"{name} {count}" for name, count in scenes.items())
        if config.domain == "anomaly_mix":
            self.described += f", {len(self.domain.objects)} objects"

    def __len__(self) -> int:
        return len(self.domain)

    def __getitem__(self, number: int) -> HeldOutImage:
        made = self.domain[number]
        which, index, _ = self.domain.kinds[number // self.domain.config.copies]
        scenes = self.domain.sets[which]
        window = Window(**made.provenance["window"])
        road = window.cut(scenes.train_id_table()[:, ROAD][scenes[index].label]).astype(np.uint8)
        for paste in made.provenance.get("pastes", ()):
            if paste["label"] == NORMAL:  # a known object: its outline is not kept, and no road is sure in its box
                top, left, height, width = paste["box"]
                road[top : top + height, left : left + width] = 0
        height, width = made.label.shape
        road = cv2.resize(road, (width, height), interpolation=cv2.INTER_NEAREST_EXACT) > 0
        return HeldOutImage(made.image, made.label, road & (made.label == NORMAL), made.provenance["scene"])


class DrawnImages:
    """Drawn scenes of the val seeds with 0 to 3 drawn anomalies: no data set is needed."""

    def __init__(self, config: CalibrationConfig) -> None:
        self.config = config
        seeds = rendered_scenes(config.data, "val").seeds
        self.seeds = [seeds[number] for number in picked(len(seeds), config.limit)]
        self.described = f"{len(self.seeds)} drawn scenes, seeds from {self.seeds[0]}"

    def __len__(self) -> int:
        return len(self.seeds) * self.config.copies

    def __getitem__(self, number: int) -> HeldOutImage:
        seed = self.seeds[number // self.config.copies]
        scene = render_scene(seed, self.config.augment.size)
        image = photometric(scene.image, self.config.augment, np.random.default_rng((self.config.seed, number)))
        return HeldOutImage(image, scene.anomaly, scene.labels == ROAD, f"rendered/{seed}")


@dataclass(frozen=True)
class Calibration:
    """All that `mgcda calibrate` reports."""

    point: OperatingPoint
    metrics: PixelMetrics
    """Of all counted pixels, mode "logits"."""
    former_road_fpr: float
    """Road false positive rate at the threshold the weights had."""
    raw: Reliability
    """Of the score as it is, on all images."""
    scaling: Scaling | None
    """Fitted on the scenes of even number; None where that half does not allow it."""
    before: Reliability | None
    after: Reliability | None
    """Of the scenes of odd number, without and with the scaling."""
    raw_curve: Reliability
    after_curve: Reliability | None
    """`raw` and `after` in `CURVE` bins of equal width, for the diagram."""


def calibrate(config: CalibrationConfig, out: Path) -> Path:
    """Write the weights with their new threshold to `out`, a file that is not there yet; returns it.

    Raises ConfigError if `out` exists, DataError if the composites hold no road or the score is saturated.
    """
    if out.exists():
        raise ConfigError(f"{out} exists: calibrate writes a new file, give another --out")
    if config.plot:
        importlib.import_module("matplotlib")  # if it is missing, that is better known before the long part
    started = time.monotonic()
    predictor = load(config.weights, config.device, backend="torch")
    images = DrawnImages(config) if config.domain == "drawn" else PastedImages(config)
    found = measure(config, predictor, images)
    height, width = config.augment.size
    facts = {
        **dataclasses.asdict(found.point),
        "data": f"{config.domain} val at {height}x{width}, seed {config.seed}: {images.described}",
        "source_sha256": predictor.backend.sha256,
    }
    _write(config.weights, facts, out)
    for line in report(found, facts["data"], predictor.config.threshold):
        print(line)
    _extras(config, found, facts, time.monotonic() - started)
    return out


def measure(config: CalibrationConfig, predictor: Predictor, images: PastedImages | DrawnImages) -> Calibration:
    """Run the chain over all images and judge its score."""
    search, halves = ThresholdSearch(), (PixelMetrics("logits"), PixelMetrics("logits"))
    started, total = time.monotonic(), len(images)
    for number, made in enumerate(_ahead(images)):
        prediction = predictor(made.image)
        search.update(made.scene, prediction.score, made.label, made.road)
        halves[number // config.copies % 2].update(prediction.logits, made.label)
        if (done := number + 1) % 20 == 0 or done == total:
            left = (time.monotonic() - started) / done * (total - done)
            print(f"calibrate: {done} of {total} images, {left:.0f} s left", flush=True)
    point = search.choose(config.fpr, seed=config.seed)
    fitted, held = halves
    scaling = fit_scaling(fitted) if held.counts.any() else None
    before, after, after_curve = (
        reliability(held, config.bins, config.equal),
        reliability(held, config.bins, config.equal, scaling),
        reliability(held, CURVE, "width", scaling),
    ) if scaling else (None, None, None)  # fmt: skip
    fitted.merge(held)
    raw, raw_curve = reliability(fitted, config.bins, config.equal), reliability(fitted, CURVE, "width")
    former = search.road_fpr(predictor.threshold)
    return Calibration(point, fitted, former, raw, scaling, before, after, raw_curve, after_curve)


def report(found: Calibration, data: str, former: float) -> list[str]:
    """The result in lines, rates in percent."""
    point, pixels = found.point, found.metrics.compute()
    lines = [
        f"composites: {point.images} images of {point.scenes} scenes, {point.road_pixels} road pixels ({data})",
        f"threshold: {point.threshold:.4f}{_interval(point.threshold_interval, 1)} for {_percent(point.fpr_wanted)} of "
        f"the road; the weights had {former:.4f}, which masks {_percent(found.former_road_fpr)}",
        f"road false positive rate: {_percent(point.road_fpr)}{_interval(point.road_fpr_interval, 100)}",
        f"recall: pixels {_percent(point.pixel_recall)}, objects {_percent(point.object_recall)} of {point.objects}",
        f"ranking: AP {_percent(pixels['ap'])}, FPR95 {_percent(pixels['fpr95'])}" if not pixels["reason"] else
        f"ranking: none, {pixels['reason']}",
        f"calibration: ECE {_percent(found.raw.ece)} over {len(found.raw.pixels)} bins",
    ]  # fmt: skip
    if found.scaling and found.before and found.after:
        before, after = _percent(found.before.ece), _percent(found.after.ece)
        lines.append(
            f"scaled: ECE {before} -> {after} on the half of the scenes it was not fitted on, "
            f"temperature {found.scaling.temperature:.3f}, bias {found.scaling.bias:.3f} (the score stays as it is)"
        )
    else:
        lines.append("scaled: not fitted, it takes normal and anomalous pixels in either half of the scenes")
    return lines + [f"note: {note}" for note in point.notes()]


def _ahead(images: PastedImages | DrawnImages) -> Iterator[HeldOutImage]:
    """The images in order, a few of them composed while the chain runs."""
    workers = max(1, (os.cpu_count() or 1) - 1)
    waiting: deque[Future[HeldOutImage]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for number in range(len(images)):
            waiting.append(pool.submit(images.__getitem__, number))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _write(weights: str, facts: dict[str, Any], out: Path) -> None:
    """The same tensors with the threshold in their configuration, and how it was chosen in the metadata."""
    loaded = load_weights(weights)
    config = dataclasses.replace(loaded.config, threshold=facts["threshold"])
    # load_weights gives float32 whatever is stored: as float16 if that loses nothing, so that the file does not grow.
    floating = [value for value in loaded.state.values() if value.is_floating_point()]
    half = all(torch.equal(value.half().float(), value) for value in floating)
    metadata = {**loaded.metadata, "calibration": json.dumps(facts, sort_keys=True)}
    save_weights(out, loaded.state, config, loaded.name, metadata, half=half)


def _extras(config: CalibrationConfig, found: Calibration, facts: dict[str, Any], seconds: float) -> None:
    """The JSON file and the diagram, if they are wanted."""
    if config.json:
        curves = {k: dataclasses.asdict(v) for k, v in vars(found).items() if isinstance(v, Reliability | Scaling)}
        pixels = {k: None if v != v else v for k, v in found.metrics.compute().items()}  # NaN is no JSON
        text = json.dumps({**facts, "notes": found.point.notes(), "former_road_fpr": found.former_road_fpr,
                           "pixels": pixels, **curves, "seconds": seconds}, indent=1)  # fmt: skip
        path = Path(config.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.write_text(text + "\n")
        part.replace(path)
    if config.plot:
        from mgcda_core.evaluation.calibration_plot import draw_reliability

        after = (found.after, found.after_curve) if found.after and found.after_curve else None
        title = f"{config.weights}: {facts['data']}"
        draw_reliability(Path(config.plot), title, (found.raw, found.raw_curve), after, found.point)


def _percent(rate: float | None) -> str:
    return "n/a" if rate is None else f"{100 * rate:.3g} %"


def _interval(interval: tuple[float, float] | None, factor: float) -> str:
    return "" if interval is None else f" [{factor * interval[0]:.4g}, {factor * interval[1]:.4g}]"
