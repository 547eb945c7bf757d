"""One process or many: how they are opened, and what is averaged over them."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from mgcda_core.config import ConfigError, LoopConfig


def open_fabric(config: LoopConfig, multiple: int = 1) -> Fabric:
    """One process, or those `torchrun` started (one a device).

    `multiple`: what the images of each process must be a multiple of. Raises ConfigError if the batch cannot be shared.
    """
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if config.batch % (world * multiple):
        raise ConfigError(f"loop.batch is {config.batch}: {world} processes cannot share it equally, it must be a "
                          f"multiple of {world * multiple}")  # fmt: skip
    fabric = Fabric(
        accelerator=config.device,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        precision=config.precision,
    )
    fabric.launch()
    return fabric


def mean(value: Tensor, fabric: Fabric) -> Tensor:
    """Mean of a number over all processes; the same on each of them."""
    if fabric.world_size == 1:
        return value.detach()
    on_device = value.detach().to(fabric.device, torch.float32, copy=True)  # it reduces in place, on the device
    reduced = fabric.all_reduce(on_device, reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced


def any_of(flag: bool, fabric: Fabric) -> bool:
    """Whether the flag is up in any process."""
    return bool(mean(torch.tensor(float(flag), device=fabric.device), fabric) > 0)


def average_gradients(parameters: Iterable[nn.Parameter], fabric: Fabric) -> None:
    """Gradients become their mean over all processes, in one message; a missing one counts as zero."""
    if fabric.world_size == 1:
        return
    given = list(parameters)
    means = _averaged([p.grad if p.grad is not None else torch.zeros_like(p) for p in given], fabric)
    for parameter, gradient in zip(given, means, strict=True):
        parameter.grad = gradient


def average_buffers(networks: Iterable[nn.Module], fabric: Fabric) -> None:
    """Running statistics (batch norm) become their mean over all processes, so that all judge and save one network."""
    if fabric.world_size == 1:
        return
    buffers = [b for network in networks for b in network.buffers() if b.is_floating_point()]
    for buffer, value in zip(buffers, _averaged(buffers, fabric), strict=True):
        buffer.copy_(value)


def _averaged(tensors: list[Tensor], fabric: Fabric) -> list[Tensor]:
    if not tensors:
        return []
    flat = fabric.all_reduce(torch.cat([t.detach().flatten() for t in tensors]), reduce_op="mean")
    assert isinstance(flat, Tensor)
    parts = flat.split([t.numel() for t in tensors])
    return [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]
