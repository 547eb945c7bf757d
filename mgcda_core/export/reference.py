"""PyTorch in fp32 as the gate needs it: also with classes that another runtime predicted."""

from __future__ import annotations

import numpy as np
import torch

from mgcda_core.inference.torch_backend import TorchBackend
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter


class TorchReference(TorchBackend):
    """TorchBackend on the CPU; implements `export.parity.Reference`."""

    @torch.inference_mode()
    def logits_given(self, image: np.ndarray, classes: np.ndarray) -> np.ndarray:
        """Logits float32 [H, W] of uint8 [H, W, 3] RGB if the predicted classes were `classes`, uint8 [H, W].

        Where the score is read off the segmentation network, no class has a part in it.
        """
        if not isinstance(self.model, AnomalySegmenter):
            return self.run(image)[0]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
        stages = self.model.stages(pixels, semantics=torch.from_numpy(classes)[None].long())
        size = (image.shape[0], image.shape[1])
        return self.model.to_input_size(self.model.compare(stages), stages, size)[0].numpy()
