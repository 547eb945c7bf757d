"""Exported chains: where they lie, which frames they take, and what their runtimes have in common."""

from __future__ import annotations

import dataclasses
import glob
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mgcda_core.config import SegmenterConfig
from mgcda_core.inference.sidecar import ArtefactError, Dimension, Sidecar, read_sidecar
from mgcda_core.weights import resolve

log = logging.getLogger(__name__)

LOGITS, SEGMENTATION = "logits", "segmentation"
"""Names of the graph's outputs: float32 [B, H, W] and uint8 train ids [B, h, w]."""
MOST_SHAPES = 4
"""Batch shapes whose buffers and CUDA graph a GPU runtime keeps: several cameras take turns, alone and together."""


@dataclass(frozen=True)
class Chain:
    """An exported chain and what its sidecar, which fits it, says."""

    path: Path
    sidecar: Sidecar


class ExportedBackend(ABC):
    """What the runtimes of exported chains have in common; each implements `inference.backend.Backend`.

    A subclass sets `runtime`, the first word of its name, and `device`. Raises FileNotFoundError, ArtefactError for a
    missing, damaged or foreign sidecar.
    """

    runtime: str
    device: str

    def __init__(self, artefact: str | Path) -> None:
        self.artefact = Path(artefact)
        self.sidecar = read_sidecar(self.artefact)
        check_outputs(self.sidecar, self.artefact)
        self.config: SegmenterConfig = dataclasses.replace(self.sidecar.config, threshold=self.sidecar.threshold)
        self.sha256 = self.sidecar.weights_sha256
        self.min_size, self.max_size = frame_sizes(self.sidecar)
        self.max_batch = bounds(self.sidecar.input.shape[0])[1]

    @property
    def name(self) -> str:
        """Runtime, weights and precision."""
        return f"{self.runtime} {self.sidecar.weights_name} {self.sidecar.precision}"

    def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] RGB -> (anomaly logits float32 [H, W], predicted train ids uint8 [H, W])."""
        logits, train_ids = self.run_batch(image[None])
        return logits[0], train_ids[0]

    def run_batch(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [B, H, W, 3] RGB -> (logits float32 [B, H, W], train ids uint8 [B, H, W]).

        Raises ValueError for a size or number of frames the artefact was not made for.
        """
        check_frames(images, self.sidecar, self.artefact)
        logits, train_ids = self._answer(images)
        return logits, enlarge(train_ids, (images.shape[1], images.shape[2]))

    @abstractmethod
    def _answer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The graph's own answer to frames it takes: logits float32 [B, H, W], train ids uint8 [B, h, w]."""


def is_exported(weights: str | Path) -> bool:
    """True for the path of an exported chain, NAME.onnx or NAME.engine."""
    return Path(weights).suffix in (".onnx", ".engine")


def exported_chains(weights: str | Path) -> list[Chain]:
    """The exported chain that `weights` is, or those made of them beside their file, `NAME*.onnx`, in that order.

    One beside them counts only if it takes several frame sizes: it stands in for weights, which take any; what is
    wrong with one is logged. Raises FileNotFoundError or ArtefactError for one that was named itself.
    """
    if is_exported(weights):
        path = Path(weights).expanduser()
        return [Chain(path, read_sidecar(path))]
    file = _weights_file(str(weights))
    paths = sorted(file.parent.glob(f"{glob.escape(file.stem)}*.onnx")) if file is not None else []
    sha256 = resolve.checksum(file) if file is not None and paths else ""
    found = []
    for path in paths:
        try:
            chain = Chain(path, read_sidecar(path))
        except (ValueError, OSError) as error:
            log.warning("exported chain left out: %s", error)
            continue
        if chain.sidecar.weights_sha256 != sha256:
            log.info("exported chain %s left out: it was made of other weights than %s", path, file)
        elif takes_one_size(chain.sidecar):
            log.info("exported chain %s left out: it takes frames of one size; give it as weights to use it", path)
        else:
            found.append(chain)
    return found


def _weights_file(weights: str) -> Path | None:
    """The file that a name or path means if it is here; `resolve.load_weights` says what is wrong with the others."""
    if weights in resolve.shipped_names():
        return Path(resolve.__file__).with_name(f"{weights}.safetensors")
    path = Path(weights).expanduser()
    return next((file for file in (path, path / resolve.RUN_FILE) if file.is_file()), None)


def bounds(dimension: Dimension) -> tuple[int, int]:
    """The least and the largest value of a dimension; a fixed one is both."""
    return (dimension, dimension) if isinstance(dimension, int) else dimension


def frame_sizes(sidecar: Sidecar) -> tuple[tuple[int, int], tuple[int, int]]:
    """The smallest and the largest frame (height, width) an artefact takes."""
    height, width = bounds(sidecar.input.shape[1]), bounds(sidecar.input.shape[2])
    return (height[0], width[0]), (height[1], width[1])


def takes_one_size(sidecar: Sidecar) -> bool:
    """True if the artefact was exported for frames of one size."""
    least, largest = frame_sizes(sidecar)
    return least == largest


def check_outputs(sidecar: Sidecar, artefact: Path) -> None:
    """Raises ArtefactError unless the artefact answers with `logits` and `segmentation`."""
    names = [output.name for output in sidecar.outputs]
    if sorted(names) != [LOGITS, SEGMENTATION]:
        raise ArtefactError(f"{artefact} has the outputs {', '.join(names)}, not {LOGITS} and {SEGMENTATION}")


def check_frames(images: np.ndarray, sidecar: Sidecar, artefact: Path) -> None:
    """Raises ValueError, with the remedy, for frames [B, H, W, 3] of a size or number the artefact was not made for."""
    count, height, width = images.shape[:3]
    fewest, most = bounds(sidecar.input.shape[0])
    if not fewest <= count <= most:
        raise ValueError(
            f"{artefact} takes {_range(fewest, most)} frames at a time, not {count}: export it with --max_batch {count}"
        )
    (low_h, low_w), (high_h, high_w) = frame_sizes(sidecar)
    if low_h <= height <= high_h and low_w <= width <= high_w:
        return
    made_for = f"{low_h}x{low_w}" if takes_one_size(sidecar) else f"{low_h}x{low_w} to {high_h}x{high_w}"
    raise ValueError(
        f"{artefact} takes frames of {made_for} pixels (height x width), this one is {height}x{width}: export one with "
        f"--size {height} {width}, or for several sizes with --min_size and --max_size"
    )


def enlarge(train_ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [B, h, w] train ids -> uint8 [B, H, W] at `size`: of each pixel the nearest, as torch's nearest-exact.

    cv2.INTER_NEAREST_EXACT would be as fast, but rounds otherwise in one pixel of ten.
    """
    rows, columns = _nearest(train_ids.shape[-2], size[0]), _nearest(train_ids.shape[-1], size[1])
    return train_ids.take(columns, axis=-1).take(rows, axis=-2)


def _nearest(count: int, wanted: int) -> np.ndarray:
    scale = np.float32(count) / np.float32(wanted)  # float32 as torch's, so that ties fall to the same side
    return np.minimum(((np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * scale).astype(np.int64), count - 1)


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low} to {high}"
