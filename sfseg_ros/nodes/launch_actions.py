# SPDX-License-Identifier: Apache-2.0
"""Shared parts of the launch files: arguments, middleware profile, node."""

import os
from collections.abc import Container, Iterable, Mapping
from typing import Any

from launch import LaunchContext
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode

from sfseg_ros.installed_files import PROFILE_VARIABLES, profile_environment, shared_file
from sfseg_ros.nodes.parameter_text import value_from_text
from sfseg_ros.nodes.parameters import NODE_FIELDS, choices, description_of


def config_file(name: str) -> str:
    """Path of an installed file of config/."""
    return str(shared_file(f"config/{name}") or f"config/{name}")


def middleware_profile() -> list[SetEnvironmentVariable]:
    """Set our profile for large images, unless the user has set a profile."""
    if any(os.environ.get(variable) for variable in PROFILE_VARIABLES):
        return []
    return [SetEnvironmentVariable(*variable) for variable in profile_environment().items()]


def node_arguments(without: Container[str] = ()) -> list[DeclareLaunchArgument]:
    """The arguments of every launch file: general ones, and one per parameter of the node except
    `without`, which the launch file sets. An empty argument leaves the value to params_file."""
    given = [
        DeclareLaunchArgument(
            "name",
            default_value="segmentation",
            description="Name of the node and prefix of its outputs.",
        ),
        DeclareLaunchArgument("namespace", default_value="", description="Namespace of the node."),
        DeclareLaunchArgument(
            "params_file",
            default_value=config_file("segmentation.yaml"),
            description="YAML file with the node's parameters.",
        ),
        DeclareLaunchArgument(
            "log_level",
            default_value="info",
            choices=["debug", "info", "warn", "error"],
            description="Minimum severity of the messages to print.",
        ),
        DeclareLaunchArgument(
            "use_sim_time",
            default_value="false",
            choices=["true", "false"],
            description="Use the time of /clock, for bags and simulations.",
        ),
    ]
    for field in NODE_FIELDS.values():
        if field.name in without:
            continue
        # The choices of an array apply to its elements, so they cannot limit the argument.
        allowed = choices(field) if field.type is str else ()
        if field.type is bool:
            allowed = ("true", "false")
        given.append(
            DeclareLaunchArgument(
                field.name,
                default_value="",
                choices=["", *allowed] if allowed else None,
                description=f"{description_of(field)} Empty: as in params_file.",
            )
        )
    return given


def text_of(context: LaunchContext, name: str) -> str:
    """The value of an argument."""
    return str(context.perform_substitution(LaunchConfiguration(name)))


def segmentation_node(
    context: LaunchContext,
    remappings: Iterable[tuple[str, str]],
    more: Mapping[str, Any] | None = None,
) -> LifecycleNode:
    """The node, with the parameters of the arguments and with `more`."""
    texts = context.launch_configurations
    fields = [field for name, field in NODE_FIELDS.items() if texts.get(name)]
    given = {f.name: value_from_text(f, texts[f.name]) for f in fields}
    use_sim_time = text_of(context, "use_sim_time") == "true"
    return LifecycleNode(
        package="sfseg_ros",
        executable="segmentation_node",
        name=text_of(context, "name"),
        namespace=text_of(context, "namespace"),
        parameters=[
            text_of(context, "params_file"),
            {"use_sim_time": use_sim_time, **given, **(more or {})},
        ],
        remappings=list(remappings),
        ros_arguments=["--log-level", text_of(context, "log_level")],
        output="screen",
    )
