"""The commands on two processes, as torchrun starts them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from training_data import whole_method

from mgcda_core.config import DissimilarityTraining


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> DissimilarityTraining:
    return whole_method(tmp_path_factory.mktemp("caches"), tiny_weights)


def _torchrun(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--",
               "mgcda_core.cli", *map(str, words)]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=150)


def _flags(config: DissimilarityTraining, tmp_path: Path) -> list[object]:
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    return ["train", "dissimilarity", "--config", tmp_path / "train.yaml", "--run", tmp_path / "run"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_torchrun_trains_and_evaluates(config: DissimilarityTraining, drive: Path, tmp_path: Path) -> None:
    done = _torchrun(*_flags(config, tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("held-out composites") == 1
    weights = tmp_path / "run/weights.safetensors"
    done = _torchrun("eval", "--images", drive / "images", "--masks", drive / "masks", "--weights", weights,
                     "--anomaly_values", 2, "--device", "cpu", "--json", tmp_path / "report.json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("images=4") == 1
    assert (tmp_path / "report.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_an_error_in_one_process_ends_the_others(config: DissimilarityTraining, tmp_path: Path) -> None:
    sabotage = tmp_path / "sitecustomize.py"  # imported by every Python that has this folder on its path
    sabotage.write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import mgcda_core.training.domain_samples as d\n"
        "    d.DomainSamples.__getitem__ = lambda self, n: (_ for _ in ()).throw(OSError(f'disk gone at {n}'))\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    started = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        done = _torchrun(*_flags(config, tmp_path))
    assert done.returncode == 1
    assert "error: disk gone at 2" in done.stderr
    assert time.monotonic() - started < 120
