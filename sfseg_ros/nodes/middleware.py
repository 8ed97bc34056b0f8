# SPDX-License-Identifier: Apache-2.0
"""Quality of service of the topics, and what the middleware needs so that large images arrive.

Of 180 frames of 6 MB, 13 to 22 arrive with Fast DDS's defaults and 179 with our profile
(benchmarks/transport.json). The node cannot mend that from inside: camera and node must both have
been started with config/fastdds_large_images.xml. It can say so.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.utilities import get_rmw_implementation_identifier

from sfseg_ros.share import shared_file

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
    "image_topic",
    "input_qos",
    "latched_qos",
    "missing_profile",
    "output_qos",
    "subscribe",
]

LARGE_MESSAGE_BYTES = 512 * 1024
"""Size of Fast DDS's shared-memory segment where no profile sets another."""

PROFILE = "config/fastdds_large_images.xml"
# Fast DDS 3 reads the second name, all releases up to Jazzy's the first.
_PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")

# Functions and not constants: rclpy writes `qos_overrides` into the object that it is given.


def input_qos() -> QoSProfile:
    """Best effort, keep last 1: matches every camera, and an old frame is worth nothing."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT
    )


def output_qos() -> QoSProfile:
    """Reliable, keep last 1: feeds best-effort readers too."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE
    )


def latched_qos() -> QoSProfile:
    """Reliable and transient local: who comes late gets the last message."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def image_topic(node: Node, image_transport: str) -> str:
    """What `image` is remapped to; for compressed images `/compressed` below it, as in
    image_transport, also where the remapping says so already."""
    topic = node.resolve_topic_name("image")
    return f"{topic.removesuffix('/compressed')}/compressed" if image_transport != "raw" else topic


def subscribe(
    node: Node,
    kind: type,
    topic: str,
    on_image: Callable[[Any], None],
    on_lost: Callable[[QoSMessageLostInfo], None],
) -> Subscription:
    """Subscribe to images. Incompatible quality of service is logged by rclpy itself, with the
    name of the policy; `on_lost` is called where the middleware reports its losses."""

    def subscription(events: SubscriptionEventCallbacks) -> Subscription:
        return node.create_subscription(
            kind,
            topic,
            on_image,
            input_qos(),
            event_callbacks=events,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    try:
        return subscription(SubscriptionEventCallbacks(message_lost=on_lost))
    except UnsupportedEventTypeError:
        return subscription(SubscriptionEventCallbacks())


def missing_profile() -> str | None:
    """What to do so that large images arrive; None where this process has a profile, or another
    middleware than Fast DDS."""
    if "fastrtps" not in get_rmw_implementation_identifier():
        return None
    if any(os.environ.get(variable) for variable in _PROFILE_VARIABLES):
        return None
    if Path("DEFAULT_FASTRTPS_PROFILES.xml").is_file():  # Fast DDS reads it without being told
        return None
    path = shared_file(PROFILE) or PROFILE
    return f"start camera and node with {_PROFILE_VARIABLES[0]}={path}"
