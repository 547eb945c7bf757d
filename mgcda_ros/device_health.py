"""Memory and temperature of what the network runs on, as far as this machine tells; nothing is installed for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_ZONES = Path("/sys/class/thermal")
_MB = 2**20


def memory_mb(device: str) -> dict[str, str]:
    """Megabytes (MiB) that this process holds, and of a GPU those that are in use and there are, as texts by key."""
    values = {"process_memory_mb": f"{resident_mb():.0f}"}
    torch = sys.modules.get("torch")  # never imported for this alone: the ONNX path goes without
    if device.startswith("cuda") and torch is not None and torch.cuda.is_initialized():
        free, total = torch.cuda.mem_get_info(int(device.split()[0].partition(":")[2] or 0))
        values["device_memory_mb"] = f"{(total - free) / _MB:.0f} of {total / _MB:.0f}"
    return values


def temperature(zones: Path = _ZONES) -> float | None:
    """The hottest thermal zone in degrees Celsius (CPU; on a Jetson GPU and board too); None where none is readable."""
    found = []
    for file in zones.glob("thermal_zone*/temp"):
        try:
            found.append(int(file.read_text()) / 1000.0)
        except (OSError, ValueError):  # a zone that is switched off answers with an error
            continue
    return max(found, default=None)


def resident_mb(pid: int | str = "self") -> float:
    """Resident memory of a process in MiB. Raises OSError if it has ended, or on a system without /proc."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _MB
