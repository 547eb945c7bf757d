"""`mgcda bench parts`: what each map of the frozen networks says of the anomalies by itself, on caches of `prepare`.

Caches that differ in their weights, or in what the networks were told (`PrepareConfig.truth`), show where the loss is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from mgcda_core.config import PRIORS
from mgcda_core.evaluation.pixel_metrics import PixelMetrics, PixelScores
from mgcda_core.labels import NORMAL
from mgcda_core.training.cache import CachedDomain, Manifest

RGB = "RGB"
"""The mean absolute difference of image and re-synthesis, judged beside the maps of the prior."""


@dataclass(frozen=True)
class Parts:
    """The figures of one cache."""

    cache: str
    truth: str
    """What the frozen networks were told, or "-"."""
    samples: int
    anomalous: float
    """Share of the counted pixels; the AP of a map that knows nothing."""
    fidelity: float
    """Mean absolute difference of image and re-synthesis on normal pixels, grey levels of 255."""
    scores: dict[str, PixelScores]
    """Of each map of the cache's prior and of `RGB`, pooled over all samples."""


def bench_parts(caches: str, md: Path | None = None) -> None:
    """AP and FPR95 of each map of the frozen networks by itself, and the fidelity of the re-synthesis.

    Args:
        caches: comma list of folders of mgcda prepare.
        md: file for the tables, in Markdown.

    Raises StaleCacheError for a folder without a whole cache, ValueError for one without anomalous or normal pixels.
    """
    text = "\n".join(tables([parts(Path(cache)) for cache in caches.split(",")])) + "\n"
    print(text, end="")
    if md is not None:
        md.parent.mkdir(parents=True, exist_ok=True)
        md.write_text(text)


def parts(cache: Path) -> Parts:
    """The figures of one cache, over all its samples; ignored pixels do not count. Raises as `bench_parts`."""
    manifest = Manifest.read(cache)
    domain = CachedDomain(cache, manifest.weights_sha256 if manifest else "")
    names = (*PRIORS[: len(domain[0]["prior"])], RGB)
    metrics = {name: PixelMetrics("unit") for name in names}
    total, normal = 0.0, 0
    for index in range(len(domain)):
        maps = domain[index]
        label, difference = maps["label"].numpy(), rgb_difference(maps["image"], maps["synthesis"], maps["label"])
        for name, score in zip(names, (*maps["prior"].float().numpy(), difference), strict=True):
            metrics[name].update(score, label)
        total += 255 * float(difference[label == NORMAL].sum())
        normal += int((label == NORMAL).sum())
    scores = {name: metric.compute() for name, metric in metrics.items()}
    if reason := scores[RGB]["reason"]:
        raise ValueError(f"{cache}: there is nothing to compare, {reason}")
    share = scores[RGB]["positives"] / scores[RGB]["pixels"]
    told = " + ".join(domain.manifest.config.get("truth", ())) or "-"
    return Parts(cache.name, told, len(domain), share, total / normal, scores)


def rgb_difference(image: Tensor, synthesis: Tensor, label: Tensor) -> np.ndarray:
    """Mean absolute difference of the channels, float32 [h, w] in [0, 1], of pictures averaged to the label's size.

    Args: image, synthesis uint8 [3, d h, d w]; label [h, w].
    """
    detail = image.shape[-1] // label.shape[-1]
    small, painted = (F.avg_pool2d(picture.float() / 255, detail) for picture in (image, synthesis))
    return (small - painted).abs().mean(0).numpy()


def tables(rows: Sequence[Parts]) -> Iterator[str]:
    """Lines of two Markdown tables in percent: a row for each cache and map, then one for each cache."""
    yield "| cache | told | map | AP | FPR95 |"
    yield "|---|---|---|---|---|"
    for row in rows:
        for name, score in row.scores.items():
            yield f"| {row.cache} | {row.truth} | {name} | {100 * score['ap']:.2f} | {100 * score['fpr95']:.2f} |"
    yield from ("", "| cache | samples | anomalous pixels | L1 on normal pixels, of 255 |", "|---|---|---|---|")
    for row in rows:
        yield f"| {row.cache} | {row.samples} | {row.anomalous:.2%} | {row.fidelity:.2f} |"
