"""Which files the parameters may name once the node runs: whoever reaches its services may set them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mgcda_core.weights.resolve import shipped_names


class TrustedFiles:
    """`start` are the values given at start by the parameters' full names; they stay allowed, whatever they are.

    Beside them `weights` may be a shipped name, an ego mask empty, and both a file below `folder`; without a folder,
    below that of the weights given at start, if they are a file. Links are followed first.
    """

    def __init__(self, start: Mapping[str, str], folder: str) -> None:
        self._start = dict(start)
        weights = Path(start["weights"]).expanduser()
        beside = weights.resolve().parent if weights.is_file() else None
        self._folder = Path(folder).expanduser().resolve() if folder else beside

    def refusal(self, name: str, value: str) -> str | None:
        """Why the parameter `name` may not become `value`, with the remedy; None if it may, or names no file."""
        if name not in self._start or value == self._start[name]:
            return None
        if value in shipped_names() if name == "weights" else value == "":
            return None
        if self._folder is not None and "://" not in value and _is_below(value, self._folder):
            return None
        below = f"a file below {self._folder}" if self._folder else "with weights_folder a file below that"
        free = f"a shipped name ({', '.join(shipped_names())})" if name == "weights" else "empty"
        return (
            f"{name} may become {free}, its value at start or {below}: start the node with this value, or with another "
            "weights_folder"
        )


def _is_below(value: str, folder: Path) -> bool:
    try:
        path = Path(value).expanduser().resolve()
        return path.is_relative_to(folder) and path.is_file()
    except (RuntimeError, OSError, ValueError):  # an unknown user, a loop of links, a byte that no path has
        return False
