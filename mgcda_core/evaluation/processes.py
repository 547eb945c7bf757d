"""One process or the N of `torchrun`: who takes which image, and how their parts become one."""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import TypeVar

Part = TypeVar("Part")
Whole = TypeVar("Whole")


def own_share(count: int) -> range:
    """The numbers below `count` that are this process's: every N-th."""
    return range(int(os.environ.get("RANK", "0")), count, _world())


def is_first() -> bool:
    """Whether this process is the one that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def own_device(device: str) -> str:
    """The GPU of this process, if `torchrun` started one a GPU and the caller named none."""
    import torch

    if "LOCAL_RANK" not in os.environ or device not in ("auto", "cuda") or not torch.cuda.is_available():
        return device
    return f"cuda:{os.environ['LOCAL_RANK']}"


def together(part: Part, join: Callable[[list[Part]], Whole]) -> Whole:
    """`join` of the parts of all processes, in the order of their ranks; the same on each of them.

    It is called in the first process only. Every process has to come here as often as the others.
    """
    if _world() == 1:
        return join([part])
    import torch.distributed as dist

    if not dist.is_initialized():
        # Open until the process ends: were it closed here, the next one could still reach the old one's server.
        dist.init_process_group("gloo")
        atexit.register(dist.destroy_process_group)
    group = dist.new_group(backend="gloo")  # arrays in main memory, whatever a training in this process uses
    assert isinstance(group, dist.ProcessGroup)
    parts = [part] * dist.get_world_size() if dist.get_rank() == 0 else None
    dist.gather_object(part, parts, group=group)
    whole: list[Whole | None] = [None if parts is None else join(parts)]
    dist.broadcast_object_list(whole, group=group)
    return whole[0]  # pyright: ignore[reportReturnType]


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
