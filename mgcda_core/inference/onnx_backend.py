"""An exported chain in ONNX Runtime, on the CPU or an NVIDIA GPU. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from mgcda_core.inference.artefact import LOGITS, SEGMENTATION, ExportedBackend, takes_one_size
from mgcda_core.inference.engine_cache import cache_folder
from mgcda_core.inference.sidecar import ArtefactError

Provider = Literal["cpu", "cuda", "tensorrt"]
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_SEVERITY_ERROR = 3


class OnnxBackend(ExportedBackend):
    """NAME.onnx with its sidecar; implements `inference.backend.Backend`.

    `provider` tensorrt builds its own engines when a session opens, which takes minutes the first time; they are kept
    in the user's cache folder. `threads` is the number of CPU threads, 0 for one a core; `gpu` the number of the GPU.
    Raises as `ExportedBackend`, ValueError if the installed onnxruntime lacks the provider or its libraries. The CUDA
    and TensorRT providers were not run on a GPU yet.
    """

    def __init__(self, artefact: str | Path, provider: Provider = "cpu", threads: int = 0, gpu: int = 0) -> None:
        super().__init__(artefact)
        self.runtime = "onnxruntime" if provider == "cpu" else f"onnxruntime-{provider}"
        self.device = "cpu" if provider == "cpu" else f"cuda:{gpu}"
        self._session = _session(self.artefact, self._options(provider, gpu), threads, takes_one_size(self.sidecar))
        self._check_graph()

    def _answer(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = {self.sidecar.input.name: np.ascontiguousarray(images)}
        logits, train_ids = self._session.run([LOGITS, SEGMENTATION], inputs)
        return logits, train_ids

    def _options(self, provider: Provider, gpu: int) -> list[tuple[str, dict[str, str]]]:
        """The provider, and those that run what it cannot, with their settings."""
        options: list[tuple[str, dict[str, str]]] = [(_PROVIDERS["cpu"], {})]
        if provider != "cpu":
            options.insert(0, (_PROVIDERS["cuda"], {"device_id": str(gpu)}))
        if provider == "tensorrt":
            folder = str(cache_folder() / "onnxruntime")
            settings = {"device_id": str(gpu), "trt_engine_cache_enable": "True", "trt_engine_cache_path": folder}
            options.insert(0, (_PROVIDERS["tensorrt"], settings))
        return options

    def _check_graph(self) -> None:
        inputs = [entry.name for entry in self._session.get_inputs()]
        outputs = {entry.name for entry in self._session.get_outputs()}
        if inputs != [self.sidecar.input.name] or not {LOGITS, SEGMENTATION} <= outputs:
            raise ArtefactError(
                f"{self.artefact} has the input {', '.join(inputs)} and the outputs {', '.join(sorted(outputs))}, "
                "which are not those of its sidecar: run mgcda export again"
            )


def _session(artefact: Path, options: list[tuple[str, dict[str, str]]], threads: int, one_size: bool) -> Any:
    import onnxruntime

    wanted = options[0][0]
    if wanted not in onnxruntime.get_available_providers():
        raise ValueError(f"this onnxruntime has no {wanted}: pip install onnxruntime-gpu (on a Jetson NVIDIA's wheel)")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = _SEVERITY_ERROR
    # A waiting thread that spins takes the core from the camera driver and the node's other processes.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.enable_mem_pattern = one_size  # else it keeps a plan of every frame size there ever was
    try:
        session = onnxruntime.InferenceSession(str(artefact), settings, providers=options)
    except Exception as error:  # the library's exceptions have no base class of their own
        raise ArtefactError(f"{artefact} cannot be opened by onnxruntime: {error}") from error
    if session.get_providers()[0] != wanted:  # onnxruntime itself goes on with the next one, with a log line only
        raise ValueError(f"onnxruntime's {wanted} does not start: are its CUDA, cuDNN or TensorRT libraries there?")
    return session
