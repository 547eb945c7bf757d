"""One score on one labelled set under one protocol: figures, intervals, a row for each image, pictures.

One pass scores the images; what needs the threshold of the whole set reads the scores again from a temporary folder
(TMPDIR, 5 bytes a pixel), which is only made where something needs it. Under `torchrun` each process takes every N-th
image, and all return what one process would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mgcda_core.config import EvaluationSet, ScoreName
from mgcda_core.data.evaluation_sets import label_values, split_of
from mgcda_core.evaluation.bootstrap import Histogram, Interval, mean_interval, pooled_intervals
from mgcda_core.evaluation.gallery import picture, worth_showing
from mgcda_core.evaluation.pixel_metrics import Fpr95SecondPass, PixelScores
from mgcda_core.evaluation.processes import own_share, together
from mgcda_core.evaluation.protocols import Judging, mean_over_images
from mgcda_core.evaluation.results import ComponentScores, Curves, ImageRow, Picture, Result, SegmentationScores
from mgcda_core.evaluation.scored import Method, ScoredSet, Scratch, in_order, open_method
from mgcda_core.evaluation.smiyc_files import method_name, score_file, write_scores
from mgcda_core.evaluation.tally import MaskTally, Measured, PixelTally, measure

Progress = Callable[[int, int], None]
FIGURES = ("ap", "fpr95", "auroc")


@dataclass(frozen=True)
class _Pooled:
    """What the first pass over all images gives."""

    scores: PixelScores
    rows: dict[int, ImageRow]
    intervals: dict[str, Interval | None]
    curves: Curves | None
    threshold: float
    threshold_source: str
    second_pass: Fpr95SecondPass | None


@dataclass(frozen=True)
class _Masked:
    """What the masks at the threshold give, and the exact FPR95 of a second pass."""

    rows: tuple[ImageRow, ...]
    components: ComponentScores | None
    segmentation: SegmentationScores | None
    fpr95: float | None


def evaluate_set(
    chosen: EvaluationSet,
    weights: str | Path,
    score: ScoreName = "model",
    judging: Judging | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> tuple[Result, list[Picture]]:
    """`judge` with the scorer of some weights."""
    return judge(chosen, open_method(weights, score, device), judging or Judging(), progress)


def judge(
    chosen: EvaluationSet, method: Method, judging: Judging, progress: Progress | None = None
) -> tuple[Result, list[Picture]]:
    """Score every image of a set, and judge the scores.

    `progress(done, total)` is called after each image of this process. Sets of up to 80 M pixels are measured exactly,
    larger ones in 2^20 buckets with a bound (spec 5.2). Raises ValueError or OSError naming the file at fault,
    ConfigError for a set that is described wrongly.
    """
    started = time.perf_counter()
    scored = ScoredSet(chosen, method.scorer, judging.rules.size)
    share = own_share(len(scored.data))
    threshold, source = _known_threshold(judging, method)

    def masks_at(value: float) -> MaskTally:
        return MaskTally(value, judging.track(chosen), classes=scored.semantics is not None)

    with _scratch(threshold is None or judging.second_pass or judging.gallery > 0) as scratch:
        masks = masks_at(math.inf if threshold is None else threshold)
        tally = PixelTally(method.scorer.mode, judging.exact)
        keep = masks.add if scratch is None else scratch.save
        for done, measured in enumerate(in_order(_work(chosen, method, judging, scored), share, method.scorer), 1):
            tally.add(measured)
            keep(measured.image)
            if progress is not None:
                progress(done, len(share))
        pooled = together(tally, lambda parts: _pool(parts, judging, threshold, source))
        if scratch is not None:
            masks = masks_at(pooled.threshold)
            for image in map(scratch.load, share):
                masks.add(image)
                if pooled.second_pass is not None:
                    pooled.second_pass.update(image.score, image.label)
        masked = together((masks, pooled.second_pass), lambda parts: _mask(parts, pooled, judging))
        pictures: list[Picture] = []
        if scratch is not None and judging.gallery:
            pictures = together(_pictures(scored, scratch, share, masked.rows, judging.gallery), _in_turn)
    seconds = time.perf_counter() - started
    return _result(chosen, method, judging, scored, pooled, masked, seconds), pictures


def _known_threshold(judging: Judging, method: Method) -> tuple[float | None, str]:
    """The operating point, None if the scores have to be seen first, and where it comes from."""
    if judging.threshold is not None:
        return method.in_units(judging.threshold), "as given"
    if judging.rules.best_f1 or method.scorer.threshold is None:
        return None, "best pixel F1 of the set"
    return method.scorer.threshold, "the weights' own"


@contextmanager
def _scratch(needed: bool) -> Iterator[Scratch | None]:
    if not needed:
        yield None
        return
    with TemporaryDirectory(prefix="mgcda-eval-") as folder:
        yield Scratch(Path(folder))


def _work(chosen: EvaluationSet, method: Method, judging: Judging, scored: ScoredSet) -> Callable[[int], Measured]:
    """What the worker threads do with the number of an image."""

    def work(index: int) -> Measured:
        image, path = scored[index], scored.path(index)
        if judging.scores is not None:
            name = method_name(method.weights, method.score)
            write_scores(image.score, score_file(judging.scores, name, chosen, path, image.name))
        try:
            return measure(image, method.scorer.mode, judging.convention)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    return work


def _pool(parts: list[PixelTally], judging: Judging, threshold: float | None, source: str) -> _Pooled:
    whole = parts[0]
    for part in parts[1:]:
        whole.merge(part)
    scores = whole.compute(judging.convention)
    nothing = scores["reason"] is not None
    if threshold is None:
        threshold = math.inf if nothing else whole.metrics.best_f1_threshold()
        source = "none: nothing to choose it by" if nothing else source
    second_pass = None
    if judging.second_pass and whole.kept is None and not nothing:
        second_pass = whole.metrics.fpr95_second_pass()
    rows = {number: whole.rows[number] for number in sorted(whole.rows)}
    histograms = [whole.histograms[number] for number in rows]
    curves = None if nothing else whole.metrics.curves()
    return _Pooled(scores, rows, _intervals(list(rows.values()), histograms, judging), curves, threshold, source,
                   second_pass)  # fmt: skip


def _intervals(rows: list[ImageRow], histograms: list[Histogram], judging: Judging) -> dict[str, Interval | None]:
    if not judging.bootstrap:
        return dict.fromkeys(FIGURES)
    if judging.rules.per_image:
        return {name: mean_interval([getattr(row, name) for row in rows], judging.bootstrap) for name in FIGURES}
    return pooled_intervals(histograms, judging.bootstrap, judging.convention)


def _mask(parts: list[tuple[MaskTally, Fpr95SecondPass | None]], pooled: _Pooled, judging: Judging) -> _Masked:
    masks, fpr95 = parts[0]
    for other, others_fpr95 in parts[1:]:
        masks.merge(other)
        if fpr95 is not None and others_fpr95 is not None:
            fpr95.merge(others_fpr95)
    exact = None if fpr95 is None else fpr95.compute(judging.convention)
    return _Masked(masks.rows(pooled.rows), *masks.compute(), exact)


def _pictures(
    scored: ScoredSet, scratch: Scratch, share: range, rows: tuple[ImageRow, ...], most: int
) -> list[tuple[int, Picture]]:
    shown = set(worth_showing(rows, most)) & set(share)
    return [(n, picture(scored.data.read_image(n), scratch.load(n), rows[n])) for n in shown]


def _in_turn(parts: list[list[tuple[int, Picture]]]) -> list[Picture]:
    return [made for _, made in sorted((item for part in parts for item in part), key=lambda item: item[0])]


def _figures(
    pooled: _Pooled, masked: _Masked, judging: Judging
) -> tuple[dict[str, float | None], str | None, tuple[float, float], int]:
    """Figures, why they are None, bounds of AP and FPR95, images left out."""
    scores = pooled.scores
    if judging.rules.per_image:
        figures, left_out = mean_over_images(masked.rows)
        reason = "no image has both normal and anomalous pixels" if figures["ap"] is None else None
        return figures, reason, (0.0, 0.0), left_out
    figures: dict[str, float | None] = {k: None if scores["reason"] else scores[k] for k in FIGURES}
    if masked.fpr95 is None:
        return figures, scores["reason"], (scores["ap_bound"], scores["fpr95_bound"]), 0
    return {**figures, "fpr95": masked.fpr95}, None, (scores["ap_bound"], 0.0), 0


def _result(
    chosen: EvaluationSet, method: Method, judging: Judging, scored: ScoredSet, pooled: _Pooled, masked: _Masked,
    seconds: float,
) -> Result:  # fmt: skip
    scores = pooled.scores
    figures, reason, bounds, left_out = _figures(pooled, masked, judging)
    return Result(
        set=chosen.name,
        dataset=chosen.dataset,
        split=split_of(chosen),
        protocol=judging.protocol,
        fpr95_convention=judging.convention,
        label_values=label_values(scored.data),
        weights=method.weights,
        weights_sha256=method.sha256,
        score=method.score,
        images=len(scored.data),
        pixels=scores["pixels"],
        anomaly_fraction=scores["positives"] / max(scores["pixels"], 1),
        ap=figures["ap"],
        fpr95=figures["fpr95"],
        auroc=figures["auroc"],
        reason=reason,
        ap_interval=pooled.intervals["ap"],
        fpr95_interval=pooled.intervals["fpr95"],
        auroc_interval=pooled.intervals["auroc"],
        ap_bound=bounds[0],
        fpr95_bound=bounds[1],
        threshold=pooled.threshold,
        components=masked.components,
        segmentation=masked.segmentation,
        seconds=seconds,
        rows=masked.rows,
        curves=pooled.curves,
        threshold_source=pooled.threshold_source,
        left_out=left_out,
    )  # fmt: skip
