"""Starts mgcda_node: `ros2 launch mgcda_ros mgcda.launch.py image:=/camera/image_raw camera_info:=/camera/camera_info`.

Several cameras share one process and one network: `cameras:=front,rear image:=/{camera}/image_raw`. The node configures
and activates itself (parameter autostart). Arguments left empty keep what the parameter file says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

from launch import LaunchContext, LaunchDescription

# launch/ and config/ are neighbours in the checkout and in share/mgcda_ros.
CONFIG = Path(__file__).resolve().parents[1] / "config"

# Fast DDS 2, of these distributions, reads another variable; Fast DDS 3 warns about that one.
FAST_DDS_2 = ("humble", "iron", "jazzy")
PROFILES = {"fastdds": CONFIG / "fastdds_large_images.xml", "cyclonedds": CONFIG / "cyclonedds.xml"}
ARGUMENTS: dict[str, tuple[str, str]] = {
    "namespace": ("", "Namespace of the node."),
    "cameras": ("", "Names of the cameras that share the node, by commas: front,rear. Empty is one camera."),
    "image": (
        "image",
        "Topic of the images, without /compressed. With cameras {camera} stands for the name of each: "
        "/{camera}/image_raw; a relative topic lies under each name.",
    ),
    "camera_info": ("camera_info", "Topic of the CameraInfo. With cameras as for image."),
    "transport": ("", "raw or compressed."),
    "params_file": (str(CONFIG / "node.yaml"), "Parameter file."),
    "weights": ("", "Weights: a shipped name, a .safetensors path, an https url, an exported .onnx or .engine."),
    "device": ("", "Device of the network: auto, cpu, cuda or cuda:N."),
    "backend": ("", "Runtime of the network: auto, torch, onnxruntime, tensorrt, tensorrt-rtx and their variants."),
    "precision": ("", "Precision of an exported network: auto, fp32, fp16 or int8."),
    "threshold": ("", "Score from which a pixel is masked; negative takes the weights' own."),
    "camera_height": (
        "",
        "Height of the camera above the road in metres. With cameras one for all or one each: 1.5,1.2.",
    ),
    "camera_pitch": ("", "Pitch of the camera in radians; positive looks down. One for all or one each."),
    "autostart": ("", "false leaves configure and activate to a lifecycle manager."),
    "use_sim_time": ("", "true takes the time from /clock."),
    "profile": (
        "",
        "DDS profile for large images: fastdds or cyclonedds (shipped), a path, or none. The camera driver needs it "
        "too. Empty takes the environment's, else the shipped one for RMW_IMPLEMENTATION.",
    ),
    "log_level": ("info", "debug, info, warn, error or fatal."),
}
STRINGS, FLAGS = ("weights", "device", "backend", "precision", "transport"), ("autostart", "use_sim_time")
NUMBERS, MOUNTING = ("threshold",), ("camera_height", "camera_pitch")
Values = dict[str, "str | float | bool | list[str]"]


def camera_names(text: str) -> list[str]:
    """The names in `front,rear`; a single empty one for the camera without a name."""
    names = [name.strip() for name in text.split(",")]
    valid = all(name.isidentifier() and name.isascii() for name in names) and len(set(names)) == len(names)
    if names != [""] and not valid:
        raise ValueError(
            f"cameras:={text}: give distinct names of letters, digits and _, by commas: cameras:=front,rear"
        )
    return names


def remapping(name: str, topic: str, cameras: Sequence[str]) -> list[tuple[str, str]]:
    """(from, to) of the subscription `name` of every camera."""
    if "{camera}" in topic and cameras == [""]:
        raise ValueError(f"{name}:={topic} names {{camera}}, but there are none: give cameras:=front,rear")
    if "{camera}" not in topic and topic.startswith("/") and len(cameras) > 1:
        raise ValueError(f"{name}:={topic} is the same for all cameras: write {{camera}} where the name stands in it")
    pairs = []
    for camera in cameras:
        own = f"{camera}/{name}" if camera else name
        relative = camera and "{camera}" not in topic and not topic.startswith("/")
        pairs.append((own, f"{camera}/{topic}" if relative else topic.replace("{camera}", camera)))
    return pairs


def remappings(image: str, info: str, cameras: Sequence[str]) -> list[tuple[str, str]]:
    """(from, to) of all subscriptions; that of the compressed images follows image, as in image_transport."""
    images = remapping("image", image, cameras)
    return [*images, *((f"{own}/compressed", f"{topic}/compressed") for own, topic in images),
            *remapping("camera_info", info, cameras)]  # fmt: skip


def number(name: str, text: str) -> float:
    """`text` as a number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name}:={text}: not a number") from None


