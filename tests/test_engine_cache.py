"""The engine cache: what makes a key, what is rebuilt and why, two processes at once. The builder is a stand-in."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_artefact import ANY, write_artefact

from mgcda_core.inference import engine_cache
from mgcda_core.inference.engine import EngineError
from mgcda_core.inference.engine_cache import CachedEngine, cache_folder, find_engine
from mgcda_core.inference.sidecar import Sidecar, read_sidecar, sidecar_path, write_sidecar
from mgcda_core.weights.resolve import checksum


class Builder:
    """Writes a file of its own each time."""

    def __init__(self) -> None:
        self.count = 0
        self.fails = False

    def __call__(self, onnx: Path, out: Path, library: Any, progress: Any, gpu: str | None) -> Sidecar:
        self.count += 1
        if self.fails:
            raise EngineError("no kernel for /conv")
        out.write_bytes(f"engine {self.count}".encode() * 100)
        source = read_sidecar(onnx)
        return dataclasses.replace(
            source, format=library, sha256=checksum(out), gpu=gpu, onnx_sha256=source.sha256, versions={library: "10.3"}
        )


@pytest.fixture()
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Builder:
    built = Builder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(engine_cache, "build_engine", built)
    monkeypatch.setattr(engine_cache, "load_library", lambda _: SimpleNamespace(__version__="10.3"))
    return built


@pytest.fixture()
def cached(builder: Builder, tmp_path: Path) -> CachedEngine:
    return find_engine(write_artefact(tmp_path / "tiny.onnx"), "tensorrt", "Orin")


def test_an_engine_is_built_once_into_the_users_cache(cached: CachedEngine, builder: Builder, tmp_path: Path) -> None:
    assert cached.fault() == "it is not there"
    path = cached.get()
    assert path.parent == cache_folder() / "engines" == tmp_path / "cache" / "mgcda" / "engines"
    assert read_sidecar(path).gpu == "Orin"
    assert cached.fault() is None
    assert cached.get() == path
    assert builder.count == 1


def test_whatever_makes_another_engine_makes_another_key(cached: CachedEngine, tmp_path: Path) -> None:
    source = cached.source
    other_input = dataclasses.replace(source.input, shape=(1, 64, 96, 3))
    others = [
        dataclasses.replace(cached, gpu="Xavier"),
        dataclasses.replace(cached, version="10.4"),
        dataclasses.replace(cached, library="tensorrt-rtx"),
        dataclasses.replace(cached, source=dataclasses.replace(source, sha256="1" * 64)),
        dataclasses.replace(cached, source=dataclasses.replace(source, precision="fp16")),
        dataclasses.replace(cached, source=dataclasses.replace(source, input=other_input)),
    ]
    assert len({engine.path for engine in [cached, *others]}) == 7
    moved = write_artefact(tmp_path / "elsewhere" / "same.onnx", ANY)
    assert find_engine(moved, "tensorrt", "Orin").path == cached.path  # its name and place do not count


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)


def lose_sidecar(path: Path) -> None:
    sidecar_path(path).unlink()


def garble_sidecar(path: Path) -> None:
    sidecar_path(path).write_text('{"format": "tensorrt"')


def made_for(**fields: Any) -> Any:
    return lambda path: write_sidecar(path, dataclasses.replace(read_sidecar(path), **fields))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (truncate, "damaged"),
        (flip, "damaged"),
        (lose_sidecar, "has no"),
        (garble_sidecar, "is no sidecar"),
        (Path.unlink, "it is not there"),
        (made_for(gpu="Xavier"), "stale.*Xavier"),
        (made_for(versions={"tensorrt": "8.6"}), "stale.*8.6"),
        (made_for(precision="fp16"), "stale.*fp16"),
        (made_for(onnx_sha256="2" * 64), "stale.*2222"),
        (made_for(format="tensorrt-rtx"), "stale.*tensorrt-rtx"),
    ],
)
def test_a_corrupt_or_stale_file_is_rebuilt_with_a_reason(
    cached: CachedEngine, builder: Builder, harm: Any, reason: str
) -> None:
    harm(cached.get())
    told: list[str] = []
    cached.get(told.append)
    assert builder.count == 2
    assert cached.fault() is None
    assert re.match(f"building an engine of .*tiny.onnx for Orin with tensorrt 10.3: .*{reason}", told[0])


def test_an_engine_that_does_not_load_is_not_built_again_by_itself(cached: CachedEngine, builder: Builder) -> None:
    cached.get()
    cached.refuse("no such kernel")
    assert not cached.path.exists()
    assert cached.refusal() == "no such kernel"
    with pytest.raises(EngineError, match=r"did not load \(no such kernel\): mgcda build-engine .*tiny.onnx --library"):
        cached.get()
    assert builder.count == 1
    cached.forget_refusal()
    assert cached.get().is_file()
    assert builder.count == 2


@pytest.mark.parametrize("name", ["RECIPE", "LARGEST_SIDE"])
def test_another_way_of_building_makes_another_key(
    cached: CachedEngine, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cached.path
    monkeypatch.setattr(engine_cache, name, getattr(engine_cache, name) + 1)
    assert cached.path != before


def test_a_build_that_fails_leaves_the_next_one_free(cached: CachedEngine, builder: Builder) -> None:
    builder.fails = True
    with pytest.raises(EngineError, match="no kernel"):
        cached.get()
    assert cached.fault() == "it is not there"
    builder.fails = False
    assert cached.get().is_file()


RIVAL = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, {tests!r})
import test_engine_cache as t
from mgcda_core.inference import engine_cache

class Slow(t.Builder):
    def __call__(self, *arguments):
        print("built", flush=True)
        time.sleep(1.0)
        return super().__call__(*arguments)

engine_cache.build_engine = Slow()
engine_cache.load_library = lambda _: SimpleNamespace(__version__="10.3")
engine = engine_cache.find_engine(Path({onnx!r}), "tensorrt", "Orin")
print("ready", flush=True)
sys.stdin.readline()
print(engine.get(lambda line: None).read_bytes()[:8].decode(), flush=True)
"""


def rival(onnx: Path) -> subprocess.Popen[str]:
    code = RIVAL.format(tests=str(Path(__file__).parent), onnx=str(onnx))
    process = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_at_once_build_once(cached: CachedEngine) -> None:
    both = [rival(cached.onnx), rival(cached.onnx)]
    for process in both:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=30)[0].split("\n")[:-1] for process in both]
    assert sorted(said, key=len) == [["engine 1"], ["built", "engine 1"]]
    assert cached.fault() is None


def test_a_builder_that_is_killed_holds_no_one_up(cached: CachedEngine, builder: Builder) -> None:
    process = rival(cached.onnx)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "built\n"  # it holds the lock
    process.kill()
    process.wait()
    cached.get()
    assert builder.count == 1
