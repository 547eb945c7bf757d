"""What a test sees of an `mgcda` command it ran; the `mgcda` fixture runs one."""

from __future__ import annotations

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]
"""Runs a command in this process: (exit code, stdout, stderr)."""


def only_error(result: tuple[int, str, str], code: int = 1) -> str:
    """The one line `error: ...` of a failed command."""
    assert result[0] == code, result
    assert "Traceback" not in result[2]
    last = result[2].strip().splitlines()[-1]
    if code == 1:
        assert result[2].strip() == last
    assert last.startswith("error: ")
    return last
