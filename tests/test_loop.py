"""The loop, its run folder and its checkpoints, on a network small enough to compare every number."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mgcda_core.config import ConfigError, DataConfig, LoopConfig, SegmentationTraining, SegmenterConfig
from mgcda_core.training.checkpoint import State, load_checkpoint, save_checkpoint
from mgcda_core.training.loop import Objective, Samples, fit
from mgcda_core.training.run import start_run
from mgcda_core.training.schedule import PATIENCE, Plateau, warmup_poly

LOOP = LoopConfig(
    steps=2, batch=2, warmup=1, workers=0, log_every=1, checkpoint_every=1, precision="32-true", device="cpu"
)


class Line(Objective):
    """y = a x + b with dropout, so that resuming must restore the generator too."""

    def __init__(self, dropout: float = 0.5) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trained = nn.Sequential(nn.Linear(3, 8), nn.Dropout(dropout), nn.Linear(8, 1))

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.trained(x) - y).square().mean()}


class Points(Samples):
    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        x = torch.from_numpy(np.random.default_rng(number).normal(size=3)).float()
        return x, x.sum(0, keepdim=True)


@pytest.mark.parametrize("stop", [1, 3])
def test_resuming_is_bit_for_bit_an_unbroken_run(stop: int, tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, steps=6, checkpoint_every=1)
    for run in ("whole", "broken"):
        (tmp_path / run).mkdir()
    whole = fit(Line(), Points(), loop, tmp_path / "whole")

    class Killed(Points):
        def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
            if number >= stop * loop.batch:
                raise KeyboardInterrupt
            return super().__getitem__(number)

    with pytest.raises(KeyboardInterrupt):
        fit(Line(), Killed(), loop, tmp_path / "broken")
    torch.manual_seed(123)
    broken = fit(Line(), Points(), loop, tmp_path / "broken", resume=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), broken.parameters(), strict=True))
    steps = [line.split(",")[0] for line in (tmp_path / "broken/metrics.csv").read_text().splitlines()]
    assert steps == ["step", *map(str, range(1, 7))]


def test_a_resumed_run_keeps_its_configuration(tiny_config: SegmenterConfig, tmp_path: Path) -> None:
    config = SegmentationTraining(DataConfig(rendered=1), tiny_config, loop=LOOP)
    start_run(tmp_path, config, resume=False)
    start_run(tmp_path, dataclasses.replace(config, loop=dataclasses.replace(LOOP, workers=1)), resume=True)
    with pytest.raises(ConfigError, match="another loop"):
        start_run(tmp_path, dataclasses.replace(config, loop=dataclasses.replace(LOOP, lr=0.5)), resume=True)


class Game(Objective):
    """A line with an assistant of its own, against an adversary that wants to tell its output from the truth."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.trained, self.assistant, self.adversary = nn.Linear(3, 1), nn.Linear(1, 1), nn.Linear(1, 1)
        self.adversary_lr = 0.01

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        assert self.assistant is not None and self.adversary is not None
        said = self.trained(x)
        fooled = torch.func.functional_call(
            self.adversary, {k: v.detach() for k, v in self.adversary.named_parameters()}, (said,)
        )
        loss = (said - y).square().mean() + (self.assistant(said) - y).square().mean() - 0.01 * fooled.mean()
        return {
            "loss": loss,
            "adversary": (self.adversary(said.detach()) - self.adversary(y)).mean() + 0.0 * loss.detach(),
        }


def test_assistant_and_adversary_learn_and_resume_bit_for_bit(tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, steps=10, checkpoint_every=5, ema=0.5)
    start = {k: v.clone() for k, v in Game().state_dict().items()}
    games = {}
    for run, stop in (("whole", 99), ("broken", 5)):
        (tmp_path / run).mkdir()
        games[run] = Game()

        class Stops(Points):
            def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
                if number >= stop * loop.batch:  # noqa: B023
                    raise KeyboardInterrupt
                return super().__getitem__(number)

        if run == "whole":
            fit(games[run], Stops(), loop, tmp_path / run)
            continue
        with pytest.raises(KeyboardInterrupt):
            fit(games[run], Stops(), loop, tmp_path / run)
        games[run] = Game()
        fit(games[run], Points(), loop, tmp_path / run, resume=True)
    whole, broken = games["whole"].state_dict(), games["broken"].state_dict()
    assert all(torch.equal(whole[k], broken[k]) for k in whole)
    assert not any(torch.equal(whole[k], start[k]) for k in whole if k != "adversary.bias")


