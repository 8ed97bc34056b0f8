# SPDX-License-Identifier: Apache-2.0
"""What the node publishes for each frame: one row per topic, in the order of publishing."""

import functools
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from rclpy.lifecycle import LifecycleNodeMixin, LifecyclePublisher
from rclpy.publisher import Publisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Float64MultiArray, Header, MultiArrayDimension, String

from sfseg_ros import imaging
from sfseg_ros.frames.latency import FrameTimes
from sfseg_ros.geometry import FrameGeometry
from sfseg_ros.model.class_groups import LabelMapping
from sfseg_ros.model.manifest import UNLABELLED, Manifest
from sfseg_ros.nodes.messages import (
    camera_info_from_model,
    compressed_from_file,
    image_from_array,
)
from sfseg_ros.nodes.middleware import latched_qos, output_qos
from sfseg_ros.points.camera_model import CameraModel

try:
    from vision_msgs.msg import LabelInfo, VisionClass
except ImportError:  # not part of ros_base; `~/label_map` says the same
    LabelInfo = None


COMPRESSED = "/compressed"
"""End of the topic that carries an image as a file, as image_transport has it."""
JPEG_QUALITY = 90


@dataclass(frozen=True)
class SegmentedFrame:
    """All that an output can be made of. Labels and confidence have the size of the output
    (H, W) = geometry.output_size, which is the image's unless parameters say otherwise.

    picture: the camera's image; labels uint8 (H, W), 255 = unlabelled; confidence uint8 (H, W),
    0 to 255 for 0 to 1, None where no wanted output needs it; palette_rgb uint8 (256, 3);
    overlay_alpha 0 to 1; camera: of the image, None where no CameraInfo came; painted: what the
    backend made already, see `Segmentation`.
    """

    header: Header
    picture: imaging.Picture
    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8] | None
    palette_rgb: npt.NDArray[np.uint8]
    overlay_alpha: float
    geometry: FrameGeometry
    camera: CameraModel | None = None
    painted: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)

    @property
    def rgb(self) -> npt.NDArray[np.uint8]:
        """uint8 (H, W, 3): the camera's image."""
        return self.picture.rgb

    @functools.cached_property
    def rgb_at_output(self) -> npt.NDArray[np.uint8]:
        """uint8 (H, W, 3): the image on the grid of the labels."""
        return self.picture.rgb_of(self.geometry.rgb_at_output(self.picture.pixels))

    @functools.cached_property
    def color_mask(self) -> npt.NDArray[np.uint8]:
        """uint8 (H, W, 3) RGB: the colours of the classes."""
        if "color_mask" in self.painted:
            return self.painted["color_mask"]
        return imaging.color_mask(self.labels, self.palette_rgb)

    @functools.cached_property
    def overlay(self) -> npt.NDArray[np.uint8]:
        """uint8 (H, W, 3) RGB: the image under the colours of the classes."""
        if "overlay" in self.painted:
            return self.painted["overlay"]
        return imaging.overlay(
            self.rgb_at_output, self.labels, self.palette_rgb, self.overlay_alpha
        )


@dataclass(frozen=True)
class Output:
    """A topic `~/<camera>/<name>`, and its message of a frame; None where it cannot be made.
    `needs` is what it takes besides labels: "confidence", one of PAINTS, or nothing."""

    name: str
    message: type
    encoding: str
    description: str
    message_from: Callable[[SegmentedFrame], Any]
    needs: str = ""

    @property
    def image_name(self) -> str:
        """What the parameter `outputs` calls it: a file of an image is that image."""
        return self.name.removesuffix(COMPRESSED)


def _image_output(
    name: str,
    encoding: str,
    description: str,
    array_from: Callable[[SegmentedFrame], npt.NDArray[np.uint8]],
    needs: str = "",
) -> Output:
    def message_from(frame: SegmentedFrame) -> Image:
        return image_from_array(frame.header, array_from(frame), encoding)

    return Output(name, Image, encoding, description, message_from, needs)


