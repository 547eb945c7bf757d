"""`mgcda bench parts`: the single maps of a made cache against their exact metrics, and the tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Run, only_error

from mgcda_core.bench.parts import RGB, parts
from mgcda_core.config import PRIORS, DataConfig, PrepareConfig
from mgcda_core.evaluation.pixel_metrics import exact
from mgcda_core.training.cache import Manifest, shard_path, write_shard

SIZE = (16, 24)


def write_cache(cache: Path, *, anomalous: bool = True) -> dict[str, torch.Tensor]:
    """Three samples in two shards, pictures at twice the maps' size; returns the maps."""
    g = torch.Generator().manual_seed(0)
    label = torch.zeros((3, *SIZE), dtype=torch.uint8)
    label[:, 4:9, 5:11], label[:, :2] = int(anomalous), 255
    prior = torch.rand((3, 3, *SIZE), generator=g) * 0.5
    prior[:, 0] = label == 1  # entropy knows all, where it counts
    prior[:, 2] = 0.5  # distance knows nothing
    image = torch.randint(0, 200, (3, 3, 2 * SIZE[0], 2 * SIZE[1]), generator=g, dtype=torch.uint8)
    synthesis = image + 10  # 10 grey levels off on normal pixels
    synthesis[:, :, 8:18, 10:22] += 20 * int(anomalous)
    synthesis[:, :, :4] = 255  # ignored
    maps = {"image": image, "synthesis": synthesis, "semantic": label.clone(), "prior": prior.half(), "label": label}
    config = PrepareConfig(DataConfig(rendered=3), "none", shard=2, truth=("background",))
    Manifest.of(config, "sum", 3).write(cache)
    for shard, part in enumerate((slice(0, 2), slice(2, 3))):
        piece = {name: map[part].contiguous() for name, map in maps.items()}
        write_shard(shard_path(cache, shard), piece, [{"scene": "drawn"}] * len(piece["label"]))
    return maps


def test_each_map_alone(tmp_path: Path) -> None:
    maps = write_cache(tmp_path / "made")
    found = parts(tmp_path / "made")
    assert (found.cache, found.truth, found.samples) == ("made", "background", 3)
    assert found.anomalous == pytest.approx(30 / (14 * 24))
    assert found.fidelity == pytest.approx(10, abs=1e-4)
    assert tuple(found.scores) == (*PRIORS[:3], RGB)
    for channel, name in enumerate(PRIORS[:3]):
        expected = exact(maps["prior"][:, channel].float().numpy(), maps["label"].numpy())
        assert found.scores[name]["ap"] == pytest.approx(expected["ap"], abs=1e-6)
        assert found.scores[name]["fpr95"] == pytest.approx(expected["fpr95"], abs=1e-6)
    assert found.scores["entropy"]["ap"] == found.scores["RGB"]["ap"] == 1
    assert found.scores["distance"]["ap"] == pytest.approx(found.anomalous)


def test_the_difference_is_of_the_pictures_at_the_labels_resolution(tmp_path: Path) -> None:
    """A chequered re-synthesis averages to the picture: a grain that no label can follow is no difference."""
    maps = write_cache(tmp_path / "made")
    chequers = np.indices(maps["image"].shape[-2:]).sum(0) % 2
    maps["image"][:], maps["synthesis"][:] = 100, torch.from_numpy(np.where(chequers, 80, 120).astype(np.uint8))
    for shard, part in enumerate((slice(0, 2), slice(2, 3))):
        piece = {name: map[part].contiguous() for name, map in maps.items()}
        write_shard(shard_path(tmp_path / "made", shard), piece, [{"scene": "drawn"}] * len(piece["label"]))
    assert parts(tmp_path / "made").fidelity == pytest.approx(0, abs=1e-4)


def test_the_command_prints_a_row_for_each_cache_and_map(mgcda: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_cache(tmp_path / name)
    md = tmp_path / "out" / "parts.md"
    code, text, _ = mgcda("bench", "parts", "--caches", f"{tmp_path / 'a'},{tmp_path / 'b'}", "--md", md)
    assert code == 0
    assert md.read_text() == text
    rows = [line for line in text.splitlines() if line.startswith(("| a ", "| b "))]
    assert len(rows) == 2 * 4 + 2
    assert "| a | background | entropy | 100.00 | 0.00 |" in rows
    assert rows[-1] == "| b | 3 | 8.93% | 10.00 |"


def test_nothing_to_compare_is_an_error(mgcda: Run, tmp_path: Path) -> None:
    write_cache(tmp_path / "clean", anomalous=False)
    assert "clean: there is nothing to compare, no positives" in only_error(
        mgcda("bench", "parts", "--caches", tmp_path / "clean")
    )
    assert "holds no cache" in only_error(mgcda("bench", "parts", "--caches", tmp_path / "none"))
