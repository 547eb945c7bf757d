"""The chain in PyTorch, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mgcda_core.config import ConfigError, SegmenterConfig
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter, ClosedSetSegmenter
from mgcda_core.models.loading import load_strict
from mgcda_core.weights.resolve import Weights, WeightsError


class TorchBackend:
    """AnomalySegmenter with loaded weights; implements `inference.backend.Backend`.

    Raises ValueError if the device does not exist, WeightsError for a file that holds only a part of the chain, and one
    error listing every key of the weights that does not fit.
    """

    def __init__(self, weights: Weights, device: str = "auto") -> None:
        self.name = f"torch {weights.name}"
        self.config: SegmenterConfig = weights.config
        self.sha256 = weights.sha256
        self._device = pick_device(device)
        self.model = AnomalySegmenter(weights.config)
        _refuse_parts(self.model, weights)
        load_strict(self.model, weights.state, weights.name)
        _place(self.model, self._device)

    @property
    def device(self) -> str:
        """`cpu`, or the GPU's number and name."""
        if self._device.type != "cuda":
            return str(self._device)
        return f"{self._device} {torch.cuda.get_device_name(self._device)}"

    @torch.inference_mode()
    def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [H, W, 3] RGB -> (anomaly logits float32 [H, W], predicted train ids uint8 [H, W])."""
        size = (image.shape[0], image.shape[1])
        logits, classes = self.model.predict(_batch(image, self._device))
        classes = F.interpolate(classes[:, None].float(), size, mode="nearest-exact")[0, 0]
        return logits[0].float().cpu().numpy(), classes.to(torch.uint8).cpu().numpy()

    @torch.inference_mode()
    def ensemble(self, image: np.ndarray, entropy_weight: float) -> np.ndarray:
        """uint8 [H, W, 3] RGB -> (1 - w) * anomaly probability + w * entropy, float32 [H, W] (spec 1.8).

        The bicubic resize to H, W may leave [0, 1] by a little.
        """
        size = (image.shape[0], image.shape[1])
        stages = self.model.stages(_batch(image, self._device))
        score = self.model.ensemble_score(self.model.compare(stages), stages, size, entropy_weight)
        return score[0].cpu().numpy()

    @torch.inference_mode()
    def prior(self, image: np.ndarray) -> Tensor:
        """uint8 [H, W, 3] RGB -> entropy, perceptual difference, distance as the comparison sees them.

        float32 [1, 3, h, w] in [0, 1] at the dissimilarity's working size.
        """
        return self.model.stages(_batch(image, self._device)).prior

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


def _refuse_parts(model: AnomalySegmenter, weights: Weights) -> None:
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


def _batch(image: np.ndarray, device: torch.device) -> Tensor:
    # torch refuses negative strides and warns about read-only memory (bytes of a ROS message): then a copy it is.
    writable = np.require(image, requirements=["C", "W"])
    return torch.from_numpy(writable).permute(2, 0, 1)[None].to(device)


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
