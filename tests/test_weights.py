"""Weights files: what is saved comes back, and every damaged or foreign file is refused with one clear sentence."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from pickle_attack import Attack
from safetensors.torch import save_file

from mgcda_core.config import PROFILES, SegmenterConfig
from mgcda_core.weights import resolve
from mgcda_core.weights.resolve import WeightsError, load_weights, save_weights, shipped_names

CONFIG = PROFILES["lite"]


def some_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "segmentation.conv.weight": torch.randn(4, 3, 3, 3, generator=generator),
        "segmentation.norm.num_batches_tracked": torch.tensor(7),
        "dissimilarity.bias": torch.randn(5, generator=generator),
    }


@pytest.fixture()
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "some.safetensors"
    save_weights(path, some_state(), CONFIG, "some", {"licence": "none", "data": "drawn"})
    return path


def assert_refused(source: str | Path, *words: str) -> None:
    with pytest.raises(WeightsError) as error:
        load_weights(source)
    for word in words:
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_saved_comes_back(saved: Path):
    weights = load_weights(saved)
    assert weights.name == "some"
    assert weights.config == CONFIG
    assert weights.metadata == {"licence": "none", "data": "drawn"}
    assert weights.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert weights.state.keys() == some_state().keys()
    for key, value in some_state().items():
        torch.testing.assert_close(weights.state[key], value, rtol=0, atol=0)
    assert list(saved.parent.iterdir()) == [saved]


def test_a_saved_file_is_readable_like_any_other(saved: Path):
    other = saved.with_name("other")
    other.touch()
    assert saved.stat().st_mode == other.stat().st_mode


def test_float16_storage_is_half_as_large_and_loads_as_float32(tmp_path: Path):
    state = {"a": torch.linspace(-3, 3, 50_000), "count": torch.tensor(3)}
    save_weights(tmp_path / "full.safetensors", state, CONFIG, "full")
    save_weights(tmp_path / "half.safetensors", state, CONFIG, "half", half=True)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (tmp_path / "full.safetensors").stat().st_size
    loaded = load_weights(tmp_path / "half.safetensors").state
    assert loaded["a"].dtype == torch.float32
    assert loaded["count"].dtype == torch.int64
    torch.testing.assert_close(loaded["a"], state["a"], rtol=2**-11, atol=1e-7)


def test_equal_content_gives_equal_bytes_and_the_returned_checksum(tmp_path: Path):
    metadata = {letter: letter for letter in "abcdefgh"}
    sums = {save_weights(tmp_path / f"{i}", some_state(), CONFIG, "some", metadata) for i in range(4)}
    assert sums == {load_weights(tmp_path / "0").sha256}


def test_any_memory_layout_and_shared_tensors_can_be_saved(tmp_path: Path):
    image = torch.arange(48.0).reshape(1, 4, 3, 4)
    state = {"nhwc": image.contiguous(memory_format=torch.channels_last), "view": image[:, 1], "same": image}
    save_weights(tmp_path / "x.safetensors", state, CONFIG, "x")
    loaded = load_weights(tmp_path / "x.safetensors").state
    for key, value in state.items():
        torch.testing.assert_close(loaded[key], value, rtol=0, atol=0, check_stride=False)


@pytest.mark.parametrize(("value", "half"), [(float("nan"), False), (float("inf"), False), (1e6, True)])
def test_values_that_cannot_be_stored_leave_the_old_file_alone(saved: Path, value: float, half: bool):
    before = saved.read_bytes()
    state = some_state() | {"generator.fc.weight": torch.tensor([0.0, value])}
    with pytest.raises(WeightsError, match=r"generator\.fc\.weight"):
        save_weights(saved, state, CONFIG, "some", half=half)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_write_that_fails_leaves_nothing_behind(saved: Path, monkeypatch: pytest.MonkeyPatch):
    before = saved.read_bytes()

    def broken(path: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(resolve, "_sort_metadata", broken)
    with pytest.raises(OSError, match="no space"):
        save_weights(saved, {"a": torch.zeros(1)}, CONFIG, "other")
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(saved: Path, kept: float):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(len(data) * kept)])
    assert_refused(saved, str(saved), "get it again")


def test_a_garbled_file_is_refused(saved: Path):
    saved.write_bytes(b"\xff" * 500)
    assert_refused(saved, str(saved))


@pytest.mark.parametrize("new_format", [True, False])
def test_a_pickle_is_refused_unopened(tmp_path: Path, new_format: bool):
    path, marker = tmp_path / "model.safetensors", tmp_path / "ran"
    torch.save(Attack(marker), path, _use_new_zipfile_serialization=new_format)
    assert_refused(path, str(path), "pickle", "mgcda import synboost")
    assert not marker.exists()


def test_a_safetensors_header_that_starts_like_a_pickle_is_read(tmp_path: Path):
    """The file begins with the header's length: 80 .. for some lengths, as a pickle does; pad until one comes out."""
    path = tmp_path / "x.safetensors"
    for pad in range(0, 264, 8):
        save_weights(path, {"a": torch.ones(1)}, CONFIG, "x", {"pad": "p" * pad})
        if path.read_bytes()[0] == 0x80:
            assert load_weights(path).state["a"] == 1
            return
    pytest.fail("no header length ended in 0x80")


