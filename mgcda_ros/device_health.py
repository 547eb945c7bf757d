"""Memory and temperature of what the network runs on, as far as this machine tells; nothing is installed for it."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

_ZONES = Path("/sys/class/thermal")
_MB = 2**20


def memory_mb(device: str) -> dict[str, str]:
    """Megabytes (MiB) that this process holds, and of a GPU those that are in use and there are, as texts by key.

    n/a for a GPU that does not answer.
    """
    values = {"process_memory_mb": f"{resident_mb():.0f}"}
    torch = sys.modules.get("torch")  # never imported for this alone: the ONNX path goes without
    if device.startswith("cuda") and torch is not None and torch.cuda.is_initialized():
        try:
            free, total = torch.cuda.mem_get_info(_number(device))
            values["device_memory_mb"] = f"{(total - free) / _MB:.0f} of {total / _MB:.0f}"
        except RuntimeError:  # it is lost
            values["device_memory_mb"] = "n/a"
    return values


def temperature(device: str = "cpu", zones: Path = _ZONES) -> float | None:
    """Degrees Celsius of `device`, a GPU, where the NVIDIA driver tells (nvidia-ml-py is installed, no Jetson).

    Else of the hottest thermal zone: of a PC the CPU, never its GPU; of a Jetson also GPU and board. None without any.
    """
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_initialized():
        with contextlib.suppress(Exception):  # no nvidia-ml-py, no NVML on this machine, a lost GPU: each its own kind
            return float(torch.cuda.temperature(_number(device)))
    found = []
    for file in zones.glob("thermal_zone*/temp"):
        try:
            found.append(int(file.read_text()) / 1000.0)
        except (OSError, ValueError):  # a zone that is switched off answers with an error
            continue
    return max(found, default=None)


def _number(device: str) -> int:
    """N of `cuda:N NAME`."""
    return int(device.split()[0].partition(":")[2] or 0)


def resident_mb(pid: int | str = "self") -> float:
    """Resident memory of a process in MiB. Raises OSError if it has ended, or on a system without /proc."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MB
