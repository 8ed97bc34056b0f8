# SPDX-License-Identifier: Apache-2.0
"""Start the segmentation node on one camera.

    ros2 launch sfseg_ros segmentation.launch.py image:=/camera/image_raw
    ros2 launch sfseg_ros segmentation.launch.py --show-args

Each parameter of the node is an argument too; one that is given wins over `params_file`.
"""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import LifecycleNode

from sfseg_ros.nodes.camera_list import INPUTS, camera_info_beside
from sfseg_ros.nodes.launch_actions import (
    middleware_profile,
    node_arguments,
    segmentation_node,
    text_of,
)

TOPICS = {
    "image": "Topic of the camera; for compressed images its name without /compressed.",
    "camera_info": "Topic of its calibration. Empty: `camera_info` beside the image.",
    "depth": "Topic of a depth image of the same view, for `~/points`.",
    "points_in": "Topic of a lidar's cloud, for `~/labelled_points`.",
}


def node_of_camera(context: LaunchContext) -> list[LifecycleNode]:
    """The node, with its inputs remapped."""
    topics = {name: text_of(context, name) for name in INPUTS}
    topics["camera_info"] = topics["camera_info"] or camera_info_beside(topics["image"])
    return [segmentation_node(context, topics.items())]


def generate_launch_description() -> LaunchDescription:
    """Arguments, middleware profile unless the user has one already, node."""
    topics = [
        DeclareLaunchArgument(
            name,
            default_value="" if name == "camera_info" else name,
            description=TOPICS[name],
        )
        for name in INPUTS
    ]
    return LaunchDescription(
        [
            *topics,
            *node_arguments(without=("cameras",)),
            *middleware_profile(),
            OpaqueFunction(function=node_of_camera),
        ]
    )
