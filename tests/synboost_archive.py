"""Writes a tar of the layout SynBoost publishes."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

FOLDERS = {
    "cityscapes_best.pth": "models/image-segmentation",
    "latest_net_G.pth": "models/image-synthesis",
    "latest_net_E.pth": "models/image-synthesis",
    "best_net_baseline_void_prior_spadedecoder_mult_3.pth": "models/image-dissimilarity",
}


def write_archive(path: Path, checkpoints: Mapping[str, Any], mode: str = "w", *, new_format: bool = True) -> Path:
    """A tar of the published layout; a value of type bytes is stored as it is, a key with a slash under that path."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in checkpoints.items():
            data = io.BytesIO(content if isinstance(content, bytes) else b"")
            if not isinstance(content, bytes):
                torch.save(content, data, _use_new_zipfile_serialization=new_format)
            info = tarfile.TarInfo(name if "/" in name else f"{FOLDERS[name]}/{name}")
            info.size = data.seek(0, io.SEEK_END)
            data.seek(0)
            tar.addfile(info, data)
    return path
