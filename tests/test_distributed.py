"""Training and evaluation on two real gloo processes, against one with the joined batch; by torchrun: test_torchrun."""

from __future__ import annotations

import csv
import dataclasses
import multiprocessing
import os
import shutil
import socket
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from training_data import AUGMENT, LOOP, make_data, whole_method

from mgcda_core.config import (
    ConfigError,
    DissimilarityTraining,
    EvaluationSet,
    ScoreName,
    SegmentationTraining,
    SegmenterConfig,
    SynthesisTraining,
)
from mgcda_core.evaluation import tally
from mgcda_core.evaluation.evaluate import evaluate_set
from mgcda_core.evaluation.protocols import Judging
from mgcda_core.training import dissimilarity, segmentation, synthesis
from mgcda_core.training.checkpoint import State, load_checkpoint
from mgcda_core.training.loop import Objective, Samples, fit
from mgcda_core.weights.resolve import load_weights

cv2.setNumThreads(0)  # before this process forks


def on_processes(count: int, work: Callable[[int], None], seconds: float = 120) -> None:
    """Run work(rank) in forked processes with the environment torchrun gives them; raises what they raised."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    failures = context.SimpleQueue()

    def start(rank: int) -> None:
        torch.set_num_threads(1)
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "GROUP_RANK": "0",
                       "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
                       "TORCHELASTIC_RUN_ID": "test"}  # fmt: skip
        try:
            work(rank)
        except BaseException:
            failures.put(f"rank {rank}: {traceback.format_exc()}")
            os._exit(1)

    processes = [context.Process(target=start, args=(rank,)) for rank in range(count)]
    for process in processes:
        process.start()
    deadline = time.monotonic() + seconds
    while any(p.is_alive() for p in processes) and failures.empty() and time.monotonic() < deadline:
        processes[0].join(0.05)
        processes[-1].join(0.05)
    if not failures.empty():
        time.sleep(1)  # the others' errors say more
    said = []
    while not failures.empty():
        said.append(failures.get())
    for process in processes:
        process.kill()
        process.join()
    if said:
        raise RuntimeError("\n".join(said))
    assert all(p.exitcode == 0 for p in processes), [p.exitcode for p in processes]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, tiny_weights: Path) -> DissimilarityTraining:
    return whole_method(tmp_path_factory.mktemp("caches"), tiny_weights)


def _checkpoint(run: Path) -> State:
    state = load_checkpoint(run)
    assert state is not None
    return state


def _gradients(run: Path) -> list[Tensor]:
    """Gradients of the first step, of network and projector, then of the classifiers: Adam's first moment / (1 - b1),
    which is 0 before it."""
    found = []
    for optimizer in _checkpoint(run).optimizers:
        for group in optimizer["param_groups"]:
            found += [optimizer["state"][k]["exp_avg"] / (1 - group["betas"][0]) for k in group["params"]]
    return found


def _difference(a: list[Tensor], b: list[Tensor]) -> float:
    """Greatest distance of two tensors of a pair, as a share of the tensor's length, or of 0.01 if that is more: the
    gradients of the biases before a normalisation are 0 but for rounding."""
    return max(float((x - y).norm() / x.norm().clamp(min=0.01)) for x, y in zip(a, b, strict=True))


def test_two_processes_give_the_gradient_of_one_with_the_joined_batch(
    config: DissimilarityTraining, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert config.cacl is not None
    loop = dataclasses.replace(config.loop, steps=1, batch=8, clip=0.0)
    whole = dataclasses.replace(config, loop=loop, validation=())
    apart = dataclasses.replace(whole, cacl=dataclasses.replace(config.cacl, gather=False))
    dissimilarity.train(whole, tmp_path / "one")
    on_processes(2, lambda rank: dissimilarity.train(whole, tmp_path / "two"))
    on_processes(2, lambda rank: dissimilarity.train(apart, tmp_path / "apart"))
    alone = SimpleNamespace(is_initialized=lambda: False)
    monkeypatch.setattr(dissimilarity, "dist", alone)  # each process divides by its own weights
    on_processes(2, lambda rank: dissimilarity.train(apart, tmp_path / "own mass"))
    one, two, not_gathered, own_mass = (_gradients(tmp_path / r) for r in ("one", "two", "apart", "own mass"))
    networks = [dissimilarity.DissimilarityNet(load_weights(config.weights).config.dissimilarity)]
    objective = dissimilarity.DissimilarityObjective(networks[0], torch.ones(2), whole)
    assert len(one) == sum(len(list(n.parameters())) for n in objective.learners().values())  # all three of them
    assert all(g.norm() > 0 for g in one[: len(list(networks[0].parameters()))])
    assert _difference(one, two) < 1e-5
    assert _difference(one, not_gathered) > 1e-3
    assert _difference(not_gathered, own_mass) > 1e-3


def test_a_run_of_two_processes_is_that_of_one_and_one_of_them_writes(
    config: DissimilarityTraining, tmp_path: Path
) -> None:
    loop = dataclasses.replace(config.loop, steps=3, validate_every=2, pictures_every=2)
    config = dataclasses.replace(config, loop=loop)
    dissimilarity.train(config, tmp_path / "one")
    on_processes(2, lambda rank: dissimilarity.train(config, tmp_path / f"two-{rank}"))
    assert not (tmp_path / "two-1").exists()
    files = [sorted(str(p.relative_to(run)) for p in run.rglob("*") if "tfevents" not in p.name)
             for run in (tmp_path / "one", tmp_path / "two-0")]  # fmt: skip
    assert files[0] == files[1]
    tables = []
    for name in ("metrics", "validation"):
        for run in ("one", "two-0"):
            with (tmp_path / run / f"{name}.csv").open(newline="") as file:
                tables.append([{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)])
    for one, two in (tables[:2], tables[2:]):
        for row, other in zip(one, two, strict=True):
            # A pixel at a probability of 0.5 may change its pool with the last bit, and with it what is drawn.
            drawn = ("L_CAC", "loss", "gradient_norm")
            close = {k for k in row if other[k] == pytest.approx(row[k], rel=1e-2 if k in drawn else 1e-3, abs=1e-4)}
            # Of this process's images alone: the number of pixels drawn and in the pools, each the mean of the two.
            of_a_share = {"anchors", "positives", "negatives", "AH", "AE", "NH", "NE", "recall", "false_alarm"}
            assert row.keys() - close <= of_a_share | {"images_per_s", "data_share"}
            counts = of_a_share & row.keys() - {"recall", "false_alarm"}
            assert all(2 * other[k] == pytest.approx(row[k], abs=3) for k in counts)
    # The biases before a normalisation have a gradient of 0 but for rounding, which Adam makes a whole step of.
    one, two = (_checkpoint(tmp_path / run).weights for run in ("one", "two-0"))
    assert _apart(one, two, config.loop.lr / 20) < 0.05  # a pixel drawn in place of another moves a few more
    one, two = (load_weights(tmp_path / run / "weights.safetensors") for run in ("one", "two-0"))
    assert one.config.threshold == pytest.approx(two.config.threshold, abs=1e-3)
    assert _apart(one.state, two.state, 1e-4) < 0.05


def _apart(one: Mapping[str, Tensor], two: Mapping[str, Tensor], distance: float) -> float:
    """Share of the numbers that differ by more than `distance`; the tensors must have the same names."""
    assert one.keys() == two.keys()
    far = sum(int(((v.float() - two[k].float()).abs() > distance).sum()) for k, v in one.items())
    return far / sum(v.numel() for v in one.values())


class Noisy(Objective):
    """Dropout and batch norm, an adversary, and a loss whose backward pass needs its own value."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        layers = nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1)
        self.trained, self.adversary = nn.Sequential(*layers), nn.Linear(1, 1)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        said = self.trained(x)
        assert self.adversary is not None
        against = (self.adversary(said.detach()) - y).square().mean()
        return {"loss": (said - y).square().mean().exp(), "adversary": against}


