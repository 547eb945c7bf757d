"""The training loop, in the open: one step after the other on lightning-fabric, on one process or many."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from mgcda_core.config import LoopConfig
from mgcda_core.training.checkpoint import State, generator_state, load_checkpoint, save_checkpoint, set_generator_state
from mgcda_core.training.processes import any_of, average_buffers, average_gradients, mean, open_fabric
from mgcda_core.training.run import RunLog, save_failure
from mgcda_core.training.schedule import Plateau, warmup_poly


class Objective(nn.Module):
    """What a training minimises: frozen networks, the trained ones, and the losses of a batch.

    Subclasses set `trained`, which is exported, and define `forward(*batch) -> {"loss": scalar, name: scalar for the
    log, ...}`. `assistant`, if set, is trained on the same loss and never exported (CACL's projector). `adversary`, if
    set, minimises the scalar "adversary" of the same forward pass in a step of its own (domain classifiers, a
    discriminator); "loss" must not reach its parameters, nor "adversary" those of the others.
    """

    trained: nn.Module
    assistant: nn.Module | None
    adversary: nn.Module | None
    adversary_lr: float = 1e-4
    adversary_betas: tuple[float, float] = (0.9, 0.99)
    step: int = 0
    """The step under way; the loop sets it."""

    def __init__(self) -> None:
        super().__init__()
        self.assistant = self.adversary = None

    def train(self, mode: bool = True) -> Objective:
        """Only the trained networks ever leave evaluation mode."""
        super().train(False)
        for network in (self.trained, self.assistant, self.adversary):
            if network is not None:
                network.train(mode)
        return self

    def learners(self) -> dict[str, nn.Module]:
        """The networks with parameters to train, by the name they have in a checkpoint."""
        named = {"trained": self.trained, "assistant": self.assistant, "adversary": self.adversary}
        return {name: network for name, network in named.items() if network is not None}


class Samples(Dataset[tuple[Tensor, ...]]):
    """An endless data set: sample n is a function of n alone, whatever process makes it."""

    def name(self, number: int) -> str:
        """Where sample n comes from, for an error message."""
        return f"sample {number}"


Validate = Callable[[nn.Module], dict[str, float]]
"""The network to export -> figures; "loss" drives the plateau schedule, the greatest "ap" picks the exported weights.
Every process takes its share of the data and all return the same figures."""


def fit(
    objective: Objective,
    samples: Samples,
    config: LoopConfig,
    run: Path,
    *,
    resume: bool = False,
    validate: Validate | None = None,
    picture: Callable[[nn.Module, int], None] | None = None,
    fabric: Fabric | None = None,
) -> nn.Module:
    """Train `objective` for `config.steps` steps; returns the network to export, in evaluation mode.

    That is the moving average (the trained network itself with `ema: 0`), of the best validation if `validate_every`
    is set. Step i uses samples i * batch .. (i + 1) * batch - 1, each of N processes its N-th part, and averages the
    gradients, so a resumed run sees what an unbroken one would. Raises
    RuntimeError if a loss or a gradient stops being finite; RUN/failed then holds the batch and the weights.
    """
    fabric = fabric or open_fabric(config)
    training = Training(objective, config, fabric)
    first = training.restore(run) if resume else 0
    started, log = time.monotonic(), RunLog(run, config, first, active=fabric.is_global_zero)
    waiting = time.monotonic()
    for step, (numbers, batch) in enumerate(batches(samples, config, first, fabric), first):
        log.waited(time.monotonic() - waiting)
        training.set_lr(step)
        objective.step = step
        losses = training.losses(batch)
        norm = training.update(losses)
        if not math.isfinite(norm):
            names = [samples.name(n) for n in numbers]
            raise RuntimeError(save_failure(run, step, names, batch, training.weights(), fabric.global_rank))
        done = step + 1
        last = done == config.steps
        if done % config.log_every == 0 or last:
            figures = {k: float(mean(v, fabric)) for k, v in losses.items() if k != "adversary"}
            log.write(done, figures | {"gradient_norm": norm, "lr": training.lr(step)})
        if validate and config.validate_every and (done % config.validate_every == 0 or last):
            figures = training.judge(validate)
            log.validation(done, figures)
        if picture and fabric.is_global_zero and config.pictures_every and (done % config.pictures_every == 0 or last):
            picture(training.exported(), done)
            training.model.train()
        out_of_time = config.minutes > 0 and any_of(time.monotonic() - started > 60 * config.minutes, fabric)
        if done % config.checkpoint_every == 0 or last or out_of_time:
            training.save(run, done)
        if out_of_time:
            break
        waiting = time.monotonic()
    log.close()
    return training.best()


class Training:
    """The parameters, moments and averages of one run, and one update of them."""

    def __init__(self, objective: Objective, config: LoopConfig, fabric: Fabric) -> None:
        self.objective, self.config, self.fabric = objective, config, fabric
        trained = objective.trained
        objective.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        objective.to(fabric.device)
        self.average = AveragedModel(trained, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)
        groups = _groups([trained, *([objective.assistant] if objective.assistant else [])], config.weight_decay)
        optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)]
        if objective.adversary is not None:
            optimizers.append(torch.optim.Adam(objective.adversary.parameters(), objective.adversary_lr,
                                               objective.adversary_betas))  # fmt: skip
        self.base_lr = [config.lr, objective.adversary_lr]
        self.model, *self.optimizers = fabric.setup(objective, *optimizers)
        self.plateau = Plateau()
        self.best_ap, self.best_weights = -math.inf, None
        self.model.train()
        if fabric.global_rank:  # the networks began alike; dropout and noise are each process's own
            torch.manual_seed(config.seed + 1_000_003 * fabric.global_rank)

    def lr(self, step: int) -> float:
        """Learning rate of the trained network at `step`."""
        if self.config.schedule == "plateau":
            return self.config.lr * self.plateau.factor
        return self.config.lr * warmup_poly(step, self.config.steps, self.config.warmup, self.config.power)

    def set_lr(self, step: int) -> None:
        for optimizer, base in zip(self.optimizers, self.base_lr, strict=False):
            for group in optimizer.param_groups:
                group["lr"] = base * self.lr(step) / self.config.lr

    def losses(self, batch: list[Tensor]) -> dict[str, Tensor]:
        """The objective's forward pass.

        DDP would average the gradients during the backward pass, but expects one a forward pass, and there are two: so
        it is told not to, and `update` averages them.
        """
        with self.fabric.no_backward_sync(self.model, enabled=self.fabric.world_size > 1):
            return self.model(*batch)

    def update(self, losses: dict[str, Tensor]) -> float:
        """One step of the networks and one of the adversary; returns the gradient norm of the former.

        If a loss or a gradient is not finite nothing is changed, and so is what it returns.
        """
        network = [p for group in self.optimizers[0].param_groups for p in group["params"]]
        self.backward(losses["loss"], network)
        norm = torch.nn.utils.clip_grad_norm_(network, self.config.clip or math.inf)
        health = norm + 0 * losses["loss"].detach()
        if self.objective.adversary is not None:
            against = list(self.objective.adversary.parameters())
            self.backward(losses["adversary"], against)
            total = torch.nn.utils.get_total_norm([p.grad for p in against if p.grad is not None])
            health = health + 0 * (losses["adversary"].detach() + total)
        if not math.isfinite(figure := float(mean(health, self.fabric))):
            return figure
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average_buffers(self.objective.learners().values(), self.fabric)
        if self.config.ema:
            self.average.update_parameters(self.objective.trained)
        return figure

    def backward(self, loss: Tensor, parameters: list[nn.Parameter]) -> None:
        """Gradients of the mean loss over all processes."""
        self.fabric.backward(loss)
        average_gradients(parameters, self.fabric)

    def exported(self) -> nn.Module:
        """The network that would be exported now."""
        return (self.average.module if self.config.ema else self.objective.trained).eval()

    def judge(self, validate: Validate) -> dict[str, float]:
        """Validate the network to export, keep it if it is the best so far, and move the plateau schedule."""
        network = self.exported()
        with torch.inference_mode():
            figures = validate(network)
        self.model.train()
        self.plateau.see(figures["loss"])
        if figures["ap"] > self.best_ap:
            self.best_ap = figures["ap"]
            self.best_weights = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
        return figures

    def best(self) -> nn.Module:
        """The network to export, with the weights of its best validation if there was one."""
        network = self.exported()
        if self.best_weights is not None:
            network.load_state_dict(self.best_weights)
        return network

    def weights(self) -> dict[str, Tensor]:
        """Every trained tensor, the moving average and the best weights, by name."""
        parts = {name: network.state_dict() for name, network in self.objective.learners().items()}
        parts |= {"average": self.average.state_dict()} if self.config.ema else {}
        parts |= {"best": self.best_weights} if self.best_weights is not None else {}
        return {f"{part}.{k}": v for part, state in parts.items() for k, v in state.items()}

    def save(self, run: Path, step: int) -> None:
        rng = self.fabric.all_gather(generator_state(self.fabric.device)).view(self.fabric.world_size, -1)  # pyright: ignore
        progress = {"best_ap": self.best_ap if self.best_weights else None, "plateau": vars(self.plateau)}
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        state = State(step, self.weights(), optimizers, list(rng.cpu()), progress)
        if self.fabric.is_global_zero:
            save_checkpoint(run, state)
        self.fabric.barrier()

    def restore(self, run: Path) -> int:
        """Go back to the newest checkpoint of the run; returns its step, 0 if there is none."""
        found = load_checkpoint(run)
        if found is None:
            return 0
        parts: dict[str, dict[str, Tensor]] = {}
        for key, value in found.weights.items():
            part, name = key.split(".", 1)
            parts.setdefault(part, {})[name] = value
        for name, network in self.objective.learners().items():
            network.load_state_dict(parts[name])
        if self.config.ema:
            self.average.load_state_dict(parts["average"])
        self.best_weights, best_ap = parts.get("best"), found.progress["best_ap"]
        self.best_ap = -math.inf if best_ap is None else best_ap
        self.plateau = Plateau(**found.progress["plateau"])
        for optimizer, state in zip(self.optimizers, found.optimizers, strict=True):
            optimizer.load_state_dict(state)
        if len(found.rng) == self.fabric.world_size:  # on another number of processes there is no unbroken run to match
            set_generator_state(found.rng[self.fabric.global_rank], self.fabric.device)
        return found.step


def _groups(networks: list[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Norms and biases are not decayed."""
    parameters = [p for network in networks for p in network.parameters() if p.requires_grad]
    matrices, vectors = [p for p in parameters if p.ndim > 1], [p for p in parameters if p.ndim <= 1]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def batches(
    samples: Samples, config: LoopConfig, first: int, fabric: Fabric
) -> Iterator[tuple[list[int], list[Tensor]]]:
    """(sample numbers, tensors on the device) of this process for every step from `first` on."""
    share = config.batch // fabric.world_size
    starts = range(first * config.batch + fabric.global_rank * share, config.steps * config.batch, config.batch)
    numbers = [list(range(start, start + share)) for start in starts]
    loader = DataLoader(
        samples,
        batch_sampler=numbers,
        num_workers=config.workers,
        pin_memory=fabric.device.type == "cuda",
        prefetch_factor=4 if config.workers else None,
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # else it draws from the generator of dropout and noise, which resuming restores
    )
    for which, batch in zip(numbers, loader, strict=True):
        yield which, [fabric.to_device(part) for part in batch]


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