def test_the_best_validation_is_what_comes_out_and_survives_a_resume(tmp_path: Path) -> None:
    loop = dataclasses.replace(LOOP, steps=4, validate_every=1, ema=0.0)
    seen: list[Tensor] = []

    def validate(network: nn.Module) -> dict[str, float]:
        seen.append(next(network.parameters()).detach().clone())
        return {"loss": 1.0, "ap": [0.1, 0.7, 0.3, 0.2][len(seen) - 1]}

    out = fit(Line(0.0), Points(), loop, tmp_path, validate=validate)
    assert torch.equal(next(out.parameters()), seen[1])
    assert not torch.equal(seen[1], seen[3])
    resumed = fit(Line(0.0), Points(), loop, tmp_path, validate=validate, resume=True)
    assert torch.equal(next(resumed.parameters()), seen[1])
    with (tmp_path / "validation.csv").open(newline="") as file:
        assert [row["ap"] for row in csv.DictReader(file)] == ["0.1", "0.7", "0.3", "0.2"]


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_evidence(tmp_path: Path) -> None:
    class Broken(Points):
        def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
            x, y = super().__getitem__(number)
            return x * (float("nan") if number == 5 else 1.0), y

        def name(self, number: int) -> str:
            return f"point {number}"

    loop = dataclasses.replace(LOOP, steps=6, checkpoint_every=1)
    with pytest.raises(RuntimeError, match="not finite at step 3 on point 4, point 5") as caught:
        fit(Line(), Broken(), loop, tmp_path)
    assert str(tmp_path / "failed") in str(caught.value)
    batch = load_file(tmp_path / "failed/batch-0.safetensors")
    assert batch["0"].isnan().any(1).tolist() == [False, True]
    before = load_checkpoint(tmp_path)
    assert before is not None and before.step == 2
    kept = load_file(tmp_path / "failed/weights.safetensors")
    assert kept.keys() == before.weights.keys()
    assert all(torch.equal(kept[k], v) for k, v in before.weights.items())
    assert all(torch.isfinite(v).all() for v in kept.values() if v.is_floating_point())


class Root(torch.autograd.Function):
    """The square root's backward pass at 0, below a finite value."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * float("inf")


@pytest.mark.parametrize("of", ["loss", "adversary"])
def test_a_gradient_that_is_not_finite_changes_nothing(of: str, tmp_path: Path) -> None:
    class Steep(Game):
        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            losses = super().forward(x, y)
            return {**losses, of: Root.apply(losses[of])} if self.step == 1 else losses  # type: ignore[dict-item]

    game = Steep()
    with pytest.raises(RuntimeError, match="or its gradient is not finite at step 2"):
        fit(game, Points(), dataclasses.replace(LOOP, steps=3, checkpoint_every=1), tmp_path)
    before = load_checkpoint(tmp_path)
    assert before is not None and before.step == 1
    assert all(torch.equal(before.weights[f"trained.{k}"], v) for k, v in game.trained.state_dict().items())
    assert game.adversary is not None
    assert all(torch.equal(before.weights[f"adversary.{k}"], v) for k, v in game.adversary.state_dict().items())


@pytest.mark.parametrize("name", ["batch", "log_every", "checkpoint_every", "lr"])
def test_zeros_that_cannot_work_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"loop.{name} is 0"):
        dataclasses.replace(LOOP, **{name: 0})


def test_metrics_and_tensorboard_are_written(tmp_path: Path) -> None:
    fit(Line(), Points(), LOOP, tmp_path)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["data_share"]) <= 1 for row in rows)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"metrics/loss" in events.read_bytes()


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    objective = Line(dropout=0.0)
    before = objective(*map(torch.stack, zip(*(Points()[i] for i in range(64)), strict=True)))["loss"]
    fit(
        objective,
        Points(),
        dataclasses.replace(LOOP, steps=150, batch=16, lr=0.02, log_every=50, checkpoint_every=150),
        tmp_path,
    )
    after = objective(*map(torch.stack, zip(*(Points()[i] for i in range(64)), strict=True)))["loss"]
    assert after < 0.1 * before


def _state(step: int) -> State:
    return State(step, {"w": torch.ones(2)}, [{}], [torch.get_rng_state()], {"best_ap": None})


def test_a_half_written_checkpoint_is_never_read(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, _state(1))
    (tmp_path / ".checkpoint-writing").mkdir()
    (tmp_path / ".checkpoint-writing/weights.safetensors").write_bytes(b"half")
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    save_checkpoint(tmp_path, _state(2))
    assert [p.name for p in tmp_path.glob("checkpoint-*")] == ["checkpoint-0000002"]


def test_a_checkpoint_of_another_format_is_refused_by_name(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, _state(1)) / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 1}))
    with pytest.raises(ValueError, match="checkpoint-0000001 has format 1"):
        load_checkpoint(tmp_path)


def test_schedule_warms_up_and_ends_near_zero() -> None:
    factors = [warmup_poly(i, 100, 10, 0.9) for i in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[10] == pytest.approx(0.9**0.9)
    assert factors[-1] < 0.02
    assert all(b <= a for a, b in itertools.pairwise(factors[10:]))


def test_plateau_halves_after_ten_validations_without_progress() -> None:
    plateau = Plateau()
    for loss in (1.0, *[1.0] * PATIENCE):
        plateau.see(loss)
    assert (plateau.factor, plateau.best) == (1.0, 1.0)
    plateau.see(0.99995)  # a twenty-thousandth is no progress
    assert plateau.factor == 0.5
    for loss in (0.9, *[0.95] * PATIENCE):
        plateau.see(loss)
    assert plateau.factor == 0.5
    plateau.see(math.inf)
    assert plateau.factor == 0.25
    with pytest.raises(ConfigError, match="validate_every"):
        LoopConfig(schedule="plateau")


def test_a_batch_that_processes_cannot_share_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="3 processes cannot share it"):
        fit(Line(), Points(), LOOP, tmp_path)
