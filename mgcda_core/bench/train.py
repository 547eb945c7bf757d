"""`mgcda bench train`: where the time of a training step goes, and what MDAT and CACL add to it.

The steps are the training loop's own, with the objective, loader and optimisers of a training; calls are wrapped from
outside. Three kinds of steps alternate, so that whatever else the machine does meets all of them alike: the baseline
(cross entropy alone), the whole method, and the whole method with its sections timed.
"""

from __future__ import annotations

import json as json_format
import resource
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from mgcda_core.config import (
    PROFILES,
    CaclConfig,
    ConfigError,
    DissimilarityConfig,
    DissimilarityTraining,
    LoopConfig,
    MdatConfig,
)
from mgcda_core.labels import ANOMALY, IGNORE
from mgcda_core.models.dissimilarity import DissimilarityNet
from mgcda_core.training.cache import CachedDomain, Manifest, shard_path, write_shard
from mgcda_core.training.dissimilarity import DissimilarityObjective
from mgcda_core.training.domain_samples import DomainSamples
from mgcda_core.training.loop import Training, batches
from mgcda_core.training.processes import open_fabric
from mgcda_core.training.run import is_first_process

SECTIONS = ("forward", "MDAT", "CACL", "backward", "D", "optimiser", "other")
"""The network's forward pass; the domain classifiers' on both sides of their game; sampling, projector and contrast;
the backward pass of the total loss, that of MDAT and CACL included; the classifiers' own backward pass and step; the
step of network and projector; cross entropy, gradient norm, moving average and the rest."""
CLASSIFIERS = {"lite": MdatConfig(width=0.25, stride=2), "reference": MdatConfig()}
WARM_UP = 2
MADE_SAMPLES = 16
"""Samples of a made-up cache, one shard."""


@dataclass(frozen=True)
class Measured:
    """Medians over the steps of one run, in milliseconds a step unless named otherwise."""

    head: str
    """What was measured."""
    images_per_s: float
    """Of the whole method, over all processes, waiting for data included."""
    step: float
    sections: dict[str, float]
    """`SECTIONS`."""
    waited: float
    """For the batch, which `workers` processes load ahead."""
    data_share: float
    """Waiting, as a share of the whole time."""
    loading: float
    """What loading a batch costs one process."""
    baseline: float
    """The step without MDAT and CACL."""
    cost: float
    """What the whole method takes longer than the baseline, as a share of that."""
    gmac: float
    """Giga multiply-accumulates of the network's forward pass an image, counted."""
    peak_mb: float
    """Most memory before the baseline was made: the process's (resident set), or on a GPU what PyTorch took of it."""

    def table(self) -> str:
        """What to print."""
        total = sum(self.sections.values())
        rows = [f"  {name:<10}{ms:9.1f} ms {ms / total:6.1%}" for name, ms in self.sections.items()]
        return "\n".join((
            self.head,
            f"step        {self.step:9.1f} ms  {self.images_per_s:.2f} images/s, peak {self.peak_mb:.0f} MB, network "
            f"{self.gmac:.1f} GMAC an image (forward)",
            *rows,
            f"data        {self.waited:9.1f} ms waited, {self.data_share:.1%} of the time; {1 - self.data_share:.1%} "
            f"in compute (one process loads a batch in {self.loading:.1f} ms)",
            f"baseline    {self.baseline:9.1f} ms  MDAT and CACL cost {self.cost:+.1%} of it",
        ))  # fmt: skip


