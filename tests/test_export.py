"""mgcda export: the graph answers as PyTorch does, and what does not is not written."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from export_case import LARGEST, LEAST, MOST, tiny_onnx

from mgcda_core.cli_arguments import command_arguments
from mgcda_core.config import ConfigError, SegmentationConfig, SegmenterConfig
from mgcda_core.data.sample import DataError
from mgcda_core.export import command
from mgcda_core.export.command import export
from mgcda_core.export.half import to_half
from mgcda_core.export.onnx import Frames, build_graph
from mgcda_core.export.parity import CheckFrame, ParityError, measure
from mgcda_core.export.reference import TorchReference
from mgcda_core.inference.engine import EngineError
from mgcda_core.inference.onnx_backend import OnnxBackend
from mgcda_core.inference.sidecar import Sidecar, read_sidecar
from mgcda_core.models.anomaly_segmenter import AnomalySegmenter
from mgcda_core.weights.resolve import checksum, load_weights, save_weights

__all__ = ["tiny_onnx"]
SEVERAL: dict[str, Any] = {"min_size": LEAST, "max_size": LARGEST, "max_batch": MOST}


@pytest.fixture
def graph_at_hand(monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path) -> None:
    """The command takes the graph that was traced before, which saves half a minute."""
    monkeypatch.setattr(
        "mgcda_core.export.onnx.build_graph", lambda weights, frames, fold_batch_norm: ir.load(tiny_onnx)
    )


def _frame(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(2, 2), (65, 33), (64, 128), (200, 41), (3, 160), (200, 160)])
def test_the_graph_answers_as_pytorch_at_odd_sizes(size: tuple[int, int], tiny_onnx: Path, tiny_weights: Path) -> None:
    reference = TorchReference(load_weights(tiny_weights), "cpu")
    parity = measure(OnnxBackend(tiny_onnx), reference, iter([CheckFrame(_frame(*size), None)]), threshold=0.5)
    assert not parity.faults("fp32")
    assert parity.classes_changed < 1e-3


def test_a_batch_answers_as_its_frames_do(tiny_onnx: Path) -> None:
    backend = OnnxBackend(tiny_onnx)
    images = np.stack([_frame(65, 33, seed) for seed in range(MOST)])
    logits, classes = backend.run_batch(images)
    assert np.ptp(logits, axis=0).max() > 1e-4, "the frames differ"
    for number, image in enumerate(images):
        single = backend.run(image)
        np.testing.assert_allclose(logits[number], single[0], atol=1e-4)
        np.testing.assert_array_equal(classes[number], single[1])


def test_bytes_are_made_of_floats_which_is_all_tensorrt_takes(tiny_onnx: Path) -> None:
    made = ir.load(tiny_onnx).graph.outputs[1].producer()
    assert made is not None and made.op_type == "Cast" and made.inputs[0] is not None
    assert made.inputs[0].dtype == ir.DataType.FLOAT


def test_what_was_measured_stands_in_the_sidecar(
    graph_at_hand: None, tiny_weights: Path, drive: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out, batches, run_batch = tmp_path / "out", [], OnnxBackend.run_batch
    monkeypatch.setattr(OnnxBackend, "run_batch", lambda self, x: (batches.append(len(x)), run_batch(self, x))[1])
    path = export(out, str(tiny_weights), check=drive, anomaly_values="2", **SEVERAL)
    sidecar = read_sidecar(path)
    assert path.name == "tiny-2x2-200x160-b4-fp32.onnx"
    assert sorted(p.name for p in out.iterdir()) == [path.with_suffix(".json").name, path.name]
    assert sidecar.parity is not None and sidecar.parity_note == "measured"
    assert sidecar.parity["frames"] == 4 and sidecar.parity["ap_change"] == pytest.approx(0, abs=0.5)
    assert sidecar.input.shape == ((1, 4), (2, 200), (2, 160), 3)
    assert sidecar.outputs[0].shape == sidecar.input.shape[:3] and sidecar.outputs[1].shape == ((1, 4), 64, 128)
    assert sidecar.weights_sha256 == checksum(tiny_weights) and sidecar.config == load_weights(tiny_weights).config
    assert batches == [4]
    assert "ap_change=" in capsys.readouterr().out


def test_without_check_the_sidecar_claims_nothing(graph_at_hand: None, tiny_weights: Path, tmp_path: Path) -> None:
    sidecar = read_sidecar(export(tmp_path, str(tiny_weights), precision="fp16", **SEVERAL))
    assert (sidecar.precision, sidecar.parity) == ("fp16", None)
    assert sidecar.parity_note == "not checked: give --check"


def test_a_graph_that_answers_otherwise_is_not_written(
    monkeypatch: pytest.MonkeyPatch, tiny_onnx: Path, tiny_weights: Path, drive: Path, tmp_path: Path
) -> None:
    model = ir.load(tiny_onnx)
    last = [node for node in model.graph if node.op_type == "Conv"][-1].inputs[2]
    assert last is not None and last.const_value is not None
    last.const_value = ir.tensor(last.const_value.numpy() + np.array([0, 1], np.float32), name=last.name)
    monkeypatch.setattr("mgcda_core.export.onnx.build_graph", lambda weights, frames, fold_batch_norm: model)
    with pytest.raises(ParityError, match=r"nothing is written: a score differs by 0\.[12]"):
        export(tmp_path / "out", str(tiny_weights), check=drive, anomaly_values="2", **SEVERAL)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"min_size": (4, 4)}, "--min_size and --max_size belong together"),
        ({"min_size": (9, 4), "max_size": (8, 8)}, "must not exceed"),
        ({"size": (1, 8)}, "a side is 2 to 32768"),
        ({"max_batch": 0}, "max_batch is 0"),
        ({"size": (8, 8), "min_size": (4, 4), "max_size": (9, 9)}, "leave one out"),
        (
            {"format": "tensorrt-rtx", "min_size": (64, 64), "max_size": (4096, 8192)},
            "--max_size has a width of 8192: .* at most 4096",
        ),
        ({"precision": "fp16", "compact": True}, "--compact is for precision fp32"),
        ({"anomaly_values": "one"}, "--anomaly_values is one"),
    ],
)
def test_flags_that_make_no_sense(flags: dict[str, Any], message: str, tiny_weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        export(tmp_path, str(tiny_weights), **flags)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("65", "33"), ("[65,33]",)])
def test_a_size_has_two_spellings(words: tuple[str, ...]) -> None:
    given = command_arguments("export", export, ["--size", *words, "--out", "x", "--max_size", *words])
    assert given["size"] == given["max_size"] == (65, 33)
    assert (given["min_size"], given["max_batch"]) == (None, 1)


def test_faults_of_files_are_found_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tiny_weights: Path, drive: Path, tmp_path: Path
) -> None:
    monkeypatch.setattr("mgcda_core.export.onnx.build_graph", lambda *_, **__: pytest.fail("the graph was traced"))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        export(tmp_path / "out", str(tiny_weights), check=tmp_path / "nowhere")
    with pytest.raises(DataError, match="--anomaly_values"):
        export(tmp_path / "out", str(tiny_weights), check=drive)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"f0.png, which is a file: name a folder"):
        export(drive / "images" / "f0.png", str(tiny_weights))


def test_an_engine_is_not_said_to_be_checked_where_it_is_not(
    graph_at_hand: None, tiny_weights: Path, drive: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def build(onnx: Path, out: Path, *_: object) -> Sidecar:
        out.write_bytes(b"engine")
        return dataclasses.replace(
            read_sidecar(onnx), format="tensorrt-rtx", sha256=checksum(out), parity_note="built, not executed"
        )

    monkeypatch.setattr(command, "load_library", lambda library: None)
    monkeypatch.setattr(command, "build_engine", build)
    monkeypatch.setattr(command, "gpu_name", lambda device="auto": None)
    path = export(tmp_path / "out", str(tiny_weights), "tensorrt-rtx", check=drive, anomaly_values="2", **SEVERAL)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("parity: onnxruntime tiny fp32: frames=4")
    assert lines[1:] == [f"parity: {path.name}: built, not executed"]
    with pytest.raises(EngineError, match="there is no GPU to build for"):
        export(tmp_path / "out", str(tiny_weights), "tensorrt", **SEVERAL)


@pytest.mark.slow
def test_compact_halves_the_file_and_changes_no_value(
    tiny_config: SegmenterConfig, tiny_onnx: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "half.safetensors"
    save_weights(weights, AnomalySegmenter(tiny_config).state_dict(), tiny_config, "half", half=True)
    path = export(tmp_path, str(weights), size=(65, 33), compact=True)
    stored = [value.dtype for value in ir.load(path).graph.initializers.values()]
    assert stored.count(ir.DataType.FLOAT16) > 100
    norms = [[n.op_type for n in ir.load(p).graph].count("BatchNormalization") for p in (path, tiny_onnx)]
    assert norms[0] > norms[1], "not folded, or the products would be longer than fp16"
    assert path.stat().st_size < 0.7 * tiny_onnx.stat().st_size
    reference = TorchReference(load_weights(weights), "cpu")
    parity = measure(OnnxBackend(path), reference, iter([CheckFrame(_frame(65, 33), None)]), threshold=0.5)
    assert not parity.faults("fp32")


def test_a_missing_library_is_said_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tiny_weights: Path, tmp_path: Path
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "tensorrt_rtx", None)
    with pytest.raises(EngineError, match="pip install tensorrt-rtx"):
        export(tmp_path, str(tiny_weights), format="tensorrt-rtx")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_one_graph_is_said(tiny_weights: Path) -> None:
    weights = load_weights(tiny_weights)
    published = dataclasses.replace(weights, config=dataclasses.replace(weights.config, scaling="reference"))
    with pytest.raises(ConfigError, match="reference scaling computes its weights for one size"):
        build_graph(published, Frames(1, (2, 9), 9))
    drawn = dataclasses.replace(weights.config.synthesis, style="sample")
    with pytest.raises(ConfigError, match="style is sample"):
        build_graph(dataclasses.replace(weights, config=dataclasses.replace(weights.config, synthesis=drawn)), Frames())


@pytest.mark.slow
def test_the_published_chain_becomes_one_graph_that_tensorrt_reads(
    tiny_config: SegmenterConfig, tmp_path: Path
) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    segmentation = SegmentationConfig(architecture="deeplabv3plus", width=4, size=(128, 256))
    config = dataclasses.replace(
        tiny_config, segmentation=segmentation, scaling="reference", perceptual="vgg19", entropy_weight=0.25
    )
    torch.manual_seed(0)
    weights = tmp_path / "published.safetensors"
    save_weights(weights, AnomalySegmenter(config).state_dict(), config, "published")
    path = export(tmp_path / "out", str(weights), size=(150, 270))
    reference = TorchReference(load_weights(weights), "cpu")
    parity = measure(OnnxBackend(path), reference, iter([CheckFrame(_frame(150, 270), None)]), threshold=0.5)
    assert not parity.faults("fp32", "reference")
    network = trt.Builder(logger := trt.Logger(trt.Logger.ERROR)).create_network(
        1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    )
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(ir.to_proto(to_half(ir.load(path))).SerializeToString()), parser.get_error(0).desc()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the engine would be run")
def test_lite_becomes_an_engine_without_a_gpu(drive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    path = export(tmp_path / "out", "lite", "tensorrt-rtx", "fp16", check=drive, anomaly_values="2")
    assert f"parity: {path.name}: built, not executed" in capsys.readouterr().out
    onnx, engine = read_sidecar(path.with_name("lite-720x1280-fp16.onnx")), read_sidecar(path)
    assert onnx.parity is not None and onnx.parity_note == "measured"
    assert engine.onnx_sha256 == onnx.sha256 and engine.format == "tensorrt-rtx"
    assert engine.parity is None and engine.parity_note == "built, not executed"
