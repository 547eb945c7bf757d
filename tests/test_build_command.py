"""`mgcda build-engine`: real engines of a tiny chain, by TensorRT-RTX, which builds without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_artefact import write_artefact

from mgcda_core.config import ConfigError
from mgcda_core.export import build_command
from mgcda_core.export.build_command import build_engine_command
from mgcda_core.inference.engine import EngineError
from mgcda_core.inference.engine_cache import find_engine
from mgcda_core.inference.sidecar import read_sidecar

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@no_gpu
def test_a_file_for_any_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    onnx, out = write_artefact(tmp_path / "tiny.onnx"), tmp_path / "tiny.engine"  # one beside the other
    build_engine_command(onnx, "tensorrt-rtx", out)
    made = read_sidecar(out)
    assert (made.format, made.gpu, made.onnx_sha256) == ("tensorrt-rtx", None, read_sidecar(onnx).sha256)
    said = capsys.readouterr().out
    assert said.startswith(f"build-engine: {out} gpu=None seconds=")
    assert "built, not executed" in said


def test_into_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(build_command, "gpu_name", lambda device: "RTX 9090")
    onnx = write_artefact(tmp_path / "tiny.onnx")
    build_engine_command(onnx, "tensorrt-rtx")
    said = capsys.readouterr()
    cached = find_engine(onnx, "tensorrt-rtx", "RTX 9090")
    assert cached.fault() is None
    assert f"build-engine: {cached.path} gpu=RTX 9090" in said.out
    assert "for RTX 9090 with tensorrt-rtx" in said.err  # progress
    build_engine_command(onnx, "tensorrt-rtx")
    assert capsys.readouterr().err == ""  # it was there


@no_gpu
def test_without_a_gpu_the_cache_has_no_place_for_it(tmp_path: Path) -> None:
    onnx = write_artefact(tmp_path / "tiny.onnx")
    with pytest.raises(EngineError, match=r"there is no GPU to build for: .*; with --out a file is built, for any GPU"):
        build_engine_command(onnx, "tensorrt-rtx")
    with pytest.raises(EngineError, match=r"there is no GPU to build for: .+"):
        build_engine_command(onnx, "tensorrt", tmp_path / "tiny.engine")


def test_wrong_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.engine"):
        build_engine_command(tmp_path / "tiny.onnx", "tensorrt-rtx", tmp_path / "tiny.plan")
    with pytest.raises(ConfigError, match="device is 'gpu'"):
        build_engine_command(tmp_path / "tiny.onnx", "tensorrt-rtx", device="gpu")
