"""Starts mgcda_node: `ros2 launch mgcda_ros mgcda.launch.py image:=/camera/image_raw camera_info:=/camera/camera_info`.

The node configures and activates itself (parameter autostart). Arguments left empty keep what the parameter file says.
"""

from __future__ import annotations

import os
from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

from launch import LaunchContext, LaunchDescription

# launch/ and config/ are neighbours in the checkout and in share/mgcda_ros.
CONFIG = Path(__file__).resolve().parents[1] / "config"

# Fast DDS 2, of these distributions, reads another variable; Fast DDS 3 warns about that one.
FAST_DDS_2 = ("humble", "iron", "jazzy")
ARGUMENTS: dict[str, tuple[str, str]] = {
    "namespace": ("", "Namespace of the node; one a camera."),
    "image": ("image", "Topic of the camera images."),
    "camera_info": ("camera_info", "Topic of the camera's CameraInfo."),
    "params_file": (str(CONFIG / "node.yaml"), "Parameter file."),
    "weights": ("", "Weights: a shipped name, a .safetensors path, an https url, an exported .onnx or .engine."),
    "device": ("", "Device of the network: auto, cpu, cuda or cuda:N."),
    "backend": ("", "Runtime of the network: auto, torch, onnxruntime, tensorrt, tensorrt-rtx and their variants."),
    "threshold": ("", "Score from which a pixel is masked; negative takes the weights' own."),
    "camera_height": ("", "Height of the camera above the road in metres."),
    "camera_pitch": ("", "Pitch of the camera in radians; positive looks down."),
    "autostart": ("", "false leaves configure and activate to a lifecycle manager."),
    "dds_profile": (
        str(CONFIG / "fastdds_large_images.xml"),
        "Fast DDS profile for large images; the camera driver needs it too. Empty keeps the environment's.",
    ),
    "log_level": ("info", "debug, info, warn or error."),
}
STRINGS, NUMBERS = ("weights", "device", "backend"), ("threshold", "camera_height", "camera_pitch")


def start(context: LaunchContext) -> list[SetEnvironmentVariable | LifecycleNode]:
    """The node's actions for the arguments as they were given."""
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    overrides: dict[str, str | float | bool] = {name: given[name] for name in STRINGS if given[name]}
    overrides.update({name: float(given[name]) for name in NUMBERS if given[name]})
    if given["autostart"]:
        overrides["autostart"] = given["autostart"].lower() in ("true", "1", "yes")
    profile = given["dds_profile"]
    variable = f"{'FASTRTPS' if os.environ.get('ROS_DISTRO') in FAST_DDS_2 else 'FASTDDS'}_DEFAULT_PROFILES_FILE"
    environment = [SetEnvironmentVariable(variable, profile)] if profile else []
    node = LifecycleNode(
        package="mgcda_ros",
        executable="mgcda_node",
        name="mgcda_node",
        namespace=given["namespace"],
        parameters=[given["params_file"], overrides],
        remappings=[("image", given["image"]), ("camera_info", given["camera_info"])],
        # For all loggers: the node's own name is another in every namespace.
        arguments=["--ros-args", "--log-level", given["log_level"]],
        output="screen",
        emulate_tty=True,
    )
    return [*environment, node]


def generate_launch_description() -> LaunchDescription:
    """Every argument with its default and description, then the node."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
