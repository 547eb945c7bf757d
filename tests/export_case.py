"""The tiny chain exported once, for frames of many sizes and up to four at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from mgcda_core.export.command import export

LEAST, LARGEST, MOST = (2, 2), (200, 160), 4
"""Frame sizes (height, width) and frames at a time that `tiny_onnx` takes."""
_exported: list[Path] = []
"""A fixture that several modules import is set up once in each, whatever its scope; half a minute each time."""


@pytest.fixture(scope="session")
def tiny_onnx(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny chain as .onnx in fp32, with its sidecar; nothing was compared."""
    if not _exported:
        out = tmp_path_factory.mktemp("exported")
        _exported.append(export(out, str(tiny_weights), min_size=LEAST, max_size=LARGEST, max_batch=MOST))
    return _exported[0]