def bench_train(
    profile: Literal["lite", "reference"] = "lite",
    size: tuple[int, int] | None = None,
    crop: tuple[int, int] | None = None,
    batch: int = 8,
    steps: int = 10,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Literal["32-true", "bf16-mixed"] = "bf16-mixed",
    workers: int = 1,
    void_class: Path | None = None,
    anomaly_mix: Path | None = None,
    json: Path | None = None,
) -> None:
    """Measure the steps of `train dissimilarity`: speed, memory, share of each part, the cost of MDAT and CACL.

    Args:
        profile: network and classifiers: lite (narrow and strided ones) or reference (the published sizes).
        size: height and width of the cached maps; without it the profile's own.
        crop: height and width of the windows trained on; without it the whole maps.
        batch: images a step, half of each domain.
        steps: measured steps of each of the three kinds.
        device: auto takes the GPU if there is one.
        precision: of the forward and backward pass.
        workers: processes that load data.
        void_class: cache of domain V, its maps of `size`; without caches made-up ones are written for the run.
        anomaly_mix: cache of domain A.
        json: file for the figures.
    """
    if (void_class is None) != (anomaly_mix is None):
        raise ConfigError("give void_class and anomaly_mix, or neither for made-up caches")
    if steps < 1:
        raise ConfigError(f"steps is {steps}: measure at least one")
    network = replace(PROFILES[profile].dissimilarity, size=size or PROFILES[profile].dissimilarity.size)
    loop = LoopConfig(WARM_UP + 3 * steps, batch, 1e-4, weight_decay=0.0, warmup=0, workers=workers,
                      precision=precision, device=device)  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        v, a = (path or write_made_cache(Path(folder) / name, network.size, network.detail)
                for path, name in ((void_class, "V"), (anomaly_mix, "A")))  # fmt: skip
        config = DissimilarityTraining("", str(v), str(a), (), network, crop=crop, class_weights=(1.5330, 8.8239),
                                       mdat=CLASSIFIERS[profile], cacl=CaclConfig(), loop=loop)  # fmt: skip
        measured = measure(config, profile)
    if not is_first_process():
        return
    print(measured.table())
    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(json_format.dumps(asdict(measured), indent=1) + "\n")


