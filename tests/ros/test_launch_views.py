"""What stands beside mgcda.launch.py: its XML twin, the replay, rviz and Foxglove, the DDS profiles."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticStatus
from launch_stand_in import LAUNCH, load, named, start

from mgcda_ros.diagnostics import FrameStatistics, to_status
from mgcda_ros.node_process import NODE_NAME

CONFIG = LAUNCH.parent / "config"
XML = ElementTree.parse(LAUNCH / "mgcda.launch.xml").getroot()
OUTPUTS = re.findall(r'publisher\([^"]*"(\w+)"', (LAUNCH.parent / "mgcda_ros" / "outputs.py").read_text())
TOPICS = {"/diagnostics", *(f"{NODE_NAME}/{name}" for name in OUTPUTS)}


@pytest.fixture()
def launch_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return load("mgcda.launch.py", monkeypatch)


@pytest.fixture()
def replay_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return load("replay.launch.py", monkeypatch)


def test_the_xml_twin_has_the_arguments_of_the_python_one(launch_file: dict[str, Any]):
    arguments = {arg.attrib["name"]: arg.attrib for arg in XML.iter("arg")}
    assert set(launch_file["ARGUMENTS"]) - set(arguments) == {"cameras", "profile"}
    for name, attributes in arguments.items():
        default, description = launch_file["ARGUMENTS"][name]
        own = attributes["default"].replace("$(find-pkg-share mgcda_ros)", str(LAUNCH.parent))
        assert (name, own) == (name, default)
        assert description.startswith(attributes["description"])  # less what it says about several cameras


def test_the_xml_twin_sets_every_parameter_and_topic(launch_file: dict[str, Any]):
    (group,) = XML.findall("group")
    order = [child.tag for child in group]
    assert order.index("set_parameters_from_file") < order.index("set_parameter")  # what comes later overrides
    numbers = {*launch_file["NUMBERS"], *launch_file["MOUNTING"]}
    settings = {setting.attrib["name"]: setting.attrib for setting in group.iter("set_parameter")}
    assert set(settings) == {*launch_file["STRINGS"], *launch_file["FLAGS"], *numbers}
    for name, attributes in settings.items():
        assert attributes["unless"] == rf"$(eval '\'$(var {name})\' == \'\'')"
        assert attributes["value"] == (rf"$(eval 'float(\'$(var {name})\')')" if name in numbers else f"$(var {name})")
    (node,) = group.iter("node")
    python = named(start(launch_file, log_level="$(var log_level)"), "LifecycleNode")[0].fields
    assert (node.attrib["pkg"], node.attrib["exec"], node.attrib["name"]) == (
        python["package"], python["executable"], python["name"],
    )  # fmt: skip
    assert node.attrib["args"] == " ".join(python["arguments"])
    expected = launch_file["remappings"]("$(var image)", "$(var camera_info)", [""])
    assert [(remap.attrib["from"], remap.attrib["to"]) for remap in node.iter("remap")] == expected


def test_the_replay_plays_when_the_node_is_active(replay_file: dict[str, Any], tmp_path: Path):
    actions = start(replay_file, bag=str(tmp_path), rate="0.5", loop="true")
    (registered,) = actions
    transition = registered.arguments[0].fields
    (player,) = transition["entities"]
    assert transition["goal_state"] == "active"
    assert player.fields["cmd"][:4] == ["ros2", "bag", "play", str(tmp_path)]
    assert {"--clock", "--loop"} < set(player.fields["cmd"])
    included = named(replay_file["generate_launch_description"]().arguments[0], "IncludeLaunchDescription")[0]
    assert dict(included.fields["launch_arguments"]) == {"use_sim_time": "true"}
    assert Path(included.arguments[0].arguments[0]).is_file()


def test_the_replay_records_and_shows_if_asked(replay_file: dict[str, Any], tmp_path: Path):
    actions = start(replay_file, bag=str(tmp_path), record="out", foxglove="True")
    (recorder,) = named(actions, "ExecuteProcess")
    command = recorder.fields["cmd"]
    assert command[:5] == ["ros2", "bag", "record", "--output", "out"]
    recorded = {topic for topic in TOPICS if re.search(command[-1], topic)}
    unwanted = {f"{NODE_NAME}/{name}" for name in ("score", "segmentation", "segmentation_label_info")}
    assert recorded == TOPICS - unwanted
    assert re.search(command[-1], f"/left{NODE_NAME}/front/hazards_info")
    (bridge,) = named(actions, "Node")
    assert bridge.fields["package"] == "foxglove_bridge"
    assert bridge.fields["parameters"] == [{"port": 8765, "use_sim_time": True}]


@pytest.mark.parametrize("given", [{"bag": "/nix"}, {"loop": "2"}, {"foxglove": "ja"}, {"foxglove_port": "x"}])
def test_the_replay_says_what_is_wrong(replay_file: dict[str, Any], given: dict[str, str], tmp_path: Path):
    (name,) = given
    with pytest.raises(ValueError, match=f"{name}:={given[name]}: "):
        start(replay_file, **{"bag": str(tmp_path), **given})


def test_the_replays_arguments_are_not_the_nodes(replay_file: dict[str, Any], launch_file: dict[str, Any]):
    assert not set(replay_file["ARGUMENTS"]) & set(launch_file["ARGUMENTS"])


def values_of(tree: Any, key: str) -> Iterator[Any]:
    """Every value that stands under `key` anywhere in `tree`."""
    for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        if name == key:
            yield value
        yield from values_of(value, key)


def test_rviz_shows_topics_that_exist():
    config = yaml.safe_load((CONFIG / "mgcda.rviz").read_text())
    manager = config["Visualization Manager"]
    assert manager["Global Options"]["Fixed Frame"] == "base_link"
    shown = {d["Topic"]["Value"]: d["Class"].rpartition("/")[2] for d in manager["Displays"] if "Topic" in d}
    assert shown == {
        f"{NODE_NAME}/hazards": "MarkerArray", f"{NODE_NAME}/overlay": "Image", f"{NODE_NAME}/mask": "Image",
    }  # fmt: skip
    assert set(shown) <= TOPICS


def test_foxglove_shows_topics_and_diagnostics_that_exist():
    layout = json.loads((CONFIG / "foxglove_layout.json").read_text())
    panels = layout["configById"]
    placed = [*values_of(layout["layout"], "first"), *values_of(layout["layout"], "second")]
    assert sorted(panel for panel in placed if isinstance(panel, str)) == sorted(panels)
    topics = {*values_of(panels, "imageTopic"), *values_of(panels, "topicToRender"), *values_of(panels, "topicPath")}
    topics |= {topic for shown in values_of(panels, "topics") for topic in shown}
    assert {f"{NODE_NAME}/overlay", f"{NODE_NAME}/hazards", "/diagnostics"} <= topics <= TOPICS
    status = to_status(FrameStatistics().snapshot(), (DiagnosticStatus.OK, ""), "node", {})
    published = {pair.key for pair in status.values}
    plotted = [re.search(r'^/diagnostics\..*\{key=="(\w+)"\}\.value$', path) for path in values_of(panels, "value")]
    assert plotted
    assert {found and found[1] for found in plotted} <= published


def test_the_dds_profiles_hold_large_images():
    dds = {"dds": "http://www.eprosima.com"}
    profile = ElementTree.parse(CONFIG / "fastdds_large_images.xml").getroot()
    assert int(profile.findtext(".//dds:segment_size", "0", dds)) >= 32 * 1024 * 1024
    cyclone = ElementTree.parse(CONFIG / "cyclonedds.xml").getroot()
    buffer = cyclone.find(".//{https://cdds.io/config}SocketReceiveBufferSize")
    assert buffer is not None
    assert buffer.attrib == {"max": "32MB"}  # a min would keep processes from starting on an untuned kernel


def test_the_sros2_policy_allows_what_the_node_does():
    policy = ElementTree.parse(CONFIG / "sros2_policy.xml").getroot()
    published = {topic.text for topics in policy.iter("topics") if "publish" in topics.attrib for topic in topics}
    lifecycle = {"~/transition_event", "/rosout", "/parameter_events"}
    assert published == {*lifecycle, *(topic.replace(NODE_NAME, "~") for topic in TOPICS)}
    replied = {service.text for service in policy.iter("service")}
    services = re.findall(r'create_service\(\w+, "([^"]+)"', (LAUNCH.parent / "mgcda_ros" / "services.py").read_text())
    assert services
    assert set(services) < replied
