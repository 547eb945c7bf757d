"""Images in, predictions out: the facade that commands, the ROS node and users call."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from mgcda_core.config import ConfigError, SegmenterConfig
from mgcda_core.inference.artefact import enlarge
from mgcda_core.inference.backend import Backend, open_backend
from mgcda_core.inference.encodings import MIN_SIDE
from mgcda_core.labels import IGNORE
from mgcda_core.prediction import UNSEEN_LOGIT, Prediction

Scale = Literal["input", "network"]
MOST_CROPPED = 0.8
"""Largest `crop_top`."""
_USUAL = (720, 1280)


class Predictor:
    """Callable uint8 [H, W, 3] RGB -> `Prediction`; several threads at a time on the CPU, one on a GPU (see `Backend`).

    `threshold` in [0, 1] is the score from which a pixel is masked; None takes the weights' own. It may be set at any
    time and holds from the next image on. So may `crop_top` in [0, 0.8]: the share of the height, from the top, that
    the backend does not get to see. There the answer is a score of 0 (1e-35) and class 255.

    `size` (height, width), if it is set, is what every image is resized to first: for a chain that was exported for
    one size, or for speed. `scale` says how large the answer is: as the image ("input"), or as the network works
    ("network"): `size`, else the segmentation's working size.
    """

    size: tuple[int, int] | None = None
    scale: Scale = "input"

    def __init__(self, backend: Backend, threshold: float | None = None, crop_top: float = 0.0) -> None:
        self.backend = backend
        self.threshold = backend.config.threshold if threshold is None else threshold
        self.crop_top = crop_top

    @property
    def threshold(self) -> float:
        """Score in [0, 1] at and above which a pixel belongs to the mask."""
        return self._threshold

    @threshold.setter
    def threshold(self, value: float) -> None:
        if not 0.0 <= value <= 1.0:
            raise ConfigError(f"threshold is {value}; it must lie in [0, 1]")
        self._threshold = float(value)

    @property
    def crop_top(self) -> float:
        """Share of the image's height, from the top, that is not looked at; in [0, 0.8]."""
        return self._crop_top

    @crop_top.setter
    def crop_top(self, value: float) -> None:
        if not 0.0 <= value <= MOST_CROPPED:
            raise ConfigError(f"crop_top is {value}; it must lie in [0, {MOST_CROPPED}]")
        self._crop_top = float(value)

    @property
    def config(self) -> SegmenterConfig:
        """The chain's configuration."""
        return self.backend.config

    def __call__(self, image: np.ndarray) -> Prediction:
        """Predict one image uint8 [H, W, 3] RGB of any size from 2x2 on.

        Raises ValueError for another dtype, shape or a smaller frame, RuntimeError if the network's output is not
        finite.
        """
        return self.batch([image])[0]

    def batch(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """Predict images of one size, each uint8 [H, W, 3] RGB, in one run of the backend.

        Raises as `__call__`, and ValueError for images of several sizes, none, or more than `backend.max_batch`.
        """
        if not 1 <= len(images) <= self.backend.max_batch:
            raise ValueError(f"{len(images)} images at a time; {self.backend.name} takes 1 to {self.backend.max_batch}")
        for image in images:
            check_image(image)
        shape = images[0].shape
        if any(image.shape != shape for image in images):
            raise ValueError("the images of a batch differ in size")
        size = self._frame_size((shape[0], shape[1]))
        frames = [image if image.shape[:2] == size else _resized(image, size) for image in images]
        top = self._cropped(size[0])
        started = time.perf_counter()
        try:
            logits, segmentation = self._run([frame[top:] for frame in frames])
        except ValueError as error:
            raise ValueError(f"below crop_top {self.crop_top} of {size[0]} rows: {error}" if top else error) from error
        timings = {"inference": 1000.0 * (time.perf_counter() - started)}
        self._check_finite(logits)
        answer = (shape[0], shape[1]) if self.scale == "input" else size
        return [
            self._prediction(logits[index], None if segmentation is None else segmentation[index], top, answer, timings)
            for index in range(len(images))
        ]

    def seen_size(self, image: tuple[int, int]) -> tuple[int, int]:
        """Height and width of what the backend gets of an image of size `image`; `size`, `scale`, `crop_top` count."""
        height, width = self._frame_size(image)
        return height - self._cropped(height), width

    def _cropped(self, height: int) -> int:
        return min(round(self.crop_top * height), height - MIN_SIDE)

    def _frame_size(self, image: tuple[int, int]) -> tuple[int, int]:
        """Height and width at which the backend sees images of size `image`."""
        return self.size or (self.config.segmentation.size if self.scale == "network" else image)

    def _run(self, frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray | None]:
        if len(frames) > 1:
            return self.backend.run_batch(np.stack(frames))
        logits, segmentation = self.backend.run(frames[0])
        return logits[None], None if segmentation is None else segmentation[None]

    def _prediction(
        self,
        logits: np.ndarray,
        segmentation: np.ndarray | None,
        top: int,
        size: tuple[int, int],
        timings: dict[str, float],
    ) -> Prediction:
        whole = top + logits.shape[0]
        top = min(round(top * size[0] / whole), size[0] - 1)
        seen = (size[0] - top, size[1])
        if logits.shape != seen:  # before the rows above are filled: seen and unseen must not mix
            logits = cv2.resize(logits, seen[::-1], interpolation=cv2.INTER_LINEAR)
            segmentation = None if segmentation is None else enlarge(segmentation[None], seen)[0]
        if top:
            logits = _padded(logits, top, UNSEEN_LOGIT)
            segmentation = None if segmentation is None else _padded(segmentation, top, IGNORE)
        return Prediction(logits, self.threshold, segmentation, timings)

    def warm_up(self) -> None:
        """Run an empty frame of 720x1280, or the size nearest to it that the backend takes.

        The first frame of a size is slow (what compiles and records does it then), and a network that cannot run fails
        here, not on the road.
        """
        size = self.size or np.clip(_USUAL, self.backend.min_size, self.backend.max_size)
        self._check_finite(self.backend.run(np.zeros((*size, 3), np.uint8))[0])

    def _check_finite(self, logits: np.ndarray) -> None:
        # NaN compares false with every threshold: without this check a broken network would report a clear road.
        if not np.isfinite(logits).all():
            raise RuntimeError(f"{self.backend.name} gave logits that are not finite: the weights are damaged")


def load(
    name: str | Path = "lite",
    device: str = "auto",
    threshold: float | None = None,
    backend: str = "auto",
    crop_top: float = 0.0,
    precision: str = "auto",
) -> Predictor:
    """Predictor from a shipped name, a .safetensors path, an https url or an exported chain (.onnx, .engine).

    `device` is "auto", "cpu", "cuda" or "cuda:N"; `backend` one of `inference.backend.CHOICES`; `crop_top` in [0, 0.8]
    the share of each image, from the top, that is not looked at; `precision` one of `PRECISIONS`. Raises
    ValueError or OSError naming the file and the remedy.
    """
    return Predictor(open_backend(name, device, backend, precision=precision), threshold, crop_top)


def _padded(values: np.ndarray, top: int, fill: float) -> np.ndarray:
    """[h, W] with `top` more rows of `fill` above."""
    return np.pad(values, ((top, 0), (0, 0)), constant_values=fill)


def _resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`image` at `size` (height, width); averaged over areas where it shrinks."""
    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def check_image(image: np.ndarray) -> None:
    """Raises ValueError unless `image` is a uint8 [H, W, 3] array of at least 2x2 pixels."""
    expected = f"expected uint8 [H, W, 3] RGB of at least {MIN_SIDE}x{MIN_SIDE} pixels"
    if not isinstance(image, np.ndarray):
        raise ValueError(f"image is a {type(image).__name__}; {expected}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {list(image.shape)}; {expected}")
    if min(image.shape[:2]) < MIN_SIDE:
        raise ValueError(f"image is {image.shape[0]}x{image.shape[1]} pixels (height x width); {expected}")
