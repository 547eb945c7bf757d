"""Engines from ONNX: built for real by TensorRT-RTX, which needs no GPU for it; TensorRT 8.6 by a stand-in."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_artefact import ANY, brightness, write_artefact

from mgcda_core.inference import engine
from mgcda_core.inference.engine import EngineError, Library, build_engine, load_library
from mgcda_core.inference.sidecar import ArtefactError, read_sidecar, write_sidecar
from mgcda_core.weights.resolve import checksum


@pytest.fixture(scope="module")
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="the builder: pip install tensorrt-rtx")


@pytest.mark.parametrize("shape", [(1, 64, 96, 3), ANY], ids=["one size", "several"])
def test_an_engine_is_built_with_what_its_sidecar_needs(trt: Any, tmp_path: Path, shape: tuple[Any, ...]) -> None:
    onnx, out = write_artefact(tmp_path / "tiny.onnx", shape), tmp_path / "new" / "tiny.engine"
    made = build_engine(onnx, out, "tensorrt-rtx")
    source = read_sidecar(onnx)
    assert (made.format, made.precision, made.sha256) == ("tensorrt-rtx", "fp32", checksum(out))
    assert (made.onnx_sha256, made.gpu, made.parity, made.parity_note) == (
        source.sha256,
        None,
        None,
        "built, not executed",
    )
    assert made.versions == {"opset": "18", "tensorrt-rtx": trt.__version__}
    assert (made.input, made.outputs, made.weights_sha256) == (source.input, source.outputs, source.weights_sha256)
    write_sidecar(out, made)
    assert read_sidecar(out) == made
    assert sorted(path.name for path in out.parent.iterdir()) == ["tiny.engine", "tiny.engine.json"]


def test_what_the_parser_says_is_one_sentence(trt: Any, tmp_path: Path) -> None:
    onnx = write_artefact(tmp_path / "tiny.onnx", graph=brightness(ANY, cast_first=False))
    with pytest.raises(EngineError, match=r"^tensorrt_rtx [\d.]+ cannot read .*tiny.onnx: .*type UInt8") as caught:
        build_engine(onnx, tmp_path / "tiny.engine", "tensorrt-rtx")
    assert "\n" not in str(caught.value)
    assert "checkMacros" not in str(caught.value)  # that there is no GPU is no reason
    assert not (tmp_path / "tiny.engine").exists()


def test_an_artefact_without_its_sidecar_is_not_built(tmp_path: Path) -> None:
    onnx = write_artefact(tmp_path / "tiny.onnx")
    onnx.write_bytes(onnx.read_bytes() + b"\0")
    with pytest.raises(ArtefactError, match="sha256"):
        build_engine(onnx, tmp_path / "tiny.engine", "tensorrt-rtx")


@pytest.mark.parametrize(("library", "remedy"), [("tensorrt", "JetPack"), ("tensorrt-rtx", "pip install tensorrt-rtx")])
def test_a_missing_library_is_named_with_its_remedy(
    library: Library, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, engine.MODULES[library], None)
    with pytest.raises(EngineError, match=f"{engine.MODULES[library]} cannot be imported .*{remedy}"):
        load_library(library)
    with pytest.raises(EngineError, match="must be one of tensorrt, tensorrt-rtx"):
        load_library("openvino")  # type: ignore[arg-type]


def test_progress_tells_the_time_and_the_phase(trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "REPORT_PERIOD_S", 0.002)
    lines: list[str] = []
    build_engine(write_artefact(tmp_path / "tiny.onnx"), tmp_path / "e.engine", "tensorrt-rtx", lines.append)
    assert lines[0].startswith("building tiny.onnx: 0 s")
    assert any(line.endswith(")") and "(" in line for line in lines), lines  # the builder's phase


class OldTensorRT(SimpleNamespace):
    """What `engine` uses of TensorRT 8.6, and what it was told; `plan` is what the builder gives."""

    def __init__(self, plan: bytes | None) -> None:
        self.flags: list[str] = []
        self.cleared: list[str] = []
        self.shapes: list[Any] = []
        profile = SimpleNamespace(set_shape=lambda name, *shapes: self.shapes.append((name, *shapes)))
        config = SimpleNamespace(
            set_flag=self.flags.append, clear_flag=self.cleared.append, add_optimization_profile=lambda _: None
        )

        def build(network: str, config: Any) -> bytes | None:
            self.logger.log(1, "no kernel for /conv")
            return plan

        def builder(logger: Any) -> SimpleNamespace:
            self.logger = logger
            return SimpleNamespace(
                create_network=lambda flags: f"network {flags}", create_builder_config=lambda: config,
                create_optimization_profile=lambda: profile, build_serialized_network=build,
            )  # fmt: skip

        super().__init__(
            __name__="tensorrt", __version__="8.6.2", Builder=builder,
            ILogger=type("ILogger", (), {"Severity": SimpleNamespace(ERROR=1)}),
            NetworkDefinitionCreationFlag=SimpleNamespace(EXPLICIT_BATCH=0),
            BuilderFlag=SimpleNamespace(FP16="fp16", INT8="int8", TF32="tf32"),
            OnnxParser=lambda network, logger: SimpleNamespace(parse=lambda data: network == "network 1"),
        )  # fmt: skip


@pytest.mark.parametrize(("precision", "flags"), [("fp32", []), ("fp16", ["fp16"]), ("int8", ["fp16", "int8"])])
def test_tensorrt_8_builds_by_flags(
    precision: Any, flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = OldTensorRT(b"plan")
    monkeypatch.setitem(sys.modules, "tensorrt", old)  # type: ignore[arg-type]
    onnx = write_artefact(tmp_path / "tiny.onnx", ((1, 4), (64, 600), (96, 2048), 3), precision)
    made = build_engine(onnx, tmp_path / "tiny.engine", "tensorrt", gpu="Orin")
    assert (old.flags, made.precision, made.gpu) == (flags, precision, "Orin")
    assert old.cleared == (["tf32"] if precision == "fp32" else [])
    assert (tmp_path / "tiny.engine").read_bytes() == b"plan"
    assert old.shapes == [("image", [1, 64, 96, 3], [1, 600, 1280, 3], [4, 600, 2048, 3])]


@pytest.mark.parametrize(("precision", "cleared"), [("fp32", ["tf32"]), ("fp16", [])])
def test_factors_of_fp32_are_not_rounded_to_tf32(
    precision: Any, cleared: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = OldTensorRT(b"plan")
    new.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=0)
    new.BuilderFlag = SimpleNamespace(TF32="tf32")
    monkeypatch.setitem(sys.modules, "tensorrt", new)  # type: ignore[arg-type]
    build_engine(write_artefact(tmp_path / "x.onnx", precision=precision), tmp_path / "x.engine", "tensorrt")
    assert (new.cleared, new.flags) == (cleared, [])


def test_an_engine_for_several_sizes_reserves_memory_for_usual_ones_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = OldTensorRT(b"plan")
    monkeypatch.setitem(sys.modules, "tensorrt", old)  # type: ignore[arg-type]
    onnx = write_artefact(tmp_path / "tiny.onnx", ((1, 4), (2, 16384), (5000, 16384), 3))
    made = build_engine(onnx, tmp_path / "tiny.engine", "tensorrt")
    assert made.input.shape == ((1, 4), (2, 4096), (5000, 5000), 3)
    assert made.outputs[0].shape == made.input.shape[:3]
    assert old.shapes == [("image", [1, 2, 5000, 3], [1, 720, 5000, 3], [4, 4096, 5000, 3])]


def test_a_builder_that_fails_is_quoted_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", OldTensorRT(None))  # type: ignore[arg-type]
    onnx = write_artefact(tmp_path / "tiny.onnx")
    with pytest.raises(EngineError, match=r"tensorrt 8.6.2 cannot build .*tiny.onnx: no kernel for /conv"):
        build_engine(onnx, tmp_path / "tiny.engine", "tensorrt")
    assert not list(tmp_path.glob("*tiny.engine*"))
