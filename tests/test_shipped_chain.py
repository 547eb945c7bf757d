"""The exported chain beside the shipped weights: it is made of them, and answers as they do in PyTorch."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
from resident import growth_mb

import mgcda_core
from mgcda_core.export.parity import MAX_SCORE_DIFFERENCE, CheckFrame, measure
from mgcda_core.export.reference import TorchReference
from mgcda_core.inference.artefact import exported_chains, frame_sizes
from mgcda_core.inference.onnx_backend import OnnxBackend
from mgcda_core.inference.widening import widened
from mgcda_core.weights import resolve
from mgcda_core.weights.resolve import load_weights, shipped_names

FOLDER = Path(resolve.__file__).parent
LARGEST_FILE = 15_000_000  # bytes


def lite_onnx() -> Path:
    return exported_chains("lite")[0].path


def test_every_exported_chain_is_of_shipped_weights_and_lite_has_one() -> None:
    """After new weights: the command in docs/performance.md, "The chain beside lite"."""
    assert shipped_names() == ["lite"]
    wanted = json.loads((FOLDER / "lite.json").read_text())["sha256"]
    made_of = {path.name: json.loads(path.with_suffix(".json").read_text())["weights_sha256"]
               for path in FOLDER.glob("*.onnx")}  # fmt: skip
    assert list(made_of.values()) == [wanted], made_of
    [chain] = exported_chains("lite")
    assert chain.sidecar.config == load_weights("lite").config
    assert frame_sizes(chain.sidecar) == ((2, 2), (16384, 16384))
    assert chain.path.stat().st_size < LARGEST_FILE


def test_its_parity_was_measured() -> None:
    sidecar = exported_chains("lite")[0].sidecar
    assert sidecar.parity_note == "measured" and sidecar.parity is not None
    assert sidecar.parity["frames"] == 10
    difference, ap_change = sidecar.parity["max_difference_same_classes"], sidecar.parity["ap_change"]
    assert difference is not None and difference <= MAX_SCORE_DIFFERENCE["fp32"]
    assert ap_change is not None and abs(ap_change) < 0.01


@pytest.mark.parametrize("size", [(2, 2), (33, 47), (720, 405), (4096, 2160)])
def test_it_answers_as_pytorch_at_odd_sizes(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    reference = TorchReference(load_weights("lite"), "cpu")
    parity = measure(OnnxBackend(lite_onnx(), threads=1), reference, iter([CheckFrame(image, None)]), threshold=0.5)
    assert not parity.faults("fp32")


@pytest.mark.long
@pytest.mark.timeout(600)
def test_memory_is_flat_over_500_frames_of_ten_sizes() -> None:
    """One answer kept of each frame would make it grow by 210 MB."""
    backend = OnnxBackend(lite_onnx())
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (240 + 8 * i, 320, 3), np.uint8) for i in range(10)]
    assert growth_mb(backend.run, images) < 10.0


def test_on_a_cpu_lite_runs_in_onnx_runtime(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mgcda_core")
    predictor = mgcda_core.load("lite", "cpu")
    assert predictor.backend.name == "onnxruntime lite fp32"
    assert "backend onnxruntime lite fp32 on cpu" in caplog.text
    assert predictor.backend.sha256 == load_weights("lite").sha256
    with pytest.raises(ValueError, match=r"image is 1x1 pixels .* at least 2x2"):
        predictor(np.zeros((1, 1, 3), np.uint8))


def test_without_onnx_runtime_lite_runs_in_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mgcda_core")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert mgcda_core.load("lite", "cpu").backend.name == "torch lite"
    assert "backend onnxruntime skipped: onnxruntime is missing: pip install onnxruntime" in caplog.text


def test_the_parser_of_tensorrt_rtx_takes_it() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    parsed = parser.parse(widened(lite_onnx()))  # as `engine.build_engine` does
    assert parsed, [parser.get_error(number).desc() for number in range(parser.num_errors)]
