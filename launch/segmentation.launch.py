# SPDX-License-Identifier: Apache-2.0
"""Start the segmentation node on one camera.

    ros2 launch sfseg_ros segmentation.launch.py image:=/camera/image_raw
    ros2 launch sfseg_ros segmentation.launch.py --show-args

Each parameter of the node is an argument too; an argument overrides `params_file`.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import LifecycleNode

from sfseg_ros.nodes.camera_list import camera_info_beside
from sfseg_ros.nodes.interface import INPUT_NAMES, INPUTS
from sfseg_ros.nodes.launch_actions import (
    middleware_profile,
    node_arguments,
    segmentation_node,
    text_of,
)

NOTES = {
    "image": " For compressed images its name without /compressed.",
    "camera_info": " Empty: `camera_info` beside the image.",
}


def node_of_camera(context: LaunchContext) -> list[LifecycleNode]:
    """The node, with its inputs remapped."""
    topics = {name: text_of(context, name) for name in INPUT_NAMES}
    topics["camera_info"] = topics["camera_info"] or camera_info_beside(topics["image"])
    return [segmentation_node(context, topics.items())]


def generate_launch_description() -> LaunchDescription:
    """Arguments, middleware profile (unless the user has set one), node."""
    topics = [
        DeclareLaunchArgument(
            row.name,
            default_value="" if row.name == "camera_info" else row.name,
            description=f"Topic for this input. {row.description}{NOTES.get(row.name, '')}",
        )
        for row in INPUTS
        if row.name in INPUT_NAMES
    ]
    return LaunchDescription(
        [
            *topics,
            *node_arguments(without=("cameras",)),
            *middleware_profile(),
            OpaqueFunction(function=node_of_camera),
        ]
    )
