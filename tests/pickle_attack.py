"""A pickle that would run code: opening a file that holds one must not."""

from __future__ import annotations

from pathlib import Path


class Attack:
    """Unpickling it would create the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.marker,)