def _confidence(frame: SegmentedFrame) -> npt.NDArray[np.uint8]:
    if frame.confidence is None:
        raise RuntimeError("confidence was not computed for an output that needs it")
    return frame.confidence


def _compressed_mask(frame: SegmentedFrame) -> CompressedImage:
    png = imaging.png_from_pixels(frame.labels)
    return compressed_from_file(frame.header, png, "mono8", "png")


def _compressed_overlay(frame: SegmentedFrame) -> CompressedImage:
    jpeg = imaging.jpeg_from_rgb(frame.overlay, JPEG_QUALITY)
    return compressed_from_file(frame.header, jpeg, "rgb8", "jpeg")


def _camera_info(frame: SegmentedFrame) -> CameraInfo | None:
    if frame.camera is None:
        return None
    return camera_info_from_model(frame.header, frame.camera.for_output(frame.geometry))


OUTPUTS = (
    _image_output(
        "mask", "mono8", "Label of each pixel; 255 is unlabelled.", lambda frame: frame.labels
    ),
    _image_output(
        "confidence",
        "mono8",
        "Confidence in that label, 0 to 255 for 0 to 1.",
        _confidence,
        needs="confidence",
    ),
    Output(
        "camera_info",
        CameraInfo,
        "",
        "The camera's calibration for the mask's pixels, where `camera_info` comes in.",
        _camera_info,
    ),
    _image_output(
        "color_mask",
        "rgb8",
        "The labels in the colours of the classes.",
        lambda frame: frame.color_mask,
        needs="color_mask",
    ),
    _image_output(
        "overlay",
        "rgb8",
        "The camera's image under these colours.",
        lambda frame: frame.overlay,
        needs="overlay",
    ),
    Output(
        f"mask{COMPRESSED}",
        CompressedImage,
        "PNG",
        "The mask for a recording or a thin network; no label is lost.",
        _compressed_mask,
    ),
    Output(
        f"overlay{COMPRESSED}",
        CompressedImage,
        "JPEG",
        "The overlay for a thin network.",
        _compressed_overlay,
        needs="overlay",
    ),
)


class OutputPublishers:
    """The publishers of OUTPUTS for one camera; those that nobody listens to cost nothing."""

    def __init__(self, node: LifecycleNodeMixin, prefix: str) -> None:
        self._node = node
        self._publishers: dict[str, LifecyclePublisher] = {
            output.name: node.create_lifecycle_publisher(
                output.message,
                f"~/{prefix}{output.name}",
                output_qos(),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for output in OUTPUTS
        }

    def wanted(self, allowed: tuple[str, ...]) -> list[Output]:
        """The outputs of `allowed` that somebody listens to at this moment, in the order of
        publishing."""
        return [
            output
            for output in OUTPUTS
            if output.image_name in allowed
            and self._publishers[output.name].get_subscription_count() > 0
        ]

    def publish(self, output: Output, frame: SegmentedFrame) -> None:
        """Publish one output of the frame under the header of its image."""
        if (message := output.message_from(frame)) is not None:
            self._publishers[output.name].publish(message)

    def destroy(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)


class LabelPublishers:
    """Names of the labels of one camera's mask, latched: `label_map` as JSON, and where vision_msgs
    is installed `label_info`, which Nav2's semantic segmentation layer waits for."""

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
        """Say what the labels mean; `threshold` is the least confidence, 0 to 1."""
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
        self._lock = threading.Lock()  # the timer publishes what a transition may destroy
        self._publishers: dict[str, Publisher] = {
            step: node.create_publisher(
                Float64MultiArray, f"~/{prefix}latency/{step}", output_qos()
            )
            for step in FrameTimes.STEPS
        }

    def publish(self, times: FrameTimes) -> None:
        """Publish the steps that somebody listens to and that have a value."""
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
    """Names and colours of the labels, as `~/label_map` carries them."""
    classes = [{"id": c.index, "name": c.name, "color": list(c.color_rgb)} for c in mapping.classes]
    return json.dumps(
        {
            "model": manifest.name,
            "classes": classes,
            "unlabelled": UNLABELLED,
            "threshold": threshold,
        }
    )
