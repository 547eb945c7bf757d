"""Which runtime `open_backend` takes, and why not another: here, and on a GPU machine played by stand-ins."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_artefact import ANY, write_artefact

import mgcda_core
from mgcda_core.config import ConfigError
from mgcda_core.inference import backend as choice
from mgcda_core.inference import engine_cache, tensorrt_backend
from mgcda_core.inference.availability import BACKENDS, lack
from mgcda_core.inference.backend import open_backend, pending_engine
from mgcda_core.inference.engine import EngineError
from mgcda_core.inference.engine_cache import find_engine
from mgcda_core.inference.onnx_backend import OnnxBackend
from mgcda_core.inference.sidecar import ArtefactError, read_sidecar, write_sidecar
from mgcda_core.weights.resolve import checksum

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture()
def weights(tiny_weights: Path, tmp_path: Path) -> Path:
    """Weights in a folder of their own."""
    path = tmp_path / "w" / "tiny.safetensors"
    path.parent.mkdir()
    path.write_bytes(tiny_weights.read_bytes())
    return path


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level("INFO", "mgcda_core")
    return caplog


def exported(weights: Path, suffix: str = "-fp32", **fields: Any) -> Path:
    """A chain for several sizes that says it was exported of `weights`."""
    return write_artefact(weights.with_name(f"{weights.stem}{suffix}.onnx"), weights_sha256=checksum(weights), **fields)


def runtime(path: Path, backend: str = "auto") -> str:
    """First word of the name of what opens."""
    return open_backend(path, backend=backend).name.split()[0]


# on this machine ---------------------------------------------------------------------------------------------------


def test_weights_alone_run_in_torch_and_the_log_says_why(weights: Path, logged: pytest.LogCaptureFixture) -> None:
    assert runtime(weights) == "torch"
    assert f"no exported chain made of {weights} lies beside it" in logged.text
    assert "backend torch tiny on" in logged.text


@no_gpu
def test_an_exported_chain_beside_the_weights_is_taken(weights: Path, logged: pytest.LogCaptureFixture) -> None:
    exported(weights)
    assert runtime(weights) == "onnxruntime"
    for name in ("tensorrt", "tensorrt-rtx", "onnxruntime-cuda"):
        assert f"backend {name} skipped: " in logged.text
    assert mgcda_core.load(weights, backend="torch").backend.name == "torch tiny"  # unless torch is asked for
    assert mgcda_core.load(weights, backend="onnxruntime").backend.name == "onnxruntime tiny fp32"


@no_gpu
def test_a_damaged_chain_beside_the_weights_is_left_out_with_a_warning(
    weights: Path, logged: pytest.LogCaptureFixture
) -> None:
    chain = exported(weights)
    chain.write_bytes(chain.read_bytes()[:-1])
    assert runtime(weights) == "torch"
    assert any("sha256" in record.message for record in logged.records if record.levelname == "WARNING")
    with pytest.raises(ArtefactError, match="sha256"):  # a chain that is named is not replaced
        open_backend(chain)


@no_gpu
def test_a_chain_that_is_named(weights: Path) -> None:
    chain = write_artefact(weights.with_name("fixed.onnx"), (1, 64, 96, 3))
    assert runtime(chain) == runtime(chain, backend="onnxruntime") == "onnxruntime"
    with pytest.raises(ValueError, match=r"fixed.onnx is an exported chain, backend torch runs weights"):
        open_backend(chain, backend="torch")
    with pytest.raises(
        ValueError, match=r"no backend can run .*fixed.onnx on device cuda: tensorrt: .*; onnxruntime: "
    ):
        open_backend(chain, "cuda")
    engine = chain.with_name("fixed2.engine")
    engine.write_bytes(chain.read_bytes())
    write_sidecar(engine, dataclasses.replace(read_sidecar(chain), format="tensorrt"))
    with pytest.raises(ValueError, match="is an engine of tensorrt, backend onnxruntime does not run it"):
        open_backend(engine, backend="onnxruntime")
    with pytest.raises(ValueError, match=r"no backend can run .*fixed2.engine on device auto: tensorrt: "):
        open_backend(engine)


def test_on_a_cpu_fp32_is_taken(weights: Path) -> None:
    exported(weights, "-fp16", precision="fp16")
    with pytest.raises(
        ValueError, match=r"backend onnxruntime runs an exported chain, and beside .*tiny.safetensors lies"
    ):
        open_backend(weights, "cpu", "onnxruntime")
    exported(weights)
    assert open_backend(weights, "cpu", "onnxruntime").name == "onnxruntime tiny fp32"


@pytest.mark.parametrize("backend", ["auto", "onnxruntime"])
def test_onnx_runtime_takes_as_many_threads_as_it_is_given(weights: Path, backend: str) -> None:
    exported(weights)
    opened = open_backend(weights, "cpu", backend, threads=3)
    assert isinstance(opened, OnnxBackend)
    assert opened._session.get_session_options().intra_op_num_threads == 3


def test_words_that_do_not_exist(weights: Path) -> None:
    with pytest.raises(ConfigError, match="backend is 'openvino'; it must be one of auto, torch, torch-compile"):
        open_backend(weights, backend="openvino")
    for name in ("auto", *BACKENDS):
        with pytest.raises(ConfigError, match="device is 'gpu'; it must be auto, cpu, cuda or cuda:N"):
            open_backend(weights, "gpu", name)


@no_gpu
@pytest.mark.parametrize(
    ("backend", "device", "said"),
    [
        ("torch-cudagraph", "auto", "PyTorch sees no CUDA GPU"),
        ("torch-cudagraph", "cpu", "it runs on a GPU only, device is cpu"),
        ("onnxruntime", "cuda", "it runs on the CPU only, device is cuda: take onnxruntime-cuda"),
        ("onnxruntime-cuda", "auto", "no CUDAExecutionProvider: pip install onnxruntime-gpu"),
        ("onnxruntime-tensorrt", "auto", "no TensorrtExecutionProvider"),
        ("tensorrt-rtx", "auto", "tensorrt_rtx is missing|PyTorch sees no CUDA GPU"),
    ],
)
def test_a_backend_that_cannot_run_here_says_what_it_lacks(weights: Path, backend: str, device: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"backend {backend} cannot run here: .*({said})"):
        open_backend(weights, device, backend)


@pytest.mark.parametrize(
    ("backend", "module", "remedy"),
    [
        ("onnxruntime", "onnxruntime", "pip install onnxruntime"),
        ("onnxruntime-cuda", "onnxruntime", "pip install onnxruntime-gpu"),
        ("tensorrt", "tensorrt", "JetPack"),
        ("tensorrt-rtx", "tensorrt_rtx", "pip install tensorrt-rtx"),
        ("torch", "torch", "pip install torch"),
    ],
)
def test_missing_libraries(
    weights: Path, backend: str, module: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert remedy in (lack(backend) or "")
    with pytest.raises(ValueError, match=remedy):
        open_backend(weights, backend=backend)


@no_gpu
def test_auto_goes_on_without_onnxruntime_and_says_so(
    weights: Path, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    exported(weights)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert runtime(weights) == "torch"
    assert "backend onnxruntime skipped: onnxruntime is missing: pip install onnxruntime" in logged.text


@no_gpu
@pytest.mark.parametrize("backend", ["auto", "tensorrt", "tensorrt-rtx", "torch", "onnxruntime"])
def test_without_a_gpu_no_engine_is_ever_wanted(weights: Path, backend: str) -> None:
    exported(weights)
    assert pending_engine(weights, "auto", backend) is None


# on a machine with a GPU and TensorRT -------------------------------------------------------------------------------


@pytest.fixture()
def orin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`built` counts engines, `opened` lists them; `loads` false makes them fail to load."""
    machine = SimpleNamespace(built=0, opened=[], loads=True)
    machine.lacks = lambda name, device: None if name in ("tensorrt", "onnxruntime", "torch") else "it is missing"

    def build(onnx: Path, out: Path, library: Any, progress: Any, gpu: str) -> Any:
        machine.built += 1
        out.write_bytes(b"engine")
        source = read_sidecar(onnx)
        versions = {library: "10.3"}
        return dataclasses.replace(
            source, format=library, sha256=checksum(out), gpu=gpu, onnx_sha256=source.sha256, versions=versions
        )

    def opened(path: Path, device: str) -> SimpleNamespace:
        machine.opened.append(path)
        if not machine.loads:
            raise EngineError(f"cannot load {path}")
        return SimpleNamespace(name="tensorrt tiny", device="cuda:0 Orin")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "lack", lambda name, device: machine.lacks(name, device))
    monkeypatch.setattr(choice, "gpu_name", lambda device: "Orin")
    monkeypatch.setattr(engine_cache, "load_library", lambda library: SimpleNamespace(__version__="10.3"))
    monkeypatch.setattr(engine_cache, "build_engine", build)
    monkeypatch.setattr(tensorrt_backend, "TensorRTBackend", opened)
    return machine