def mounting(name: str, text: str, cameras: Sequence[str]) -> Values:
    """The parameter `name` of every camera, from one number for all or one each."""
    values = [number(name, part) for part in text.split(",")]
    if len(values) not in (1, len(cameras)):
        raise ValueError(f"{name}:={text}: {len(values)} numbers for {len(cameras)} camera(s): give one, or one each")
    values = values * len(cameras) if len(values) == 1 else values
    return {f"{camera}.{name}" if camera else name: value for camera, value in zip(cameras, values, strict=True)}


def flag(name: str, text: str) -> bool:
    """`text` as true or false."""
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{name}:={text}: must be true or false")
    return text.lower() == "true"


def parameters(given: dict[str, str], cameras: list[str]) -> Values:
    """The parameters that the arguments set, which override those of the file."""
    values: Values = {name: given[name] for name in STRINGS if given[name]}
    values.update({name: number(name, given[name]) for name in NUMBERS if given[name]})
    values.update({name: flag(name, given[name]) for name in FLAGS if given[name]})
    for name in MOUNTING:
        values.update(mounting(name, given[name], cameras) if given[name] else {})
    return {**values, "cameras": cameras} if cameras != [""] else values


def environment(profile: str) -> dict[str, str]:
    """The variable that names the DDS profile, or nothing."""
    used = "cyclonedds" if "cyclonedds" in os.environ.get("RMW_IMPLEMENTATION", "") else "fastdds"
    library = profile if profile in PROFILES else used
    if library == "cyclonedds":
        variable = "CYCLONEDDS_URI"
    else:
        variable = f"{'FASTRTPS' if os.environ.get('ROS_DISTRO') in FAST_DDS_2 else 'FASTDDS'}_DEFAULT_PROFILES_FILE"
    if profile == "none" or (not profile and variable in os.environ):
        return {}
    path = PROFILES.get(profile or library) or existing("profile", profile)
    return {variable: path.as_uri() if library == "cyclonedds" else str(path)}


def existing(name: str, path: str) -> Path:
    """`path`, absolute, if it is a file."""
    found = Path(path).expanduser().absolute()
    if not found.is_file():
        raise ValueError(f"{name}:={path}: there is no such file")
    return found


def start(context: LaunchContext) -> list[SetEnvironmentVariable | LifecycleNode]:
    """The node's actions for the arguments as they were given."""
    given = {name: LaunchConfiguration(name).perform(context).strip() for name in ARGUMENTS}
    cameras = camera_names(given["cameras"])
    node = LifecycleNode(
        package="mgcda_ros",
        executable="mgcda_node",
        name="mgcda_node",
        namespace=given["namespace"],
        parameters=[str(existing("params_file", given["params_file"])), parameters(given, cameras)],
        remappings=remappings(given["image"], given["camera_info"], cameras),
        # For all loggers: the node's own name is another in every namespace.
        arguments=["--ros-args", "--log-level", given["log_level"]],
        output="screen",
        emulate_tty=True,
    )
    return [*(SetEnvironmentVariable(*pair) for pair in environment(given["profile"]).items()), node]


def generate_launch_description() -> LaunchDescription:
    """Every argument with its default and description, then the node."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])