def test_a_foreign_safetensors_file_is_refused(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    assert_refused(path, "metadata", "mgcda")
    save_file({"a": torch.zeros(1)}, path, metadata={"format": "9", "config": CONFIG.to_json()})
    assert_refused(path, "format 9", "update")
    save_file({"a": torch.zeros(1)}, path, metadata={"format": "1", "config": '{"colour": 3}'})
    assert_refused(path, str(path), "configuration")


def test_unknown_names_and_missing_files_say_what_there_is(tmp_path: Path, shipped: Path):
    assert_refused("lihgt", "'lihgt'", "known names: small")
    assert_refused(tmp_path, "folder")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors"):
        load_weights(tmp_path / "nowhere.safetensors")


@pytest.fixture()
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder that ships one set of weights, `small`."""
    folder = tmp_path / "package"
    sha256 = save_weights(folder / "small.safetensors", some_state(), CONFIG, "small")
    (folder / "small.json").write_text(json.dumps({"sha256": sha256}))
    monkeypatch.setattr(resolve, "_SHIPPED", folder)
    return folder


def test_a_shipped_name_loads_if_its_checksum_fits(shipped: Path):
    assert shipped_names() == ["small"]
    assert load_weights("small").name == "small"
    save_weights(shipped / "small.safetensors", {"a": torch.zeros(1)}, CONFIG, "small")
    assert_refused("small", "small.safetensors", "sha256", "expected")


def test_a_broken_installation_says_so(shipped: Path):
    (shipped / "small.json").write_text("{}")
    assert_refused("small", "small.json", "install the package again")
    (shipped / "small.json").write_text(json.dumps({"sha256": "abc"}))
    assert_refused("small", "'abc'", "64 hexadecimal digits")
    (shipped / "small.json").unlink()
    assert_refused("small", "small.json", "install the package again")
    (shipped / "small.safetensors").unlink()
    assert_refused("small", "known names: none")


def test_what_is_exported_beside_shipped_weights_is_no_name(shipped: Path):
    for name in ("small-fp32.onnx", "small-fp32.json", "small-rtx.engine", "small-rtx.json", "small-rtx.engine.json"):
        (shipped / name).write_text("{}")
    assert shipped_names() == ["small"]


def test_every_shipped_file_fits_its_card():
    for name in shipped_names():
        assert isinstance(load_weights(name).config, SegmenterConfig)


def test_a_download_is_checked_kept_and_not_repeated(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data, asked = saved.read_bytes(), []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: asked.append(url) or io.BytesIO(data))
    url = f"https://example.org/some.safetensors#sha256={hashlib.sha256(data).hexdigest().upper()}"
    assert load_weights(url).name == "some"
    assert load_weights(url).name == "some"
    assert asked == ["https://example.org/some.safetensors"]

    data = data[:-1]  # a cut transfer of something not yet in the cache
    assert_refused(
        f"https://example.org/b.safetensors#sha256={'0' * 64}", "example.org/b", "expected", "nothing was kept"
    )
    assert len(list((tmp_path / "cache/mgcda").iterdir())) == 1


@pytest.mark.parametrize(("limit", "value"), [("_LARGEST_DOWNLOAD", 1000), ("_LONGEST_DOWNLOAD_S", -1.0)])
def test_a_download_without_end_is_given_up(limit: str, value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(resolve, limit, value)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(bytes(5000)))
    assert_refused(f"https://example.org/a.safetensors#sha256={'0' * 64}", "cannot download", "is larger than")
    assert not list((tmp_path / "mgcda").iterdir())


def test_a_url_without_network_or_checksum_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def offline(url: str, timeout: float) -> io.BytesIO:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(urllib.request, "urlopen", offline)
    assert_refused(f"https://example.org/a.safetensors#sha256={'0' * 64}", "cannot download", "give the path")
    assert_refused("https://example.org/a.safetensors", "#sha256=")
    assert_refused("https://example.org/a.safetensors#sha256=12", "64 hexadecimal digits")
    assert_refused(f"http://example.org/a.safetensors#sha256={'0' * 64}", "https only")


def test_importing_the_package_does_not_import_torch():
    code = "import sys, mgcda_core.weights.resolve, mgcda_core.weights.synboost; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
