"""ONNX Runtime on exported chains: sizes, batches, what it refuses, memory. The chain's own figures: test_export."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from resident import growth_mb
from tiny_artefact import ANY, brightness, expected, write_artefact

from mgcda_core.inference.backend import Backend
from mgcda_core.inference.onnx_backend import OnnxBackend, Provider
from mgcda_core.inference.predictor import Predictor
from mgcda_core.inference.sidecar import ArtefactError, Dimension, sidecar_path
from mgcda_core.weights.resolve import checksum


@pytest.fixture(scope="module")
def artefact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_artefact(tmp_path_factory.mktemp("chain") / "tiny.onnx")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, (*shape, 3), np.uint8)


@pytest.mark.parametrize("size", [(2, 2), (3, 2), (37, 53), (1280, 720), (719, 1279), (2160, 4096)])
def test_frames_of_every_size(artefact: Path, size: tuple[int, int]) -> None:
    backend: Backend = OnnxBackend(artefact)
    image = noise(*size)
    prediction = Predictor(backend)(image)
    assert prediction.threshold == 0.7  # the sidecar's
    np.testing.assert_allclose(prediction.logits, expected(image), atol=1e-5)
    assert prediction.segmentation is not None
    assert (prediction.segmentation.shape, prediction.segmentation.dtype) == (size, np.uint8)
    block = image[:2, :2].astype(float).mean((0, 1))
    assert prediction.segmentation[0, 0] == block.argmax()


def test_it_says_what_it_is(artefact: Path) -> None:
    backend = OnnxBackend(artefact, threads=1)
    assert (backend.name, backend.device, backend.sha256) == ("onnxruntime tiny fp32", "cpu", "0" * 64)
    assert (backend.min_size, backend.max_size) == ((2, 2), (2160, 4096))
    Predictor(backend).warm_up()


def test_one_pixel_is_refused_before_the_runtime_sees_it(artefact: Path) -> None:
    with pytest.raises(ValueError, match=r"at least 2x2 pixels"):
        Predictor(OnnxBackend(artefact))(noise(1, 1))


def test_batches_answer_as_their_frames(artefact: Path) -> None:
    backend = OnnxBackend(artefact)
    images = noise(4, 31, 45)
    logits, train_ids = backend.run_batch(images)
    for image, of_image, ids in zip(images, logits, train_ids, strict=True):
        alone = backend.run(image)
        np.testing.assert_array_equal(of_image, alone[0])
        np.testing.assert_array_equal(ids, alone[1])
    with pytest.raises(ValueError, match="takes 1 to 4 frames at a time, not 5: export it with --max_batch 5"):
        backend.run_batch(noise(5, 8, 8))


def test_frames_in_any_memory_order(artefact: Path) -> None:
    backend, image = OnnxBackend(artefact), noise(16, 24)
    for same in (np.ascontiguousarray(image[..., ::-1])[..., ::-1], np.asfortranarray(image)):
        np.testing.assert_array_equal(backend.run(same)[0], backend.run(image)[0])


def test_a_chain_for_one_size_refuses_others(tmp_path: Path) -> None:
    backend = OnnxBackend(write_artefact(tmp_path / "fixed.onnx", (1, 48, 64, 3)))
    Predictor(backend).warm_up()
    np.testing.assert_allclose(backend.run(noise(48, 64))[0], expected(noise(48, 64)), atol=1e-5)
    with pytest.raises(ValueError, match=r"48x64 pixels .* is 64x48: export one with --size 64 48"):
        backend.run(noise(64, 48))


@pytest.mark.parametrize(("shape", "one_size"), [(ANY, False), ((1, 48, 64, 3), True)], ids=["several", "one"])
def test_sessions_neither_spin_nor_keep_a_plan_of_every_size(
    tmp_path: Path, shape: tuple[Dimension, ...], one_size: bool
) -> None:
    settings = OnnxBackend(write_artefact(tmp_path / "tiny.onnx", shape), threads=1)._session.get_session_options()
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert settings.enable_mem_pattern is one_size
    assert settings.intra_op_num_threads == 1


def test_without_its_own_sidecar_nothing_is_opened(artefact: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(artefact.read_bytes())
    with pytest.raises(ArtefactError, match=r"alone\.json"):
        OnnxBackend(alone)
    sidecar_path(alone).write_text(sidecar_path(artefact).read_text())
    assert OnnxBackend(alone).run(noise(4, 4))[0].shape == (4, 4)
    alone.write_bytes(artefact.read_bytes()[:-1])
    with pytest.raises(ArtefactError, match=f"sha256 {checksum(alone)}"):
        OnnxBackend(alone)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.onnx"):
        OnnxBackend(tmp_path / "nowhere.onnx")


def test_a_sidecar_of_another_graph_and_no_graph_at_all(tmp_path: Path) -> None:
    graph = brightness(ANY)
    graph.graph.output[1].name = graph.graph.node[-1].output[0] = "classes"
    with pytest.raises(ArtefactError, match="outputs classes, logits, which are not those of its sidecar"):
        OnnxBackend(write_artefact(tmp_path / "other.onnx", graph=graph))
    text = write_artefact(tmp_path / "text.onnx")
    before = checksum(text)
    text.write_text("no graph")
    sidecar_path(text).write_text(sidecar_path(text).read_text().replace(before, checksum(text)))
    with pytest.raises(ArtefactError, match=r"text.onnx cannot be opened by onnxruntime"):
        OnnxBackend(text)


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there_is_never_replaced_in_silence(artefact: Path, provider: Provider) -> None:
    import onnxruntime

    if any(provider in name.lower() for name in onnxruntime.get_available_providers()):
        pytest.skip("it is there")
    with pytest.raises(ValueError, match=r"ExecutionProvider: pip install onnxruntime-gpu"):
        OnnxBackend(artefact, provider)


@pytest.mark.parametrize(
    "sizes", [[(240, 320)], [(240 + 8 * i, 320) for i in range(10)]], ids=["one size", "ten sizes"]
)
def test_memory_is_flat_over_500_frames(artefact: Path, sizes: list[tuple[int, int]]) -> None:
    """One answer kept of each frame would make it grow by 150 MB."""
    predictor = Predictor(OnnxBackend(artefact, threads=1))
    assert growth_mb(predictor, [noise(*size) for size in sizes]) < 10.0


def test_it_needs_no_torch_and_the_interface_no_runtime(artefact: Path) -> None:
    heavy = {"torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx"}
    for code, allowed in (
        ("import mgcda_core.inference.backend, mgcda_core.inference.engine_cache", set()),
        (
            "import numpy, mgcda_core.inference.onnx_backend as o\n"
            f"o.OnnxBackend({str(artefact)!r}).run(numpy.zeros((4, 4, 3), numpy.uint8))",
            {"onnxruntime"},
        ),
    ):
        show = f"{code}\nimport sys\nprint(*{heavy!r} & sys.modules.keys())"
        run = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
        assert set(run.stdout.split()) == allowed
