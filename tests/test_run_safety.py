"""A run that is killed at any moment, or meets a broken sample, can always be gone on with."""

from __future__ import annotations

import csv
import dataclasses
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
import yaml
from command_line import Run, only_error
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from training_data import whole_method

from mgcda_core import cli
from mgcda_core.config import DissimilarityTraining
from mgcda_core.training.cache import CachedDomain
from mgcda_core.training.checkpoint import State, load_checkpoint, save_checkpoint
from mgcda_core.training.domain_samples import DomainSamples
from mgcda_core.training.prepare import load_frozen

cv2.setNumThreads(0)  # before this process forks
KILLS = 10
FORK = multiprocessing.get_context("fork")  # a copy of this process has PyTorch imported already


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> DissimilarityTraining:
    config = whole_method(tmp_path_factory.mktemp("caches"), tiny_weights)
    return dataclasses.replace(config, validation=(), loop=dataclasses.replace(config.loop, steps=24, batch=2))


def _command(config: DissimilarityTraining, folder: Path) -> list[str]:
    folder.mkdir()
    (folder / "train.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(dataclasses.asdict(config)))))
    return ["train", "dissimilarity", "--config", str(folder / "train.yaml"), "--run", str(folder / "run")]


def _step(run: Path) -> int:
    state = load_checkpoint(run)
    assert state is None or all(torch.isfinite(v).all() for v in state.weights.values() if v.is_floating_point())
    return state.step if state else 0


def _start(words: list[str]) -> Any:
    process = FORK.Process(target=cli.main, args=(words,))
    process.start()
    return process


def _figures(run: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without what differs from run to run."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k not in ("images_per_s", "data_share")} for row in rows]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_killed_at_ten_random_moments_ends_as_the_unbroken_one(
    config: DissimilarityTraining, tmp_path: Path, mgcda: Run
) -> None:
    started = time.monotonic()
    assert mgcda(*_command(config, tmp_path / "whole"))[0] == 0
    a_step = (time.monotonic() - started) / config.loop.steps
    words, run, rng = _command(config, tmp_path / "killed"), tmp_path / "killed/run", random.Random(0)
    steps, half_written = [0], 0
    for _ in range(KILLS):
        process = _start([*words, "--resume"])
        while not any(int(p.name[-7:]) > steps[-1] for p in run.glob("checkpoint-*")) and process.is_alive():
            time.sleep(0.002)
        time.sleep(rng.uniform(0, a_step))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        half_written += (run / ".checkpoint-writing").exists()
        steps.append(_step(run))
        assert steps[-1] > steps[-2]
    print(f"killed after the steps {steps[1:]}, {half_written} times in the middle of a checkpoint")
    last = _start([*words, "--resume"])
    last.join(150)
    assert last.exitcode == 0
    assert (run / "weights.safetensors").read_bytes() == (tmp_path / "whole/run/weights.safetensors").read_bytes()
    assert _figures(run) == _figures(tmp_path / "whole/run")
    assert [row["step"] for row in _figures(run)] == [str(n + 1) for n in range(config.loop.steps)]


def test_a_checkpoint_survives_a_kill_at_each_of_its_own_file_operations(tmp_path: Path) -> None:
    """The same without luck: the writing process ends at its n-th opening, renaming or removing, for every n."""

    def state(step: int) -> State:
        return State(step, {"w": torch.full((3,), float(step))}, [{}], [torch.get_rng_state()], {"best_ap": None})

    def write(run: Path, dies_at: int) -> None:
        left = [dies_at]

        def count(event: str, _: object) -> None:
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
                left[0] -= 1
                if left[0] == 0:
                    os._exit(9)

        sys.addaudithook(count)
        save_checkpoint(run, state(2))
        os._exit(0)

    outcomes = []
    for dies_at in range(1, 100):
        run = tmp_path / str(dies_at)
        save_checkpoint(run, state(1))
        process = FORK.Process(target=write, args=(run, dies_at))
        process.start()
        process.join()
        found = load_checkpoint(run)
        assert found is not None and found.weights["w"].tolist() == 3 * [found.step]
        outcomes.append(found.step)
        save_checkpoint(run, state(3))  # and the next one clears up
        assert [p.name for p in run.iterdir() if not p.name.startswith(".")] == ["checkpoint-0000003"]
        if process.exitcode == 0:
            break
    assert outcomes == sorted(outcomes)
    assert min(outcomes.count(1), outcomes.count(2)) > 5, outcomes


def test_a_broken_sample_stops_the_training_with_all_there_is_to_know(
    config: DissimilarityTraining, tmp_path: Path, mgcda: Run
) -> None:
    config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps=3, batch=4))
    words, run = _command(config, tmp_path / "a"), tmp_path / "a/run"
    digest = load_frozen(config.weights)[1]
    domains = [CachedDomain(Path(str(path)), digest) for path in (config.void_class, config.anomaly_mix)]
    samples = DomainSamples(domains, config.crop, config.flip, config.loop.seed)
    (shard,) = Path(str(config.void_class)).glob("shard-*")
    good, maps = shard.read_bytes(), load_file(shard)
    maps["prior"][samples.where(6)[1]] = float("nan")  # the second V of the second step
    assert all(samples.where(n) != samples.where(6) for n in range(6))
    with safe_open(shard, "pt") as file:
        metadata = file.metadata()
    try:
        save_file(maps, shard, metadata)
        error = only_error(mgcda(*words))
    finally:
        shard.write_bytes(good)
    names = [samples.name(n) for n in range(4, 8)]
    assert f"not finite at step 2 on {', '.join(names)}: " in error and str(run / "failed") in error
    broken = load_file(run / "failed/batch-0.safetensors")
    assert broken["3"].isnan().flatten(1).any(1).tolist() == [False, False, True, False]  # the uncertainty maps
    saved, before = load_file(run / "failed/weights.safetensors"), load_checkpoint(run)
    assert before is not None and before.step == 1
    assert saved.keys() == before.weights.keys() and all(torch.equal(v, saved[k]) for k, v in before.weights.items())
    code, out, _ = mgcda(*words, "--resume")  # the shard is whole again
    assert code == 0 and f"train: {run}" in out
    assert _step(run) == 3
