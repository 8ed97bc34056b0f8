# SPDX-License-Identifier: Apache-2.0
"""Play a recorded bag through the node, and record its outputs if `record` is set.

    ros2 launch sfseg_ros replay.launch.py bag:=/path/to/bag record:=/path/to/new_bag
    ros2 launch sfseg_ros replay.launch.py bag:=/path/to/bag player:=rosbag2 use_sim_time:=true

Ends with the bag. The node segments nothing without `record`, unless an output has a subscriber.
"""

from pathlib import Path
from typing import Any

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch_ros.actions import Node
from launch_ros.ros_adapters import get_ros_node

from sfseg_ros.errors import BagError
from sfseg_ros.nodes.camera_list import camera_info_beside
from sfseg_ros.nodes.launch_actions import (
    middleware_profile,
    node_arguments,
    segmentation_node,
    text_of,
)
from sfseg_ros.nodes.outputs import IMAGES
from sfseg_ros.recordings.opening import open_recording
from sfseg_ros.recordings.recording import choose_image_topic

LAST_FRAME_S = 2.0
"""Time from the end of the bag to the end of all processes, for the last frame."""
REASON = "the replay is over"
IMAGE, CAMERA_INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
MESSAGES = {output.name: output.type_name for output in IMAGES}
"""Types of the outputs that can be recorded, by topic. Point clouds need more than images."""


def arguments() -> list[DeclareLaunchArgument]:
    """The arguments before those of the node."""
    return [
        DeclareLaunchArgument("bag", description="rosbag2 folder, .mcap, .db3 or ROS 1 .bag file."),
        DeclareLaunchArgument(
            "topic",
            default_value="",
            description="Image topic to play with its camera_info. Empty: the bag's only one.",
        ),
        DeclareLaunchArgument(
            "player",
            default_value="bag_player",
            choices=["bag_player", "rosbag2"],
            description="bag_player: current stamps, so that ages are real. rosbag2: `ros2 bag "
            "play --clock` with the recorded stamps; needs use_sim_time:=true.",
        ),
        DeclareLaunchArgument("rate", default_value="1.0", description="Speed; 1.0 is real time."),
        DeclareLaunchArgument(
            "loop",
            default_value="false",
            choices=["true", "false"],
            description="Repeat until Ctrl-C.",
        ),
        DeclareLaunchArgument(
            "record",
            default_value="",
            description="Folder of a new bag to record to. Empty: no recording.",
        ),
        DeclareLaunchArgument(
            "record_outputs",
            default_value="mask",
            description=f"Outputs to record, separated by spaces: {', '.join(MESSAGES)}. The bag "
            "also gets label_map and /diagnostics.",
        ),
    ]


def replay(context: LaunchContext) -> list[Any]:
    """Node, recorder, and the player once these two subscribe; when one ends, all end."""
    topic, transport, calibrated = played_topic(context)
    info = camera_info_beside(topic)
    inputs = [("image", topic.removesuffix("/compressed")), ("camera_info", info)]
    node = segmentation_node(context, inputs, {"image_transport": transport})
    player = player_action(context, topic, [info] if calibrated else [])
    outputs = recorded_outputs(context)
    recorders = [recorder_action(context, outputs)] if outputs else []

    def play_when_heard(context: LaunchContext) -> list[Any]:
        listeners = get_ros_node(context).count_subscribers
        if all(listeners(name) for name in (topic, *outputs)):
            return [player]
        return [TimerAction(period=0.1, actions=[OpaqueFunction(function=play_when_heard)])]

    return [
        *(ends_all(action, after_s=0.0) for action in (node, *recorders)),
        ends_all(player, after_s=LAST_FRAME_S),
        node,
        *recorders,
        OpaqueFunction(function=play_when_heard),
    ]


def played_topic(context: LaunchContext) -> tuple[str, str, bool]:
    """The bag's image topic, the image_transport for its type, and whether the bag has the
    camera_info beside it."""
    with open_recording(Path(text_of(context, "bag"))) as reader:
        topics = reader.topics()
    topic = choose_image_topic(topics, text_of(context, "topic") or None)
    calibrated = (camera_info_beside(topic.name), CAMERA_INFO) in {(t.name, t.type) for t in topics}
    return topic.name, "raw" if topic.type == IMAGE else "compressed", calibrated


def player_action(context: LaunchContext, topic: str, others: list[str]) -> ExecuteProcess:
    bag, rate = text_of(context, "bag"), text_of(context, "rate")
    loop = ["--loop"] if text_of(context, "loop") == "true" else []
    if text_of(context, "player") == "rosbag2":
        command = ["ros2", "bag", "play", bag, "--clock", "--rate", rate, *loop]
        return ExecuteProcess(cmd=command, name="rosbag2", output="screen")
    return Node(
        package="sfseg_ros",
        executable="bag_player",
        arguments=[bag, "--topic", topic, "--also", *others, "--rate", rate, *loop],
        output="screen",
    )


def recorded_outputs(context: LaunchContext) -> dict[str, str]:
    """Types of the topics to record, by full name; empty without a recording."""
    if not text_of(context, "record"):
        return {}
    names = text_of(context, "record_outputs").split()
    if unknown := [name for name in names if name not in MESSAGES]:
        raise BagError(f"record_outputs: no {unknown[0]}, expected some of {', '.join(MESSAGES)}")
    return {f"{name_of_node(context)}/{name}": MESSAGES[name] for name in names}


def name_of_node(context: LaunchContext) -> str:
    namespace = text_of(context, "namespace").strip("/")
    return "/".join(["", *filter(None, [namespace]), text_of(context, "name")])


def recorder_action(context: LaunchContext, outputs: dict[str, str]) -> ExecuteProcess:
    options = [word for topic in outputs.items() for word in ("--topic", *topic)]
    options += ["--topic", "/diagnostics", "diagnostic_msgs/msg/DiagnosticArray"]
    options += ["--latched", f"{name_of_node(context)}/label_map", "std_msgs/msg/String"]
    return Node(
        package="sfseg_ros",
        executable="bag_recorder",
        arguments=[text_of(context, "record"), *options],
        output="screen",
    )


def ends_all(action: ExecuteProcess, after_s: float) -> RegisterEventHandler:
    """Shut everything down `after_s` seconds after the process has ended."""

    def shutdown(event: Any, context: LaunchContext) -> Any:
        if context.is_shutdown:  # this process ends because all others end
            return None
        return TimerAction(period=after_s, actions=[EmitEvent(event=Shutdown(reason=REASON))])

    return RegisterEventHandler(OnProcessExit(target_action=action, on_exit=shutdown))


def generate_launch_description() -> LaunchDescription:
    """Arguments, middleware profile (unless the user has set one), processes."""
    return LaunchDescription(
        [
            *arguments(),
            *node_arguments(without=("cameras", "image_transport")),  # the bag decides these
            *middleware_profile(),
            OpaqueFunction(function=replay),
        ]
    )
