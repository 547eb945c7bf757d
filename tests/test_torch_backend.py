"""The variants of the PyTorch runtime, on tiny weights: batches, torch.compile, CUDA graph, memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from mgcda_core.inference.torch_backend import Predict, TorchBackend
from mgcda_core.weights.resolve import Weights, load_weights


@pytest.fixture(scope="module")
def weights(tiny_weights: Path) -> Weights:
    return load_weights(tiny_weights)


def test_batches_answer_as_their_frames(weights: Weights, frames: list[np.ndarray]) -> None:
    backend = TorchBackend(weights, "cpu")
    logits, train_ids = backend.run_batch(np.stack(frames))
    for number, frame in enumerate(frames):
        alone = backend.run(frame)
        np.testing.assert_allclose(logits[number], alone[0], rtol=1e-4, atol=1e-5)
        assert (train_ids[number] == alone[1]).mean() > 0.99


def test_compile_is_given_the_whole_chain(
    weights: Weights, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for torch.compile, which takes a minute a frame size."""
    given: list[Predict] = []
    monkeypatch.setattr(torch, "compile", lambda predict: given.append(predict) or predict)
    compiled, eager = TorchBackend(weights, "cpu", "compile"), TorchBackend(weights, "cpu")
    assert (compiled.name, eager.name) == ("torch-compile tiny", "torch tiny")
    assert given == [compiled.model.predict]
    np.testing.assert_array_equal(compiled.run(frames[0])[0], eager.run(frames[0])[0])


def test_a_cuda_graph_needs_a_gpu(weights: Weights) -> None:
    with pytest.raises(ValueError, match="torch-cudagraph runs on a GPU only, the device is cpu: take backend torch"):
        TorchBackend(weights, "cpu", "cudagraph")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_answers_as_eager(weights: Weights, frames: list[np.ndarray]) -> None:
    recorded, eager = TorchBackend(weights, "cuda", "cudagraph"), TorchBackend(weights, "cuda")
    for frame in (*frames, frames[0][:50, :70], frames[1]):
        np.testing.assert_allclose(recorded.run(frame)[0], eager.run(frame)[0], rtol=1e-3, atol=1e-4)


def test_memory_is_flat(weights: Weights) -> None:
    """One answer kept of each frame would make it grow by 80 MB; 500 frames: test_onnx_backend."""
    backend, image = TorchBackend(weights, "cpu"), np.zeros((720, 960, 3), np.uint8)

    def resident_mb() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

    for _ in range(5):
        backend.run(image)
    before = resident_mb()
    for _ in range(25):
        backend.run(image)
    assert resident_mb() - before < 15.0
