# SPDX-License-Identifier: Apache-2.0
"""Quality of service of the topics, and the check that the middleware can deliver large images.

Of 150 images of 6 MB, 6 to 26 arrive with Fast DDS's defaults and all with our profile
(benchmarks/transport.json). Camera and node must both be started with
config/fastdds_large_images.xml. A running node cannot apply it, but it warns if it is missing.
"""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import InvalidHandle
from rclpy.logging import get_logger
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.utilities import get_rmw_implementation_identifier, remove_ros_args

from sfseg_ros.errors import SfsegError, one_line
from sfseg_ros.installed_files import MIDDLEWARE_PROFILE, PROFILE_VARIABLES, shared_file
from sfseg_ros.nodes.shared_memory import remove_dead_segments

try:
    from rclpy.event_handler import (
        QoSMessageLostInfo,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )
except ImportError:  # Humble
    from rclpy.qos_event import (
        QoSMessageLostInfo,
        SubscriptionEventCallbacks,
        UnsupportedEventTypeError,
    )

__all__ = [
    "QoSMessageLostInfo",
    "StartError",
    "start_rclpy",
    "image_topic",
    "input_qos",
    "latched_qos",
    "missing_profile",
    "output_qos",
    "spin",
    "subscribe",
]

LARGE_MESSAGE_BYTES = 512 * 1024
"""Default size of Fast DDS's shared-memory segment."""

MEMORY_MAP = Path("/proc/self/maps")


class StartError(SfsegError):
    """rclpy refuses the command line or the environment."""


def start_rclpy(
    command_line: list[str], handlers: SignalHandlerOptions = SignalHandlerOptions.ALL
) -> list[str]:
    """Call rclpy.init with `command_line`, which starts with the program's name; return the other
    arguments that are not for ROS. Before that, remove shared memory of killed processes.

    Raises StartError for malformed --ros-args, a parameter file that is missing or not YAML, and a
    ROS_DOMAIN_ID that is not a number.
    """
    removed, size = remove_dead_segments()
    try:
        own = remove_ros_args(command_line)[1:]  # unlike `init`, parses all and logs nothing
        rclpy.init(args=command_line, signal_handler_options=handlers)
    except Exception as error:  # rclpy's own types, which differ among its releases
        raise StartError(one_line(error)) from error
    if removed:
        get_logger("sfseg_ros").info(
            f"{size / 1e6:.1f} MB of shared memory removed, which killed processes had left"
        )
    return own


# Functions, not constants: rclpy writes `qos_overrides` into the profile that it receives.


def input_qos() -> QoSProfile:
    """Best effort, keep last 1: matches every camera, and old frames have no value."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
    )


def output_qos() -> QoSProfile:
    """Reliable, keep last 1: matches best-effort subscribers too."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE
    )


def latched_qos() -> QoSProfile:
    """Reliable and transient local: late subscribers get the last message."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def spin(node: Node) -> None:
    """rclpy.spin, except that it survives InvalidHandle: a transition's thread may destroy a
    subscription (Humble) or its events (until Jazzy) that the executor has just listed."""
    while True:
        try:
            rclpy.spin(node)
            return
        except InvalidHandle:
            if not node.context.ok():
                return


def image_topic(node: Node, topic: str, image_transport: str) -> str:
    """The name that `topic` is remapped to. For compressed images it ends in `/compressed`, as in
    image_transport, whether or not the remapping does."""
    resolved: str = node.resolve_topic_name(topic)
    if image_transport == "raw":
        return resolved
    return f"{resolved.removesuffix('/compressed')}/compressed"


def subscribe(
    node: Node,
    kind: type,
    topic: str,
    on_message: Callable[[Any], None],
    on_lost: Callable[[QoSMessageLostInfo], None] | None = None,
) -> Subscription:
    """Subscribe to a sensor's topic. rclpy itself logs an incompatible quality of service, with
    the name of the policy; `on_lost` is called if the middleware reports lost messages."""

    def subscription(events: SubscriptionEventCallbacks) -> Subscription:
        return node.create_subscription(
            kind,
            topic,
            on_message,
            input_qos(),
            # A group of its own: Humble's executor leaves the group locked forever if another
            # thread destroys the subscription just before the executor reads it (see `spin`).
            callback_group=MutuallyExclusiveCallbackGroup(),
            event_callbacks=events,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    try:
        return subscription(SubscriptionEventCallbacks(message_lost=on_lost))
    except UnsupportedEventTypeError:
        return subscription(SubscriptionEventCallbacks())


def missing_profile() -> str | None:
    """Advice that makes large images arrive, or None if this process has a working profile or a
    middleware other than Fast DDS."""
    if "fastrtps" not in get_rmw_implementation_identifier():
        return None
    profiles = [p for variable in PROFILE_VARIABLES if (p := os.environ.get(variable))]
    if profiles:
        ours = any(Path(profile).name == Path(MIDDLEWARE_PROFILE).name for profile in profiles)
        return _missing_shared_memory() if ours else None
    if Path("DEFAULT_FASTRTPS_PROFILES.xml").is_file():  # read by Fast DDS itself
        return None
    path = shared_file(MIDDLEWARE_PROFILE) or MIDDLEWARE_PROFILE
    return f"start camera and node with {PROFILE_VARIABLES[0]}={path}"


@functools.cache  # constant for a process, but needed for each large image
def _missing_shared_memory() -> str | None:
    """Advice if our profile is set but its shared memory was not available; otherwise None. Fast
    DDS then prints one line and sends everything over UDP, as without the profile."""
    try:
        lines = MEMORY_MAP.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    for line in lines:  # 7fbc679ff000-7fbc70000000 rw-s 00000000 00:27 6  /dev/shm/fastrtps_7d43
        if "/dev/shm/fast" in line:
            begin, end = (int(address, 16) for address in line.split(maxsplit=1)[0].split("-"))
            if end - begin > 2 * LARGE_MESSAGE_BYTES:
                return None
    return (
        "/dev/shm was full when this process started. Killed processes leave 128 MiB each there, "
        "removed when a node starts a minute later; else, with no ROS process running, "
        "rm /dev/shm/fastrtps_*; a container needs --shm-size=1g"
    )
