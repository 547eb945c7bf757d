"""The variants of the PyTorch runtime, on tiny weights: batches, torch.compile, CUDA graph, memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from resident import growth_mb

from mgcda_core.config import ConfigError
from mgcda_core.inference.availability import lack
from mgcda_core.inference.torch_backend import Mode, Predict, TorchBackend
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


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(lack("torch-compile", "cpu") is not None, reason="torch.compile needs a C++ compiler")
def test_compiled_it_answers_as_eager(weights: Weights, frames: list[np.ndarray]) -> None:
    """Other kernels round otherwise: scores of this chain by 1e-5, of lite by 1.65e-4."""
    compiled, eager = TorchBackend(weights, "cpu", "compile"), TorchBackend(weights, "cpu")
    (logits, train_ids), (wanted, wanted_ids) = compiled.run(frames[0]), eager.run(frames[0])
    score, wanted_score = (1 / (1 + np.exp(-values)) for values in (logits, wanted))
    assert np.abs(score - wanted_score).max() < 5e-4
    assert (train_ids == wanted_ids).mean() > 0.999
    assert not np.array_equal(logits, wanted)  # it was compiled


def test_a_cuda_graph_needs_a_gpu(weights: Weights) -> None:
    with pytest.raises(ValueError, match="torch-cudagraph runs on a GPU only, the device is cpu: take backend torch"):
        TorchBackend(weights, "cpu", "cudagraph")


def test_a_re_synthesis_serves_the_next_frames(weights: Weights, frames: list[np.ndarray]) -> None:
    plain, video = TorchBackend(weights, "cpu"), TorchBackend(weights, "cpu", synthesis_every=2)
    painted: list[object] = []
    video.whole_chain("the test").generator.register_forward_pre_hook(lambda _module, inputs: painted.append(inputs))
    answers = [video.run(frame) for frame in frames]
    assert len(painted) == 2
    for number in (0, 2):
        np.testing.assert_array_equal(answers[number][0], plain.run(frames[number])[0])
    network, pictures = (
        plain.whole_chain("the test"),
        [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in frames],
    )
    with torch.inference_mode():
        stages = network.stages(pictures[1], made=network.stages(pictures[0]))
        expected = network.answer(stages, (frames[1].shape[0], frames[1].shape[1]))
    np.testing.assert_allclose(answers[1][0], expected[0][0].numpy(), rtol=1e-4, atol=1e-5)
    assert np.abs(answers[1][0] - plain.run(frames[1])[0]).max() > 1e-4  # it is another picture
    np.testing.assert_array_equal(answers[1][1], plain.run(frames[1])[1])  # but its own classes


@pytest.mark.parametrize(("every", "mode"), [(0, "eager"), (2, "compile")])
def test_synthesis_every_that_cannot_be_is_refused(weights: Weights, every: int, mode: Mode) -> None:
    with pytest.raises(ConfigError, match=f"synthesis_every is {every}"):
        TorchBackend(weights, "cpu", mode, synthesis_every=every)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_cuda_graph_answers_as_eager(weights: Weights, frames: list[np.ndarray]) -> None:
    recorded, eager = TorchBackend(weights, "cuda", "cudagraph"), TorchBackend(weights, "cuda")
    for frame in (*frames, frames[0][:50, :70], frames[1]):
        np.testing.assert_allclose(recorded.run(frame)[0], eager.run(frame)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_memory_is_flat_over_500_frames_of_ten_sizes(weights: Weights) -> None:
    """One answer kept of each frame would make it grow by 60 MB."""
    backend, images = TorchBackend(weights, "cpu"), [np.zeros((120 + 8 * i, 160, 3), np.uint8) for i in range(10)]
    assert growth_mb(backend.run, images) < 25.0  # the allocator's own ups and downs: 16 after 900 other tests
