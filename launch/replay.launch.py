"""Plays a bag to mgcda_node and looks on: `ros2 launch mgcda_ros replay.launch.py bag:=drive image:=/camera/image_raw`.

`record:=result` records what the node says, `foxglove:=true` starts the Foxglove bridge (layout:
config/foxglove_layout.json). Every argument of mgcda.launch.py works here too. The bag runs in its own time by
`ros2 bag play`, so that tf and whatever else it holds comes with it, and Foxglove and rviz see the same domain. For
figures, frame by frame and without loss, there is `python -m mgcda_ros.replay`: a node and a domain of its own.
"""

from __future__ import annotations

from pathlib import Path

from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events.process import ProcessExited
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.event_handlers import OnStateTransition

from launch import LaunchContext, LaunchDescription

ARGUMENTS: dict[str, tuple[str | None, str]] = {
    "bag": (None, "Bag to play."),
    "rate": ("1.0", "Speed of playing: 0.5 is half as fast as recorded."),
    "loop": ("false", "true plays the bag again and again."),
    "record": ("", "Bag to record the node's outputs into; it must not exist yet. Empty records none."),
    "foxglove": ("false", "true starts foxglove_bridge, which must be installed."),
    "foxglove_port": ("8765", "Port of foxglove_bridge."),
}
RECORDED = r"/mgcda_node/(.+/)?(mask|overlay|hazards|hazards_info|detections|label_info)$|^/diagnostics$"
START_DELAY_S = "1"
"""From the node's being active to the first message: recorder and viewers find its topics in that time."""
DRAIN_S = 3.0
"""From the last message to the end: the last masks get out."""


def start(context: LaunchContext) -> list[ExecuteProcess | Node | RegisterEventHandler]:
    """Player, recorder and bridge for the arguments as they were given."""
    given = {name: LaunchConfiguration(name).perform(context).strip() for name in ARGUMENTS}
    for name in ("loop", "foxglove"):
        if given[name].lower() not in ("true", "false"):
            raise ValueError(f"{name}:={given[name]}: must be true or false")
    if not given["foxglove_port"].isdigit():
        raise ValueError(f"foxglove_port:={given['foxglove_port']}: not a port number")
    if not Path(given["bag"]).expanduser().exists():
        raise ValueError(f"bag:={given['bag']}: there is no such bag")
    bag = ["ros2", "bag", "play", str(Path(given["bag"]).expanduser())]
    options = ["--clock", "--rate", given["rate"], "--delay", START_DELAY_S, "--disable-keyboard-controls"]
    repeat = ["--loop"] if given["loop"].lower() == "true" else []
    player = ExecuteProcess(cmd=[*bag, *options, *repeat], name="player", output="screen")
    # When the node is active, which takes seconds: frames played before would be lost.
    actions: list[ExecuteProcess | Node | RegisterEventHandler] = [
        RegisterEventHandler(OnStateTransition(goal_state="active", entities=[player], handle_once=True))
    ]
    if given["record"]:
        record = ["ros2", "bag", "record", "--output", given["record"], "--regex", RECORDED]
        actions.append(ExecuteProcess(cmd=record, name="recorder", output="screen"))
    if given["foxglove"].lower() == "true":
        settings = {"port": int(given["foxglove_port"]), "use_sim_time": True}
        actions.append(Node(package="foxglove_bridge", executable="foxglove_bridge", parameters=[settings]))
    return actions


def generate_launch_description() -> LaunchDescription:
    """Every argument with its default and description, the node, what plays and listens, and the end."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text)
        for name, (default, text) in ARGUMENTS.items()
    ]
    node = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(str(Path(__file__).resolve().with_name("mgcda.launch.py"))),
        launch_arguments={"use_sim_time": "true"}.items(),
    )
    end = TimerAction(period=DRAIN_S, actions=[Shutdown(reason="the replay is over")])

    def ended(event: ProcessExited, context: LaunchContext) -> list[TimerAction]:
        """Whichever ends, the bag or a process that failed, there is nothing left to see."""
        return [] if context.is_shutdown else [end]

    return LaunchDescription(
        [
            *declared,
            RegisterEventHandler(OnProcessExit(on_exit=ended, handle_once=True)),
            OpaqueFunction(function=start),
            node,
        ]
    )
