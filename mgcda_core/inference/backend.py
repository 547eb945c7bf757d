"""What runs the chain on one image: the interface every runtime implements, and the choice among them."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np

from mgcda_core.config import SegmenterConfig


class Backend(Protocol):
    """A loaded chain on a device.

    On the CPU several threads may `run` at a time: it only reads the weights and keeps nothing of an image, so nothing
    shared is written. On a GPU one thread at a time; callers see to it.
    """

    @property
    def name(self) -> str:
        """Runtime and weights, for logs: `torch lite`."""
        ...

    @property
    def device(self) -> str:
        """Where it runs, in words: `cpu`, `cuda:0 NVIDIA Orin`."""
        ...

    @property
    def config(self) -> SegmenterConfig:
        """The chain's configuration, threshold included."""
        ...

    @property
    def sha256(self) -> str:
        """Checksum of the weights file, lower-case hexadecimal."""
        ...

    def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """One image uint8 [H, W, 3] RGB, at least 2x2 -> (logits float32 [H, W], train ids uint8 [H, W] or None)."""
        ...


def open_backend(weights: str | Path, device: str = "auto") -> Backend:
    """Load `weights` (a shipped name, a path or a url) onto `device`: "auto", "cpu", "cuda" or "cuda:N".

    Raises ValueError or OSError that name the file and the remedy: unknown name, wrong checksum, missing or mis-shaped
    keys, no such device.
    """
    from mgcda_core.inference.torch_backend import TorchBackend
    from mgcda_core.weights.resolve import load_weights

    return TorchBackend(load_weights(weights), device)
