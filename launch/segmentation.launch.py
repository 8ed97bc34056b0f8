# SPDX-License-Identifier: Apache-2.0
"""Start the segmentation node on one camera.

    ros2 launch sfseg_ros segmentation.launch.py image:=/camera/image_raw
    ros2 launch sfseg_ros segmentation.launch.py --show-args

Each parameter of the node is an argument too; one that is given wins over `params_file`.
"""

import dataclasses
import os
from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

from sfseg_ros.nodes.parameters import NodeParameters, description_of, value_from_text

CONFIG = Path(__file__).resolve().parent.parent / "config"
PROFILE = str(CONFIG / "fastdds_large_images.xml")
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
PARAMETERS = dataclasses.fields(NodeParameters)


def arguments() -> list[DeclareLaunchArgument]:
    """What `--show-args` lists. A parameter left empty is as params_file says."""
    given = [
        DeclareLaunchArgument(
            "image",
            default_value="image",
            description="Topic of the camera; for compressed images its name without /compressed.",
        ),
        DeclareLaunchArgument(
            "name", default_value="segmentation", description="Name of the node; outputs are below."
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
        DeclareLaunchArgument(
            "params_file",
            default_value=str(CONFIG / "segmentation.yaml"),
            description="YAML file with the node's parameters.",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error"],
            description="Least severe messages to print.",
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            choices=["true", "false"],
            description="Take the time from /clock: for bags and simulations.",
        ),
    ]
    for field in PARAMETERS:
        choices = ("true", "false") if field.type is bool else field.metadata["choices"]
        given.append(
            DeclareLaunchArgument(
                field.name,
                default_value="",
                choices=["", *choices] if choices else None,
                description=f"{description_of(field)} Empty: as params_file says.",
            )
        )
    return given


def segmentation_node(context: LaunchContext) -> list[LifecycleNode]:
    """The node, with the arguments that were given as parameters."""

    def text(name: str) -> str:
        return context.perform_substitution(LaunchConfiguration(name))

    given = {f.name: value_from_text(f, text(f.name)) for f in PARAMETERS if text(f.name)}
    return [
        LifecycleNode(
            package="sfseg_ros",
            executable="segmentation_node",
            name=text("name"),
            namespace=text("namespace"),
            parameters=[
                text("params_file"),
                {"use_sim_time": text("use_sim_time") == "true", **given},
            ],
            remappings=[("image", text("image"))],
            ros_arguments=["--log-level", text("log_level")],
            output="screen",
        )
    ]


def generate_launch_description() -> LaunchDescription:
    """Arguments, middleware profile unless the user has one already, node."""
    own_profile = any(os.environ.get(variable) for variable in PROFILE_VARIABLES)
    variables = () if own_profile else PROFILE_VARIABLES
    return LaunchDescription(
        [
            *arguments(),
            *(SetEnvironmentVariable(variable, PROFILE) for variable in variables),
            OpaqueFunction(function=segmentation_node),
        ]
    )