class Points(Samples):
    """x, sum of x; the process dies of sample `last`."""

    def __init__(self, last: int = -1) -> None:
        self.last = last

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        if number == self.last:
            raise KeyboardInterrupt
        x = torch.from_numpy(np.random.default_rng(number).normal(size=3)).float()
        return x, x.sum(0, keepdim=True)


FOUR = dataclasses.replace(LOOP, batch=4, steps=4)


def test_two_processes_resume_bit_for_bit_and_one_goes_on(tmp_path: Path) -> None:
    for run in ("whole", "broken"):
        (tmp_path / run).mkdir()

    on_processes(2, lambda rank: fit(Noisy(), Points(), FOUR, tmp_path / "whole") and None)
    with pytest.raises(RuntimeError, match="KeyboardInterrupt"):  # after step 2 of 4
        on_processes(2, lambda rank: fit(Noisy(), Points(last=8), FOUR, tmp_path / "broken") and None)
    shutil.copytree(tmp_path / "broken", tmp_path / "alone", dirs_exist_ok=True)
    on_processes(2, lambda rank: fit(Noisy(), Points(), FOUR, tmp_path / "broken", resume=True) and None)
    whole, resumed = _checkpoint(tmp_path / "whole"), _checkpoint(tmp_path / "broken")
    assert (whole.step, resumed.step) == (4, 4)
    assert all(torch.equal(v, resumed.weights[k]) for k, v in whole.weights.items())
    assert all(torch.equal(a, b) for a, b in zip(whole.rng, resumed.rng, strict=True))
    assert _checkpoint(tmp_path / "alone").step == 2
    fit(Noisy(), Points(), FOUR, tmp_path / "alone", resume=True)
    alone = _checkpoint(tmp_path / "alone")
    assert (alone.step, len(alone.rng)) == (4, 1)
    assert not torch.equal(alone.weights["trained.0.weight"], whole.weights["trained.0.weight"])  # other dropout


