"""Images of a labelled set with their scores: made once by a network, read again from a temporary folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np

from mgcda_core.config import ConfigError, EvaluationSet, ScoreName
from mgcda_core.data.evaluation_sets import Semantics, open_set
from mgcda_core.evaluation.processes import own_device
from mgcda_core.evaluation.protocols import label_at, score_at
from mgcda_core.evaluation.scorers import Scorer, open_scorer, to_logit
from mgcda_core.inference.pipeline import MOST_AT_A_TIME, in_flight
from mgcda_core.inference.predictor import check_image

Made = TypeVar("Made")


@dataclass(frozen=True)
class Method:
    """A scorer and what it was made from."""

    weights: str
    score: ScoreName
    scorer: Scorer
    sha256: str

    def in_units(self, threshold: float) -> float:
        """An operating point as users give it, in the units of the scores.

        Of `model` they know the score in [0, 1]; it is judged by its logit, which does not run out of digits near 1.
        """
        if self.score != "model":
            return threshold
        if not 0.0 <= threshold <= 1.0:
            raise ConfigError(f"threshold is {threshold}; that of score model must lie in [0, 1]")
        return to_logit(threshold)


def open_method(weights: str | Path, score: ScoreName, device: str = "auto", sml_images: Path | None = None) -> Method:
    """The scorer of some weights, on the device of this process; raises as `open_scorer`."""
    return Method(str(weights), score, *open_scorer(weights, score, own_device(device), sml_images))


@dataclass(frozen=True)
class ScoredImage:
    """One image's score and label, at the size at which the protocol judges them."""

    index: int
    """Its number in the set."""
    name: str
    score: np.ndarray
    """float32 [H, W]."""
    label: np.ndarray
    """uint8 [H, W]: 0, 1, 255."""
    predicted: np.ndarray | None = None
    """uint8 [H, W] train ids that the segmentation gives; of sets with class labels only, like the next."""
    semantics: np.ndarray | None = None
    """uint8 [H, W] true train ids, 255 void."""


class ScoredSet:
    """One set under one scorer: indexed, it reads and scores an image. Several threads may at a time.

    Raises as `open_set` and `Semantics`; when indexed, ValueError or OSError naming the file at fault.
    """

    def __init__(self, chosen: EvaluationSet, scorer: Scorer, size: tuple[int, int] | None = None) -> None:
        self.data = open_set(chosen)
        self.semantics = Semantics(chosen.semantics, self.data) if chosen.semantics else None
        self.scorer, self.size = scorer, size
        self._turn: AbstractContextManager[object] = nullcontext() if scorer.parallel else Lock()

    def __getitem__(self, index: int) -> ScoredImage:
        sample, path = self.data[index], self.path(index)
        truth = None if self.semantics is None else label_at(self.semantics.read(index, sample.image), self.size)
        try:
            check_image(sample.image)
            with self._turn:
                score = self.scorer(sample.image)
                predicted = None if truth is None else label_at(self.scorer.segmentation(sample.image), self.size)
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{path}: {error}") from error
        return ScoredImage(
            index, sample.stem, score_at(score, self.size), label_at(sample.label, self.size), predicted, truth
        )

    def path(self, index: int) -> Path:
        """Image file of a number."""
        return self.data.pairs[index][0]


class Scratch:
    """Scored images kept in a folder between two passes, 5 bytes a pixel."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, image: ScoredImage) -> None:
        """Keep one image."""
        arrays = {"score": image.score, "label": image.label, "predicted": image.predicted,
                  "semantics": image.semantics}  # fmt: skip
        given = {name: array for name, array in arrays.items() if array is not None}
        np.savez(self._folder / f"{image.index}.npz", name=np.array(image.name), **given)

    def load(self, index: int) -> ScoredImage:
        """The image of that number."""
        with np.load(self._folder / f"{index}.npz", allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if name != "name"}
            return ScoredImage(index, str(file["name"]), **arrays)


def in_order(work: Callable[[int], Made], numbers: range, scorer: Scorer) -> Iterator[Made]:
    """work(number) of each number in order; beside a GPU a second thread reads while the first one computes."""
    threads = min(MOST_AT_A_TIME, os.cpu_count() or 1) if scorer.parallel else 2
    return in_flight(work, numbers, threads, scorer.prepare_thread)