def test_auto_never_builds_but_takes_what_is_built(
    orin: SimpleNamespace, weights: Path, logged: pytest.LogCaptureFixture
) -> None:
    half = exported(weights, "-fp16", precision="fp16")
    exported(weights)
    assert runtime(weights) == "torch"  # on a GPU before onnxruntime on the CPU
    assert f"tensorrt skipped: no engine in the cache (it is not there): mgcda build-engine {half}" in logged.text
    wanted = pending_engine(weights)
    assert wanted is not None
    assert (wanted.onnx, wanted.library, wanted.gpu, orin.built) == (half, "tensorrt", "Orin", 0)
    path = wanted.get()
    assert pending_engine(weights) is None
    assert runtime(weights) == runtime(weights, backend="tensorrt") == "tensorrt"
    assert (orin.opened, orin.built) == ([path, path], 1)


def test_tensorrt_asked_for_builds_its_engine(orin: SimpleNamespace, weights: Path) -> None:
    exported(weights)
    assert runtime(weights, backend="tensorrt") == "tensorrt"
    assert orin.built == 1


def test_an_engine_that_does_not_load_is_built_again_only_if_somebody_asks(
    orin: SimpleNamespace, weights: Path, logged: pytest.LogCaptureFixture
) -> None:
    exported(weights)
    open_backend(weights, backend="tensorrt")
    orin.loads = False
    assert runtime(weights) == "torch"
    assert "backend tensorrt skipped: cannot load" in logged.text
    assert not orin.opened[0].exists()
    assert pending_engine(weights) is None
    assert re.search(r"the last one did not load \(cannot load .*\); mgcda build-engine \S*tiny-fp32.onnx", logged.text)
    find_engine(exported(weights), "tensorrt", "Orin").forget_refusal()
    assert pending_engine(weights) is not None


