"""Stand-ins for `launch` and `launch_ros`, which have no wheels: launch files run, their actions keep what they got."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
MODULES = (
    "launch", "launch.actions", "launch.event_handlers", "launch.events", "launch.events.process",
    "launch.launch_description_sources", "launch.substitutions",
    "launch_ros", "launch_ros.actions", "launch_ros.event_handlers",
)  # fmt: skip


class Action:
    """Keeps what it was made with."""

    def __init__(self, *arguments: Any, **fields: Any) -> None:
        self.arguments, self.fields = arguments, fields

    def perform(self, context: dict[str, str]) -> str:
        """What LaunchConfiguration does."""
        return context[self.arguments[0]]


class StandIn(ModuleType):
    """A module in which every class is an Action of its own name."""

    def __getattr__(self, name: str) -> type[Action]:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (Action,), {})
        setattr(self, name, made)
        return made


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Names that launch/`name` defines, run with the stand-ins."""
    for module in MODULES:
        monkeypatch.setitem(sys.modules, module, StandIn(module))
    return runpy.run_path(str(LAUNCH / name))


def start(launch_file: dict[str, Any], **given: str) -> list[Any]:
    """What the launch file starts with the arguments `given`, the others at their defaults."""
    assert set(given) <= set(launch_file["ARGUMENTS"])
    defaults = {name: default for name, (default, _) in launch_file["ARGUMENTS"].items()}
    return launch_file["start"](defaults | given)


def named(actions: list[Any], kind: str) -> list[Any]:
    """Those of `actions` that are of the class `kind`."""
    return [action for action in actions if type(action).__name__ == kind]
