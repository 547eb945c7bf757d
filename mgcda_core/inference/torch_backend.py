"""The chain in PyTorch, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mgcda_core.config import ConfigError, SegmenterConfig
from mgcda_core.inference.artefact import MOST_SHAPES, enlarge
from mgcda_core.inference.encodings import MAX_SIDE, MIN_SIDE
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter, Stages
from mgcda_core.models.chain import Chain, build_chain
from mgcda_core.models.closed_set_segmenter import ClosedSetSegmenter
from mgcda_core.models.direct_segmenter import DirectSegmenter
from mgcda_core.models.loading import load_strict
from mgcda_core.weights.resolve import Weights, WeightsError

Mode = Literal["eager", "compile", "cudagraph"]
Predict = Callable[[Tensor], tuple[Tensor, Tensor]]


class TorchBackend:
    """AnomalySegmenter or DirectSegmenter with loaded weights; implements `inference.backend.Backend`.

    `mode` compile has torch.compile write kernels at the first frame of a size, which takes a minute; cudagraph, on a
    GPU only, records the kernels of a frame size and launches them as one.
    `synthesis_every` above 1 is for the frames of a video, one after the other in one thread, in mode eager: `run`
    paints the re-synthesis of every so manieth frame only, the others are compared with the last one.
    Raises ValueError if the device does not exist, or is a CPU for cudagraph; WeightsError for a file that holds only a
    part of the chain, and one error listing every key of the weights that does not fit.
    """

    min_size = (MIN_SIDE, MIN_SIDE)
    max_size = (MAX_SIDE, MAX_SIDE)
    max_batch = 64

    def __init__(self, weights: Weights, device: str = "auto", mode: Mode = "eager", synthesis_every: int = 1) -> None:
        if synthesis_every < 1 or (synthesis_every > 1 and mode != "eager"):
            raise ConfigError(f"synthesis_every is {synthesis_every}: 1, or more with backend torch, not torch-{mode}")
        self.name = f"{'torch' if mode == 'eager' else f'torch-{mode}'} {weights.name}"
        self.config: SegmenterConfig = weights.config
        self.sha256 = weights.sha256
        self._device = pick_device(device)
        self.model = build_chain(weights.config)
        if synthesis_every > 1:
            self.whole_chain(f"synthesis_every {synthesis_every}")
        _refuse_parts(self.model, weights)
        load_strict(self.model, weights.state, weights.name)
        _place(self.model, self._device)
        self._predict = _variant(self.model.predict, mode, self._device)
        self._synthesis_every, self._count = synthesis_every, 0
        self._last: Stages | None = None

    @property
    def device(self) -> str:
        """`cpu`, or the GPU's number and name."""
        if self._device.type != "cuda":
            return str(self._device)
        return f"{self._device} {torch.cuda.get_device_name(self._device)}"

    def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] RGB -> (anomaly logits float32 [H, W], predicted train ids uint8 [H, W])."""
        logits, train_ids = self._run(image[None], self._predict if self._synthesis_every == 1 else self._next)
        return logits[0], train_ids[0]

    def run_batch(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [B, H, W, 3] RGB -> (logits float32 [B, H, W], train ids uint8 [B, H, W])."""
        return self._run(images, self._predict)

    @torch.inference_mode()
    def _run(self, images: np.ndarray, predict: Predict) -> tuple[np.ndarray, np.ndarray]:
        logits, train_ids = predict(_frames(images, self._device))
        return logits.float().cpu().numpy(), enlarge(train_ids.cpu().numpy(), (images.shape[1], images.shape[2]))

    def _next(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """`predict` of a video's next frame."""
        chain = self.whole_chain("synthesis_every")
        self._last = chain.stages(frame, made=self._last if self._count % self._synthesis_every else None)
        self._count += 1
        return chain.answer(self._last, (frame.shape[-2], frame.shape[-1]))

    def whole_chain(self, what: str) -> AnomalySegmenter:
        """The model, if it re-synthesises and compares; else raises ConfigError that `what` needs that."""
        if isinstance(self.model, AnomalySegmenter):
            return self.model
        raise ConfigError(
            f"{what} needs a chain with re-synthesis and comparison, and {self.name.split()[-1]} has score "
            f"{self.config.score}, read off its segmentation network"
        )

    @torch.inference_mode()
    def ensemble(self, image: np.ndarray, entropy_weight: float) -> np.ndarray:
        """uint8 [H, W, 3] RGB -> (1 - w) * anomaly probability + w * entropy, float32 [H, W] (spec 1.8).

        The bicubic resize to H, W may leave [0, 1] by a little.
        """
        size = (image.shape[0], image.shape[1])
        chain = self.whole_chain("score ensemble")
        stages = chain.stages(_batch(image, self._device))
        return chain.ensemble_score(chain.compare(stages), stages, size, entropy_weight)[0].cpu().numpy()

    @torch.inference_mode()
    def prior(self, image: np.ndarray) -> Tensor:
        """uint8 [H, W, 3] RGB -> entropy, perceptual difference, distance as the comparison sees them.

        float32 [1, 3, h, w] in [0, 1] at the dissimilarity's working size; with a student its error is a fourth.
        """
        return self.whole_chain("a map of the prior").stages(_batch(image, self._device)).prior

    @torch.inference_mode()
    def student_error(self, image: np.ndarray) -> Tensor:
        """uint8 [H, W, 3] RGB -> error float32 [1, h, w] of a DiCNet student; of score distillation alone."""
        assert isinstance(self.model, DirectSegmenter)
        return self.model.student_error(_batch(image, self._device))[:, 0]

    @torch.inference_mode()
    def segmentation_logits(self, image: np.ndarray) -> Tensor:
        """uint8 [H, W, 3] RGB -> closed-set logits float32 [1, 19, h, w] at the segmentation's working size."""
        return self.model.segmentation_logits(_batch(image, self._device))


class TorchSegmentation:
    """The segmentation network of a weights file, whatever else the file holds or lacks.

    Raises ValueError if the device does not exist, and one error listing every `segmentation.*` key that does not fit.
    """

    def __init__(self, weights: Weights, device: str = "auto") -> None:
        self.config: SegmenterConfig = weights.config
        self.sha256 = weights.sha256
        self._device = pick_device(device)
        self.device = str(self._device)
        self.model = ClosedSetSegmenter(weights.config)
        own = {key: value for key, value in weights.state.items() if key.startswith("segmentation.")}
        load_strict(self.model, own, str(weights.path))
        _place(self.model, self._device)

    @torch.inference_mode()
    def segmentation_logits(self, image: np.ndarray) -> Tensor:
        """As `TorchBackend.segmentation_logits`."""
        return self.model.segmentation_logits(_batch(image, self._device))


def _refuse_parts(model: Chain, weights: Weights) -> None:
    """One sentence for a file that holds the chain in part, instead of a list of thousands of missing keys."""
    present = {key.split(".")[0] for key in weights.state}
    missing = [name for name, _ in model.named_children() if name not in present]
    if missing and "segmentation" in present:
        raise WeightsError(
            f"{weights.path} holds only a part of the chain, without {', '.join(missing)}: give the weights of a "
            "finished mgcda train dissimilarity, or evaluate its segmentation network alone with --score msp, "
            "maxlogit, entropy, energy or sml"
        )


def _place(model: ClosedSetSegmenter, device: torch.device) -> None:
    model.eval().requires_grad_(False)
    model.to(device=device, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def _variant(predict: Predict, mode: Mode, device: torch.device) -> Predict:
    if mode == "compile":
        return torch.compile(predict)
    if mode == "cudagraph":
        return _Recorded(predict, device)
    return predict


class _Recorded:
    """`predict` as CUDA graphs of the last `MOST_SHAPES` batch shapes; what it returns holds until the next call.

    It was not run on a GPU yet.
    """

    def __init__(self, predict: Predict, device: torch.device) -> None:
        if device.type != "cuda":
            raise ValueError(f"backend torch-cudagraph runs on a GPU only, the device is {device}: take backend torch")
        self._predict = predict
        self._stream = torch.cuda.Stream(device)
        self._kept: dict[tuple[int, ...], tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, Tensor]]] = {}

    def __call__(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        shape = tuple(batch.shape)
        kept = self._kept.pop(shape, None)
        if kept is None:
            while len(self._kept) >= MOST_SHAPES:  # the one that rested longest makes room, its memory first
                del self._kept[next(iter(self._kept))]
            kept = self._record(batch)
        self._kept[shape] = kept
        graph, held, answer = kept
        held.copy_(batch)
        graph.replay()
        return answer

    def _record(self, batch: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor, tuple[Tensor, Tensor]]:
        held = batch.clone()
        self._stream.wait_stream(torch.cuda.current_stream(batch.device))
        with torch.cuda.stream(self._stream):  # what a first run allocates and picks is not to be recorded
            self._predict(held)
        torch.cuda.current_stream(batch.device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
            answer = self._predict(held)
        return graph, held, answer


def _batch(image: np.ndarray, device: torch.device) -> Tensor:
    return _frames(image[None], device)


def _frames(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 [B, H, W, 3] -> [B, 3, H, W] on the device."""
    # torch refuses negative strides and warns about read-only memory (bytes of a ROS message): then a copy it is.
    writable = np.require(images, requirements=["C", "W"])
    return torch.from_numpy(writable).permute(0, 3, 1, 2).to(device)


def pick_device(device: str) -> torch.device:
    """ "auto" (the GPU if there is one), "cpu", "cuda" or "cuda:N". Raises ValueError for what is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        picked = torch.device(device)
    except RuntimeError:
        picked = None
    if picked is None or picked.type not in ("cpu", "cuda"):
        raise ConfigError(f"device is {device!r}; it must be auto, cpu, cuda or cuda:N")
    if picked.type == "cuda" and (picked.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {device} is not there: PyTorch sees {torch.cuda.device_count()} GPUs; use cpu or auto"
        )
    return picked