def test_what_stands_against_an_engine_is_told_by_those_who_asked_for_it(
    orin: SimpleNamespace, weights: Path, logged: pytest.LogCaptureFixture
) -> None:
    exported(weights, "-int8", precision="int8")
    assert pending_engine(weights) is None
    assert "no engine is built: backend tensorrt runs an exported chain" in logged.text
    with pytest.raises(ValueError, match="backend tensorrt runs an exported chain"):
        open_backend(weights, backend="tensorrt")
    assert pending_engine(write_artefact(weights.with_name("named.onnx"), ANY, "int8")) is not None


# precision ---------------------------------------------------------------------------------------------------------


@no_gpu
def test_a_precision_that_is_asked_for_runs_or_is_an_error(weights: Path) -> None:
    exported(weights)
    exported(weights, "-int8", precision="int8")
    assert open_backend(weights).name == "onnxruntime tiny fp32"  # int8 never by itself
    assert open_backend(weights, precision="int8").name == "onnxruntime tiny int8"
    assert open_backend(weights, backend="onnxruntime", precision="int8").name == "onnxruntime tiny int8"
    with pytest.raises(ValueError, match=r"none of these weights of precision fp16 .*mgcda export .*--precision fp16"):
        open_backend(weights, precision="fp16")
    with pytest.raises(ValueError, match="backend torch runs fp32, not int8"):
        open_backend(weights, backend="torch", precision="int8")
    with pytest.raises(ConfigError, match="precision is 'half'; it must be one of auto, fp32, fp16, int8"):
        open_backend(weights, precision="half")


def test_the_precision_of_a_chain_that_is_named_is_its_own(weights: Path) -> None:
    chain = exported(weights, "-int8", precision="int8")
    assert open_backend(chain, "cpu", "onnxruntime").name == "onnxruntime tiny int8"
    with pytest.raises(ValueError, match=r"tiny-int8.onnx is of precision int8, not fp32: leave precision at auto"):
        open_backend(chain, "cpu", "onnxruntime", precision="fp32")
