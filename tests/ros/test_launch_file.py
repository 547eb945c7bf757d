"""launch/mgcda.launch.py, run with stand-ins for `launch` and `launch_ros` (no wheels): what it starts, and how."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mgcda_ros.node_process import FAST_DDS_2
from mgcda_ros.parameters import FIELDS

LAUNCH_FILE = Path(__file__).resolve().parents[2] / "launch" / "mgcda.launch.py"


class Action:
    """Keeps what it was made with."""

    def __init__(self, *arguments: Any, **fields: Any) -> None:
        self.arguments, self.fields = arguments, fields

    def perform(self, context: dict[str, str]) -> str:
        return context[self.arguments[0]]


@pytest.fixture()
def launch_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    names = {
        "launch": ["LaunchContext", "LaunchDescription"],
        "launch.actions": ["DeclareLaunchArgument", "OpaqueFunction", "SetEnvironmentVariable"],
        "launch.substitutions": ["LaunchConfiguration"],
        "launch_ros": [],
        "launch_ros.actions": ["LifecycleNode"],
    }
    for module, classes in names.items():
        stand_in = ModuleType(module)
        for name in classes:
            setattr(stand_in, name, type(name, (Action,), {}))
        monkeypatch.setitem(sys.modules, module, stand_in)
    return runpy.run_path(str(LAUNCH_FILE))


def start(launch_file: dict[str, Any], **given: str) -> list[Action]:
    defaults = {name: default for name, (default, _) in launch_file["ARGUMENTS"].items()}
    return launch_file["start"](defaults | given)


@pytest.mark.parametrize(("distribution", "library"), [("humble", "FASTRTPS"), ("jazzy", "FASTRTPS"), ("", "FASTDDS")])
def test_without_arguments_only_the_shipped_files_count(
    launch_file: dict[str, Any], distribution: str, library: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROS_DISTRO", distribution)
    environment, node = start(launch_file)
    assert environment.arguments[0] == f"{library}_DEFAULT_PROFILES_FILE"
    assert launch_file["FAST_DDS_2"] == FAST_DDS_2
    assert Path(environment.arguments[1]).is_file()
    params_file, overrides = node.fields["parameters"]
    assert Path(params_file).is_file()
    assert overrides == {}
    assert (node.fields["package"], node.fields["executable"]) == ("mgcda_ros", "mgcda_node")


def test_arguments_become_parameters_of_the_right_type_and_remappings(launch_file: dict[str, Any]):
    given = {"weights": "/w.safetensors", "camera_height": "2", "autostart": "False", "image": "/cam/image_raw"}
    (node,) = start(launch_file, dds_profile="", namespace="front", **given)
    overrides = node.fields["parameters"][1]
    assert overrides == {"weights": "/w.safetensors", "camera_height": 2.0, "autostart": False}
    assert type(overrides["camera_height"]) is float
    assert node.fields["remappings"][0] == ("image", "/cam/image_raw")
    assert node.fields["namespace"] == "front"


def test_log_level_counts_in_every_namespace(launch_file: dict[str, Any]):
    (node,) = start(launch_file, dds_profile="", namespace="front", log_level="warn")
    assert node.fields["arguments"] == ["--ros-args", "--log-level", "warn"]  # a logger's name would hold the namespace


def test_every_parameter_it_sets_exists(launch_file: dict[str, Any]):
    declared = launch_file["generate_launch_description"]().arguments[0]
    assert [action.arguments[0] for action in declared[:-1]] == list(launch_file["ARGUMENTS"])
    assert set(launch_file["STRINGS"]) | set(launch_file["NUMBERS"]) | {"autostart"} <= set(FIELDS)
