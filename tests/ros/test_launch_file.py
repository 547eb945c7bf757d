"""launch/mgcda.launch.py, run with stand-ins: what it starts, and how.

test_launch_real.py runs it with the real launch_ros, where that is importable.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from launch_stand_in import load, named, start
from rclpy.parameter import Parameter

from mgcda_ros.node_parameters import CameraParameters, NodeParameters
from mgcda_ros.node_process import FAST_DDS_2
from mgcda_ros.parameters import check, fields

ROOT = Path(__file__).resolve().parents[2]
VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE", "CYCLONEDDS_URI")


@pytest.fixture()
def launch_file(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    for variable in (*VARIABLES, "RMW_IMPLEMENTATION", "ROS_DISTRO"):
        monkeypatch.delenv(variable, raising=False)
    return load("mgcda.launch.py", monkeypatch)


def node(launch_file: dict[str, Any], **given: str) -> Any:
    (found,) = named(start(launch_file, **given), "LifecycleNode")
    return found


def environment(launch_file: dict[str, Any], **given: str) -> dict[str, str]:
    return dict(action.arguments for action in named(start(launch_file, **given), "SetEnvironmentVariable"))


def test_without_arguments_only_the_shipped_files_count(launch_file: dict[str, Any]):
    action = node(launch_file)
    params_file, overrides = action.fields["parameters"]
    assert Path(params_file) == ROOT / "config" / "node.yaml"
    assert overrides == {}
    assert all(own == topic for own, topic in action.fields["remappings"])
    executables = re.findall(r'"(\w+) = mgcda_', (ROOT / "setup.py").read_text())
    assert action.fields["executable"] in executables
    assert action.fields["package"] == "mgcda_ros"


def test_every_argument_is_declared_with_a_description_and_every_parameter_exists(launch_file: dict[str, Any]):
    declared = launch_file["generate_launch_description"]().arguments[0]
    assert [action.arguments[0] for action in declared[:-1]] == list(launch_file["ARGUMENTS"])
    assert all(action.fields["description"].endswith(".") for action in declared[:-1])
    shared = {"cameras", *launch_file["STRINGS"], *launch_file["NUMBERS"], *launch_file["FLAGS"]}
    assert shared - {"use_sim_time"} <= set(fields(NodeParameters))  # use_sim_time is every node's
    assert set(launch_file["MOUNTING"]) <= set(fields(CameraParameters))


def test_arguments_become_parameters_of_the_right_type(launch_file: dict[str, Any]):
    given = {"weights": "/w.safetensors", "camera_height": "2", "autostart": "False", "use_sim_time": "true"}
    action = node(launch_file, namespace="left", transport="compressed", precision="fp16", threshold="0", **given)
    overrides = action.fields["parameters"][1]
    assert overrides == {
        "weights": "/w.safetensors", "camera_height": 2.0, "autostart": False, "use_sim_time": True,
        "transport": "compressed", "precision": "fp16", "threshold": 0.0,
    }  # fmt: skip
    assert {type(overrides["camera_height"]), type(overrides["threshold"])} == {float}
    assert action.fields["namespace"] == "left"


def test_log_level_counts_in_every_namespace(launch_file: dict[str, Any]):
    action = node(launch_file, namespace="front", log_level="warn")
    assert action.fields["arguments"] == ["--ros-args", "--log-level", "warn"]  # a logger's name holds the namespace


def test_compressed_images_follow_the_image_topic(launch_file: dict[str, Any]):
    action = node(launch_file, image="/cam/image_raw", camera_info="/cam/info")
    assert action.fields["remappings"] == [
        ("image", "/cam/image_raw"),
        ("image/compressed", "/cam/image_raw/compressed"),
        ("camera_info", "/cam/info"),
    ]


def test_several_cameras_share_the_node(launch_file: dict[str, Any]):
    given = {"image": "/{camera}/image_raw", "camera_height": "1.5,1.2", "camera_pitch": "0.1"}
    action = node(launch_file, cameras="front, rear", **given)
    remappings = dict(action.fields["remappings"])
    assert remappings["front/image"] == "/front/image_raw"
    assert remappings["rear/image/compressed"] == "/rear/image_raw/compressed"
    assert remappings["rear/camera_info"] == "rear/camera_info"
    assert action.fields["parameters"][1] == {
        "cameras": ["front", "rear"],
        "front.camera_height": 1.5, "rear.camera_height": 1.2,
        "front.camera_pitch": 0.1, "rear.camera_pitch": 0.1,
    }  # fmt: skip


def test_a_relative_topic_lies_under_each_camera(launch_file: dict[str, Any]):
    remappings = dict(node(launch_file, cameras="front,rear", image="image_raw").fields["remappings"])
    assert (remappings["front/image"], remappings["rear/image"]) == ("front/image_raw", "rear/image_raw")


@pytest.mark.parametrize("name", ["front", "_a1", "1a", "a-b", "a b", "a/b", "vorne_rechts", "hüfte", "a,a"])
def test_it_takes_the_camera_names_that_the_node_takes(launch_file: dict[str, Any], name: str):
    allowed = check([Parameter("cameras", value=name.split(","))], "unconfigured").successful
    try:
        launch_file["camera_names"](name)
    except ValueError:
        assert not allowed
    else:
        assert allowed


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cameras": "front,front"}, "cameras:=front,front: give distinct names"),
        ({"image": "/{camera}/image"}, "image:=/{camera}/image names {camera}, but there are none"),
        ({"cameras": "a,b", "camera_info": "/info"}, "camera_info:=/info is the same for all cameras"),
        ({"threshold": "high"}, "threshold:=high: not a number"),
        ({"cameras": "a,b,c", "camera_height": "1,2"}, "camera_height:=1,2: 2 numbers for 3 camera"),
        ({"autostart": "maybe"}, "autostart:=maybe: must be true or false"),
        ({"params_file": "/nix.yaml"}, "params_file:=/nix.yaml: there is no such file"),
        ({"profile": "/nix.xml"}, "profile:=/nix.xml: there is no such file"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(launch_file: dict[str, Any], given: dict[str, str], message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        start(launch_file, **given)


@pytest.mark.parametrize(("distribution", "library"), [("humble", "FASTRTPS"), ("jazzy", "FASTRTPS"), ("", "FASTDDS")])
def test_the_shipped_profile_goes_to_the_variable_of_the_distribution(
    launch_file: dict[str, Any], distribution: str, library: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ROS_DISTRO", distribution)
    shipped = str(ROOT / "config" / "fastdds_large_images.xml")
    assert environment(launch_file) == {f"{library}_DEFAULT_PROFILES_FILE": shipped}
    assert launch_file["FAST_DDS_2"] == FAST_DDS_2


def test_the_profile_is_the_rmws_or_the_named_one(launch_file: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    cyclone = (ROOT / "config" / "cyclonedds.xml").as_uri()
    assert environment(launch_file, profile="cyclonedds") == {"CYCLONEDDS_URI": cyclone}
    monkeypatch.setenv("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp")
    assert environment(launch_file) == {"CYCLONEDDS_URI": cyclone}
    assert list(environment(launch_file, profile="fastdds")) == ["FASTDDS_DEFAULT_PROFILES_FILE"]
    assert environment(launch_file, profile="none") == {}


def test_an_own_profile_stays(launch_file: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = tmp_path / "own.xml"
    own.write_text("<dds/>")
    assert environment(launch_file, profile=str(own)) == {"FASTDDS_DEFAULT_PROFILES_FILE": str(own)}
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "/team/profile.xml")
    assert environment(launch_file) == {}
    assert environment(launch_file, profile="fastdds") != {}
