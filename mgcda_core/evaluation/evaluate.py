"""`mgcda eval`: the chain, or a baseline of its segmentation network, on a labelled folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mgcda_core.data.folder import LabelledFolder
from mgcda_core.evaluation.pixel_metrics import PixelMetrics
from mgcda_core.inference.predictor import check_image

ScoreName = Literal["model", "msp", "maxlogit", "entropy", "energy"]
Scorer = Callable[[np.ndarray], np.ndarray]
_IN_UNIT_RANGE = ("msp", "entropy")


@dataclass(frozen=True)
class Report:
    """Pooled metrics of one score on one set, as fractions; the fields are the keys of the JSON file."""

    dataset: str
    images: int
    pixels: int
    """Counted pixels, those with label 0 or 1."""
    anomaly_fraction: float
    ap: float | None
    fpr95: float | None
    auroc: float | None
    """None where the set has no positives or no negatives."""
    weights_sha256: str
    score: str
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def line(self) -> str:
        """One line in percent, the convention named."""
        percent = {name: "n/a" if v is None else f"{100 * v:.2f}" for name, v in self.metrics().items()}
        return (
            f"{self.dataset}: score={self.score} images={self.images} AP={percent['ap']} FPR95={percent['fpr95']} "
            f"AUROC={percent['auroc']} (percent, pooled over {self.pixels} pixels, {100 * self.anomaly_fraction:.2f} % "
            f"anomalous; FPR at the first recall >= 95 %) in {self.seconds:.1f} s"
        )

    def metrics(self) -> dict[str, float | None]:
        """ap, fpr95, auroc."""
        return {"ap": self.ap, "fpr95": self.fpr95, "auroc": self.auroc}


def evaluate(
    images: str | Path,
    masks: str | Path,
    weights: str | Path = "lite",
    score: ScoreName = "model",
    anomaly_values: tuple[int, ...] = (1,),
    ignore_values: tuple[int, ...] = (255,),
    normal_values: tuple[int, ...] = (0,),
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Score every image at its own resolution and pool all pixels (spec 5.1, in the bounded memory of 5.2).

    `score` is "model" (the whole chain) or a baseline of its segmentation network, whose logits are resized
    bilinearly to the image first. `progress(done, total)` is called after each image. Raises ValueError or OSError
    naming the file at fault.
    """
    started = time.perf_counter()
    data = LabelledFolder(images, masks, anomaly_values, ignore_values, normal_values)
    scorer, sha256 = open_scorer(weights, score, device)
    metrics = PixelMetrics("unit" if score in _IN_UNIT_RANGE else "logits")
    # The next files are decoded while the network runs: on two cores the decoding is free.
    with ThreadPoolExecutor(max_workers=1) as reader:
        ahead = reader.submit(data.__getitem__, 0)
        for number, (path, _) in enumerate(data.pairs):
            sample = ahead.result()
            if number + 1 < len(data):
                ahead = reader.submit(data.__getitem__, number + 1)
            try:
                check_image(sample.image)
                metrics.update(scorer(sample.image), sample.label)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            if progress is not None:
                progress(number + 1, len(data))
    result = metrics.compute()
    nothing = result["reason"] is not None
    return Report(
        dataset="folder",
        images=len(data),
        pixels=result["pixels"],
        anomaly_fraction=result["positives"] / max(result["pixels"], 1),
        ap=None if nothing else result["ap"],
        fpr95=None if nothing else result["fpr95"],
        auroc=None if nothing else result["auroc"],
        weights_sha256=sha256,
        score=score,
        seconds=time.perf_counter() - started,
    )


def open_scorer(weights: str | Path, score: ScoreName, device: str = "auto") -> tuple[Scorer, str]:
    """Function uint8 [H, W, 3] RGB -> float32 [H, W], higher = more anomalous, and the sha256 of its weights."""
    from mgcda_core.inference.predictor import load
    from mgcda_core.inference.torch_backend import TorchBackend

    predictor = load(weights, device)
    if score == "model":
        return lambda image: predictor(image).logits, predictor.backend.sha256
    from mgcda_core.methods.baselines import BASELINES, score_at_size

    backend = predictor.backend
    if not isinstance(backend, TorchBackend):
        raise ValueError(f"score {score} needs the segmentation network's logits, which {backend.name} does not give")
    baseline = BASELINES[score]

    def scorer(image: np.ndarray) -> np.ndarray:
        logits = backend.segmentation_logits(image)
        return score_at_size(logits, (image.shape[0], image.shape[1]), baseline)[0].cpu().numpy()

    return scorer, backend.sha256
