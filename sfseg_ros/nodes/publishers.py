# SPDX-License-Identifier: Apache-2.0
"""The publishers of one camera: images of each frame, names of the labels, latencies."""

import json
import threading
from collections.abc import Container
from typing import Any

from rclpy.lifecycle import LifecycleNodeMixin, LifecyclePublisher
from rclpy.publisher import Publisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, String

from sfseg_ros.frames.latency import FrameTimes
from sfseg_ros.model.class_groups import LabelMapping
from sfseg_ros.model.manifest import UNLABELLED, Manifest
from sfseg_ros.nodes.middleware import latched_qos, output_qos
from sfseg_ros.nodes.outputs import IMAGES, Output
from sfseg_ros.nodes.segmented_frame import SegmentedFrame

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not part of ros_base; `~/label_map` has the same content
    LabelInfo = None


class OutputPublishers:
    """The publishers of IMAGES for one camera. An output without a subscriber costs nothing."""

    def __init__(self, node: LifecycleNodeMixin, prefix: str) -> None:
        self._node = node
        self._publishers: dict[str, LifecyclePublisher] = {
            output.name: node.create_lifecycle_publisher(
                output.message,
                f"~/{prefix}{output.name}",
                output_qos(),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for output in IMAGES
        }

    def wanted(self, allowed: Container[str]) -> list[Output]:
        """The outputs of `allowed` that have a subscriber now, in the order of publishing."""
        return [
            output
            for output in IMAGES
            if output.image_name in allowed
            and self._publishers[output.name].get_subscription_count() > 0
        ]

    def publish(self, output: Output, frame: SegmentedFrame) -> None:
        """Publish one output of the frame with the header of its image."""
        assert output.message_from is not None
        if (message := output.message_from(frame)) is not None:
            self._publishers[output.name].publish(message)

    def destroy(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)


class LabelPublishers:
    """The meaning of the labels in one camera's mask, latched: `label_map` as JSON, and
    `label_info` if vision_msgs is installed. Nav2's semantic segmentation layer waits for it."""

    def __init__(self, node: Any, prefix: str) -> None:
        self._node = node
        self._label_map: Publisher = node.create_publisher(
            String, f"~/{prefix}label_map", latched_qos()
        )
        self._label_info: Publisher | None = None
        if LabelInfo is not None:
            self._label_info = node.create_publisher(
                LabelInfo, f"~/{prefix}label_info", latched_qos()
            )

    def publish(self, manifest: Manifest, mapping: LabelMapping, threshold: float) -> None:
        """Publish names and colours of the labels; `threshold`: minimum confidence, 0 to 1."""
        self._label_map.publish(String(data=label_map_json(manifest, mapping, threshold)))
        if self._label_info is not None:
            message = LabelInfo(threshold=threshold)
            message.header.stamp = self._node.get_clock().now().to_msg()
            message.class_map = [
                VisionClass(class_id=c.index, class_name=c.name) for c in mapping.classes
            ]
            self._label_info.publish(message)

    def destroy(self) -> None:
        for publisher in filter(None, (self._label_map, self._label_info)):
            self._node.destroy_publisher(publisher)


class LatencyPublishers:
    """`latency/<step>` of one camera: p50, p95 and p99 of the last frames in milliseconds."""

    def __init__(self, node: Any, prefix: str) -> None:
        self._node = node
        self._lock = threading.Lock()  # the timer publishes while a transition may destroy
        self._publishers: dict[str, Publisher] = {
            step: node.create_publisher(
                Float64MultiArray, f"~/{prefix}latency/{step}", output_qos()
            )
            for step in FrameTimes.STEPS
        }

    def publish(self, times: FrameTimes) -> None:
        """Publish each step that has a subscriber and a value."""
        with self._lock:
            for step, publisher in self._publishers.items():
                if publisher.get_subscription_count() and (values := times.percentiles(step)):
                    message = Float64MultiArray(data=values)
                    message.layout.dim = [
                        MultiArrayDimension(label="p50, p95, p99 in ms", size=3, stride=3)
                    ]
                    publisher.publish(message)

    def destroy(self) -> None:
        with self._lock:
            while self._publishers:
                self._node.destroy_publisher(self._publishers.popitem()[1])


def label_map_json(manifest: Manifest, mapping: LabelMapping, threshold: float) -> str:
    """The JSON text of `~/label_map`: names and colours of the labels."""
    classes = [{"id": c.index, "name": c.name, "color": list(c.color_rgb)} for c in mapping.classes]
    return json.dumps(
        {
            "model": manifest.name,
            "classes": classes,
            "unlabelled": UNLABELLED,
            "threshold": threshold,
        }
    )
