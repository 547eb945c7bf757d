"""Which files may be named while the node runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mgcda_ros.trusted_files import TrustedFiles

URL = f"https://example.org/a.safetensors#sha256={'0' * 64}"


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """A folder with files of its own, a link that leads out of it and a pipe; beside it what is not to be read."""
    folder = tmp_path / "given"
    (folder / "deeper").mkdir(parents=True)
    for path in (
        folder / "first.onnx",
        folder / "deeper" / "other.onnx",
        folder / "ego.png",
        tmp_path / "foreign.onnx",
    ):
        path.touch()
    (folder / "link.onnx").symlink_to(tmp_path / "foreign.onnx")
    os.mkfifo(folder / "pipe.png")
    return folder


def refused(files: TrustedFiles, name: str, *values: str | Path) -> list[bool]:
    return [files.refusal(name, str(value)) is not None for value in values]


def test_what_was_given_at_start_stays_allowed_whatever_it_is() -> None:
    files = TrustedFiles({"weights": URL, "front.ego_mask": "/anywhere/ego.png"}, "")
    assert refused(files, "weights", URL, "lite") == [False, False]
    assert refused(files, "front.ego_mask", "/anywhere/ego.png", "") == [False, False]
    assert refused(files, "threshold", "whatever") == [False]


@pytest.mark.parametrize("by_parameter", [True, False])
def test_else_only_a_file_below_the_folder(folder: Path, by_parameter: bool) -> None:
    weights = "lite" if by_parameter else str(folder / "first.onnx")
    files = TrustedFiles({"weights": weights, "ego_mask": ""}, str(folder) if by_parameter else "")
    assert refused(files, "weights", folder / "first.onnx", folder / "deeper" / "other.onnx") == [False, False]
    assert refused(files, "ego_mask", folder / "ego.png", folder / "deeper" / ".." / "ego.png") == [False, False]
    outside = folder.parent / "foreign.onnx"
    others = (outside, folder / ".." / "foreign.onnx", folder / "link.onnx", folder, folder / "none.onnx", "", URL,
              "a\0b", "~nobody_of_this_name/x", "/dev/zero", "x" * 100_000)  # fmt: skip
    assert refused(files, "weights", *others) == [True] * len(others)
    assert refused(files, "ego_mask", outside, folder / "pipe.png", "lite") == [True] * 3


def test_without_a_folder_no_file_and_the_reason_says_what_to_do(folder: Path) -> None:
    files = TrustedFiles({"weights": "lite", "ego_mask": ""}, "")
    assert files.refusal("weights", str(folder / "first.onnx")) == (
        "weights may become a shipped name (lite), its value at start or with weights_folder a file below that: start "
        "the node with this value, or with another weights_folder"
    )
    below = TrustedFiles({"weights": "lite", "ego_mask": ""}, str(folder))
    assert f"empty, its value at start or a file below {folder}:" in (below.refusal("ego_mask", "/etc/passwd") or "")
