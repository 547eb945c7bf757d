"""The launch files under the real `launch` and `launch_ros`: Python and XML give the node the same command line."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

WHY = "launch_ros is not importable here: launch files ran with stand-ins only (test_launch_file, test_launch_views)"
pytest.importorskip("launch_ros", reason=WHY)
launch = pytest.importorskip("launch")
frontend = pytest.importorskip("launch.frontend")
sources = pytest.importorskip("launch.launch_description_sources")
actions = pytest.importorskip("launch_ros.actions")
substitutions = pytest.importorskip("launch.substitutions")

LAUNCH = Path(__file__).resolve().parents[2] / "launch"


@pytest.fixture(autouse=True)
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed mgcda_ros, made of this checkout."""
    (tmp_path / "share/ament_index/resource_index/packages").mkdir(parents=True)
    (tmp_path / "share/ament_index/resource_index/packages/mgcda_ros").touch()
    (tmp_path / "share/mgcda_ros").symlink_to(LAUNCH.parent)
    (tmp_path / "lib/mgcda_ros").mkdir(parents=True)
    (tmp_path / "lib/mgcda_ros/mgcda_node").touch(mode=0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path}{os.pathsep}{os.environ.get('AMENT_PREFIX_PATH', '')}")


def description(name: str) -> Any:
    path = str(LAUNCH / name)
    if name.endswith(".xml"):
        root, parser = frontend.Parser.load(path)
        return parser.parse_description(root)
    return sources.get_launch_description_from_python_launch_file(path)


def commands(entity: Any, context: Any) -> list[list[str]]:
    """Command lines of the nodes in `entity`, whose other actions are executed."""
    if isinstance(entity, actions.Node):
        if entity.condition is not None and not entity.condition.evaluate(context):
            return []
        entity._perform_substitutions(context)
        parts = [p for p in entity.cmd if not any(isinstance(s, substitutions.LocalSubstitution) for s in p)]
        return [["".join(s.perform(context) for s in part) for part in parts]]
    return [command for inner in entity.visit(context) or [] for command in commands(inner, context)]


def started(name: str, **given: str) -> tuple[dict[str, Any], dict[str, str], dict[str, str]]:
    """Parameters, remappings and environment that launch/`name` gives its node."""
    context = launch.LaunchContext()
    context.launch_configurations.update(given)
    (command,) = commands(description(name), context)
    parameters, remappings = {}, {}
    for option, value in pairwise(command):
        if option == "--params-file":
            for node in yaml.full_load(Path(value).read_text()).values():
                parameters.update(node["ros__parameters"])
        elif option == "-p":
            parameters.update({value.partition(":=")[0]: yaml.safe_load(value.partition(":=")[2])})
        elif option == "-r" and ":=" in value:  # the node's own name and namespace are filled in when it starts
            own, topic = value.split(":=")
            remappings[own] = topic
    return parameters, remappings, {k: v for k, v in context.environment.items() if k.endswith("PROFILES_FILE")}


GIVEN = {"image": "/cam/image", "camera_height": "2", "threshold": "0.5", "autostart": "false", "weights": "other"}


@pytest.mark.parametrize("given", [{}, GIVEN], ids=["defaults", "arguments"])
def test_python_and_xml_start_the_same(given: dict[str, str]):
    python, xml = started("mgcda.launch.py", **given), started("mgcda.launch.xml", **given)
    assert python[0] == xml[0]
    assert {name: type(value) for name, value in python[0].items()} == {n: type(v) for n, v in xml[0].items()}
    assert python[1] == xml[1]
    assert [Path(profile).name for profile in python[2].values()] == ["fastdds_large_images.xml"]
    assert [Path(profile).name for profile in xml[2].values()] == ["fastdds_large_images.xml"]
    assert ("image/compressed", "/cam/image/compressed") in python[1].items() or not given


def test_several_cameras():
    parameters, remappings, _ = started("mgcda.launch.py", cameras="front,rear", image="/{camera}/raw", weights="1")
    assert list(parameters["cameras"]) == ["front", "rear"]
    assert parameters["weights"] == "1"
    assert remappings["rear/image"] == "/rear/raw"


def test_replay_includes_the_node(tmp_path: Path):
    parameters, remappings, _ = started("replay.launch.py", bag=str(tmp_path), image="/camera/image_raw")
    assert parameters["use_sim_time"] is True
    assert remappings["image"] == "/camera/image_raw"