def test_processes_agree_on_weights_and_statistics_but_draw_their_own_noise(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()

    def train(rank: int) -> None:
        network = fit(Noisy(), Points(), FOUR, tmp_path / "run")
        torch.save((network.state_dict(), torch.rand(8)), tmp_path / f"{rank}.pt")

    on_processes(2, train)
    (one, noise), (other, other_noise) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert "1.running_var" in one
    assert all(torch.equal(v, other[k]) for k, v in one.items())
    assert not torch.equal(noise, other_noise)


def test_segmentation_and_synthesis_train_on_two_processes(
    tiny_weights: Path, tiny_config: SegmenterConfig, tmp_path: Path
) -> None:
    data = make_data(tmp_path / "data")
    loop = dataclasses.replace(FOUR, steps=1)
    segment = SegmentationTraining(data, tiny_config, AUGMENT, loop)
    paint = SynthesisTraining(
        data, str(tiny_weights), tiny_config, AUGMENT, loop, adversarial=1.0, discriminator_width=4
    )
    on_processes(2, lambda rank: segmentation.train(segment, tmp_path / f"segmentation-{rank}"))
    on_processes(2, lambda rank: synthesis.train(paint, tmp_path / f"synthesis-{rank}"))
    for name in ("segmentation", "synthesis"):
        assert (tmp_path / f"{name}-0/weights.safetensors").is_file()
        assert not (tmp_path / f"{name}-1").exists()


def test_every_process_stops_at_a_loss_that_is_not_finite_in_one(tmp_path: Path) -> None:
    class Broken(Points):
        def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
            x, y = super().__getitem__(number)
            return x * (float("nan") if number == 7 else 1.0), y  # step 2, rank 1

    def train(rank: int) -> None:
        with pytest.raises(RuntimeError, match="not finite at step 2"):
            fit(Noisy(), Broken(), FOUR, tmp_path)

    on_processes(2, train)
    assert {p.name for p in (tmp_path / "failed").iterdir()} == {
        "batch-0.safetensors", "batch-1.safetensors", "weights.safetensors"
    }  # fmt: skip
    assert _checkpoint(tmp_path).step == 1


def test_mdat_needs_both_domains_in_every_process(config: DissimilarityTraining, tmp_path: Path) -> None:
    """Six samples on two processes are V A V and A V A: their mean is not the loss of the joined batch."""
    six = dataclasses.replace(config, loop=dataclasses.replace(config.loop, batch=6))

    def train(rank: int) -> None:
        with pytest.raises(ConfigError, match="multiple of 4"):
            dissimilarity.train(six, tmp_path / "run")

    on_processes(2, train)


@pytest.mark.parametrize(
    ("score", "judging", "exact_pixels"),
    [
        ("model", Judging("smiyc", gallery=3), 80_000_000),
        ("maxlogit", Judging(components="obstacle", second_pass=True), 15_000),  # more than two images, less than four
        ("msp", Judging("dicnet"), 0),
    ],
)
def test_two_processes_evaluate_what_one_does(
    drive: Path, tiny_weights: Path, score: ScoreName, judging: Judging, exact_pixels: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(tally, "EXACT_PIXELS", exact_pixels)
    chosen = EvaluationSet("drive", str(drive / "images"), str(drive / "masks"), (2,))

    def judge(progress: Callable[[int, int], None] | None = None) -> tuple[str, list[str], list[np.ndarray]]:
        """All figures, rows, intervals, curves and components to the last digit, and the pictures."""
        result, pictures = evaluate_set(chosen, tiny_weights, score, judging, "cpu", progress)
        assert len(result.rows) == 4
        return repr(dataclasses.replace(result, seconds=0.0)), [p.name for p in pictures], [p.score for p in pictures]

    figures, names, maps = judge()
    assert "interval=(0." in figures
    assert len(maps) == judging.gallery

    def compare(rank: int) -> None:
        seen: list[tuple[int, int]] = []
        own_figures, own_names, own_maps = judge(lambda *now: seen.append(now))
        assert own_figures == figures
        assert own_names == names
        assert all((one == other).all() for one, other in zip(own_maps, maps, strict=True))
        assert seen == [(1, 2), (2, 2)]

    on_processes(2, compare)
