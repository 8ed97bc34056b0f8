# SPDX-License-Identifier: Apache-2.0
"""Start one segmentation node for several cameras, from one list.

    ros2 launch sfseg_ros multi_camera.launch.py cameras_file:=/path/to/my_cameras.yaml
    ros2 launch sfseg_ros multi_camera.launch.py --show-args

The list has a name, topics and parameters for each camera, as in config/multi_camera.yaml.
Parameters of the node, the same for all cameras, are arguments; an argument overrides
`params_file`.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import LifecycleNode

from sfseg_ros.nodes.camera_list import load_cameras
from sfseg_ros.nodes.launch_actions import (
    config_file,
    middleware_profile,
    node_arguments,
    segmentation_node,
    text_of,
)


def node_of_cameras(context: LaunchContext) -> list[LifecycleNode]:
    """The node, with the cameras of the list."""
    cameras = load_cameras(Path(text_of(context, "cameras_file")))
    return [segmentation_node(context, cameras.remappings, cameras.parameters)]


def generate_launch_description() -> LaunchDescription:
    """Arguments, middleware profile (unless the user has set one), node."""
    cameras_file = DeclareLaunchArgument(
        "cameras_file",
        default_value=config_file("multi_camera.yaml"),
        description="YAML file with the cameras: name, topics and parameters of each.",
    )
    return LaunchDescription(
        [
            cameras_file,
            *node_arguments(without=("cameras",)),
            *middleware_profile(),
            OpaqueFunction(function=node_of_cameras),
        ]
    )
