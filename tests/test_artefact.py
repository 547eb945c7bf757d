"""What the runtimes of exported chains share: sizes, and train ids at the frame's size."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_artefact import ANY, write_artefact

from mgcda_core.inference.artefact import check_frames, check_outputs, enlarge, exported_chains, frame_sizes
from mgcda_core.inference.sidecar import ArtefactError, read_sidecar
from mgcda_core.weights.resolve import checksum


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 250), st.integers(1, 700))
def test_train_ids_are_enlarged_as_torch_does_it(count: int, wanted: int) -> None:
    """Along one side; where a pixel's middle falls onto a border, either neighbour may be the nearest."""
    ids = np.arange(count, dtype=np.uint8)[None, :, None]
    column = F.interpolate(torch.from_numpy(ids)[None].float(), (wanted, 1), mode="nearest-exact")[0, 0, :, 0]
    other = np.flatnonzero(enlarge(ids, (wanted, 1))[0, :, 0] != column.numpy())
    assert ((2 * other + 1) * count % (2 * wanted) == 0).all()
    np.testing.assert_array_equal(enlarge(ids.swapaxes(1, 2), (1, wanted))[0, 0], enlarge(ids, (wanted, 1))[0, :, 0])


@pytest.mark.parametrize("size", [(720, 1280), (1080, 1920), (1280, 720), (1024, 2048), (2160, 4096)])
def test_so_are_those_of_common_cameras(size: tuple[int, int]) -> None:
    ids = np.random.default_rng(0).integers(0, 19, (1, 256, 512), np.uint8)
    wanted = F.interpolate(torch.from_numpy(ids)[:, None].float(), size, mode="nearest-exact")[:, 0]
    np.testing.assert_array_equal(enlarge(ids, size), wanted.numpy())


def test_frames_of_another_size_are_refused_with_both_sizes_and_the_remedy(tmp_path: Path) -> None:
    fixed = write_artefact(tmp_path / "fixed.onnx", (1, 64, 96, 3))
    sidecar = read_sidecar(fixed)
    assert frame_sizes(sidecar) == ((64, 96), (64, 96))
    check_frames(np.zeros((1, 64, 96, 3), np.uint8), sidecar, fixed)
    with pytest.raises(ValueError, match=r"of 64x96 pixels .* is 96x64: export one with --size 96 64, or .*--min_size"):
        check_frames(np.zeros((1, 96, 64, 3), np.uint8), sidecar, fixed)
    with pytest.raises(ValueError, match="takes 1 frames at a time, not 4: export it with --max_batch 4"):
        check_frames(np.zeros((4, 64, 96, 3), np.uint8), sidecar, fixed)
    several = write_artefact(tmp_path / "several.onnx", ((1, 4), (64, 128), (96, 192), 3))
    for size in ((63, 96), (64, 193), (129, 100)):
        with pytest.raises(ValueError, match=f"64x96 to 128x192 pixels .* is {size[0]}x{size[1]}"):
            check_frames(np.zeros((1, *size, 3), np.uint8), read_sidecar(several), several)


def test_other_outputs_are_refused(tmp_path: Path) -> None:
    path = write_artefact(tmp_path / "a.onnx")
    sidecar = read_sidecar(path)
    with pytest.raises(ArtefactError, match="has the outputs logits, not logits and segmentation"):
        check_outputs(dataclasses.replace(sidecar, outputs=sidecar.outputs[:1]), path)


def test_chains_beside_weights_count_if_they_are_of_them_and_take_several_sizes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "mgcda_core")
    weights = tmp_path / "mine[1].safetensors"
    weights.write_bytes(b"weights")
    sha256 = checksum(weights)
    assert exported_chains(weights) == []
    good = write_artefact(tmp_path / "mine[1]-fp32.onnx", weights_sha256=sha256)
    write_artefact(tmp_path / "mine[1]-one.onnx", (1, 64, 96, 3), weights_sha256=sha256)
    write_artefact(tmp_path / "mine[1]2.onnx", ANY, weights_sha256="1" * 64)
    (tmp_path / "mine[1]-bare.onnx").write_bytes(good.read_bytes())
    write_artefact(tmp_path / "yours.onnx", weights_sha256=sha256)
    assert [chain.path for chain in exported_chains(weights)] == [good]
    for name, reason in (("one", "frames of one size"), ("2", "of other weights"), ("bare", "no mine[1]-bare.json")):
        assert any(f"mine[1]{name}" in line.replace("-", "") and reason in line for line in caplog.messages), name