def measure(config: DissimilarityTraining, name: str) -> Measured:
    """Run config.loop.steps steps: WARM_UP of the whole method, then the three kinds in turn."""
    assert config.dissimilarity is not None
    fabric = open_fabric(config.loop, multiple=2)
    caches = [Path(str(path)) for path in (config.void_class, config.anomaly_mix)]
    samples = DomainSamples([_opened(c) for c in caches], config.crop, config.flip, config.loop.seed)
    loading = _loading_ms(samples, config.loop.batch // fabric.world_size)
    clock, whole = Clock(fabric.device), _training(config, fabric)
    clock.watch(whole)
    times: dict[str, list[float]] = defaultdict(list)
    waiting, peak, baseline = clock.now(), 0.0, whole
    for step, (_, batch) in enumerate(batches(samples, config.loop, 0, fabric)):
        started = clock.now()
        kind = "warm-up" if step < WARM_UP else ("baseline", "whole", "sections")[(step - WARM_UP) % 3]
        clock.begin(kind == "sections")
        if step == WARM_UP:
            peak, baseline = _peak_mb(fabric.device), _training(replace(config, mdat=None, cacl=None), fabric)
            started = waiting = clock.now()
        _step(baseline if kind == "baseline" else whole, step, batch)
        times[f"{kind} waited"].append(started - waiting)
        waiting = clock.now()
        times[kind].append(waiting - started)
        if clock.on:
            clock.spent[-1]["other"] = times[kind][-1] - sum(clock.spent[-1].values())
    waits = [w for kind in ("baseline", "whole", "sections") for w in times[f"{kind} waited"]]
    middle = {kind: median(values) for kind, values in times.items()}
    sections = {name: 1000 * median(spent[name] for spent in clock.spent) for name in SECTIONS}
    height, width = config.crop or config.dissimilarity.size
    loop = config.loop
    return Measured(
        head=f"{name} {height}x{width}, {loop.batch} images a step, {fabric.world_size} x {fabric.device.type}, "
        f"{loop.precision}, {loop.workers} loading, median of {len(times['whole'])} steps",
        images_per_s=loop.batch / (middle["whole"] + median(waits)),
        step=1000 * middle["whole"],
        sections=sections,
        waited=1000 * median(waits),
        data_share=sum(waits) / (sum(waits) + sum(sum(times[k]) for k in ("baseline", "whole", "sections"))),
        loading=loading,
        baseline=1000 * middle["baseline"],
        cost=middle["whole"] / middle["baseline"] - 1,
        gmac=network_gmac(config.dissimilarity, (height, width)),
        peak_mb=peak,
    )


class Clock:
    """Seconds spent in the sections of a step, noted while it is on."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.on = device, False
        self.spent: list[dict[str, float]] = []
        """Of each step `begin` was called for."""

    def begin(self, on: bool) -> None:
        """A step begins; is it one to note?"""
        self.on = on
        if on:
            self.spent.append(dict.fromkeys(SECTIONS, 0.0))

    def now(self) -> float:
        """Seconds, once the GPU has done its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def watch(self, training: Training) -> None:
        """Wrap the calls a step is made of."""
        objective, optimizers = training.objective, training.optimizers
        assert isinstance(objective, DissimilarityObjective)
        for owner, method, name in ((objective.network, "pyramid", "forward"), (objective.adversary, "forward", "MDAT"),
                                    (objective.assistant, "forward", "CACL"), (training, "backward", "backward"),
                                    (optimizers[0], "step", "optimiser"), (optimizers[1], "step", "D")):  # fmt: skip
            setattr(owner, method, self._timed(name, getattr(owner, method)))

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if not self.on:
                return function(*args)
            started = self.now()
            result = function(*args)
            spent = self.spent[-1]
            # The loop's second backward pass is the classifiers'.
            spent["D" if name == "backward" and spent[name] else name] += self.now() - started
            return result

        return call


def network_gmac(config: DissimilarityConfig, size: tuple[int, int]) -> float:
    """Giga multiply-accumulates of one sample with maps of (height, width) in the network's forward pass.

    Counted on a small sample and taken in proportion to the area.
    """
    network, side = DissimilarityNet(config).eval(), 32
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(*zero_inputs(network, side))
    return counter.get_total_flops() / 2e9 * size[0] * size[1] / side**2


def zero_inputs(network: DissimilarityNet, side: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """One sample of zeros with square maps, as `DissimilarityNet.forward` takes it."""
    image = torch.zeros(1, 3, network.config.detail * side, network.config.detail * side)
    semantic = network.semantics(torch.zeros(1, side, side, dtype=torch.uint8))
    return image, image, semantic, torch.zeros(1, network.config.maps, side, side)


def write_made_cache(cache: Path, size: tuple[int, int], detail: int = 1, seed: int = 0) -> Path:
    """A cache in the real format, one shard of noise with an anomalous and an ignored box; returns its folder."""
    rng = torch.Generator().manual_seed(seed)
    (height, width), n = size, MADE_SAMPLES

    def drawn(high: int, *channels: int, detail: int = 1) -> Tensor:
        shape = (n, *channels, detail * height, detail * width)
        return torch.randint(high, shape, generator=rng, dtype=torch.uint8)

    label = torch.zeros(n, height, width, dtype=torch.uint8)
    label[:, : height // 8] = IGNORE
    for row in range(height // 4, height, height // 4):  # every window of a quarter of the height meets one
        label[:, row : row + height // 12] = ANOMALY
    maps = {"image": drawn(256, 3, detail=detail), "synthesis": drawn(256, 3, detail=detail), "semantic": drawn(19),
            "prior": drawn(256, 3).half() / 255, "label": label}  # fmt: skip
    Manifest({"copies": 1, "shard": n}, "made up", "made up", n, 1).write(cache)
    write_shard(shard_path(cache, 0), maps, [{"scene": f"made up {k}"} for k in range(n)])
    return cache


def _opened(cache: Path) -> CachedDomain:
    """A cache of whatever weights: their outputs are only looked at."""
    manifest = Manifest.read(cache)
    return CachedDomain(cache, manifest.weights_sha256 if manifest else "")


def _training(config: DissimilarityTraining, fabric: Fabric) -> Training:
    assert config.dissimilarity is not None and config.class_weights is not None
    torch.manual_seed(config.loop.seed)
    network = DissimilarityNet(config.dissimilarity)
    return Training(DissimilarityObjective(network, torch.tensor(config.class_weights), config), config.loop, fabric)


def _step(training: Training, step: int, batch: list[Tensor]) -> None:
    training.set_lr(step)
    training.objective.step = step
    losses = training.losses(batch)
    losses["loss"].item()  # the loop looks at it too
    training.update(losses)


def _loading_ms(samples: DomainSamples, count: int) -> float:
    times = []
    for first in range(0, 5 * count, count):
        started = time.perf_counter()
        default_collate([samples[n] for n in range(first, first + count)])
        times.append(time.perf_counter() - started)
    return 1000 * median(times)


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
