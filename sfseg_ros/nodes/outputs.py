# SPDX-License-Identifier: Apache-2.0
"""What the node publishes for each frame: one row per topic, in the order of publishing."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rclpy.lifecycle import LifecycleNodeMixin, LifecyclePublisher
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from sfseg_ros import imaging
from sfseg_ros.manifest import UNLABELLED, Manifest
from sfseg_ros.nodes.messages import image_from_array
from sfseg_ros.nodes.middleware import output_qos


@dataclass(frozen=True)
class SegmentedFrame:
    """All that an output can be made of; arrays are uint8 at the image's own size.

    rgb (H, W, 3); labels (H, W), 255 = unlabelled; confidence (H, W), 0 to 255 for 0 to 1, None
    where no wanted output needs it; palette_rgb (256, 3); overlay_alpha 0 to 1.
    """

    rgb: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    confidence: npt.NDArray[np.uint8] | None
    palette_rgb: npt.NDArray[np.uint8]
    overlay_alpha: float


@dataclass(frozen=True)
class Output:
    """A topic, its encoding, and the array it shows of a frame."""

    topic: str
    encoding: str
    description: str
    array_from: Callable[[SegmentedFrame], npt.NDArray[np.uint8]]
    needs_confidence: bool = False


def _confidence(frame: SegmentedFrame) -> npt.NDArray[np.uint8]:
    if frame.confidence is None:
        raise RuntimeError("confidence was not computed for an output that needs it")
    return frame.confidence


OUTPUTS = (
    Output(
        "~/mask",
        "mono8",
        "Label of each pixel; 255 is unlabelled.",
        lambda frame: frame.labels,
    ),
    Output(
        "~/confidence",
        "mono8",
        "Confidence in that label, 0 to 255 for 0 to 1.",
        _confidence,
        needs_confidence=True,
    ),
    Output(
        "~/color_mask",
        "rgb8",
        "The labels in the colours of the model.",
        lambda frame: imaging.color_mask(frame.labels, frame.palette_rgb),
    ),
    Output(
        "~/overlay",
        "rgb8",
        "The camera's image under the colours.",
        lambda frame: imaging.overlay(
            frame.rgb, frame.labels, frame.palette_rgb, frame.overlay_alpha
        ),
    ),
)


class OutputPublishers:
    """The publishers of OUTPUTS on a node; those that nobody listens to cost nothing."""

    def __init__(self, node: LifecycleNodeMixin) -> None:
        self._node = node
        self._publishers: dict[str, LifecyclePublisher] = {
            output.topic: node.create_lifecycle_publisher(
                Image,
                output.topic,
                output_qos(),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )
            for output in OUTPUTS
        }

    def wanted(self) -> list[Output]:
        """The outputs that somebody listens to at this moment, in the order of publishing."""
        return [o for o in OUTPUTS if self._publishers[o.topic].get_subscription_count() > 0]

    def publish(self, output: Output, frame: SegmentedFrame, header: Header) -> None:
        """Publish one output of the frame under the header of its image."""
        message = image_from_array(header, output.array_from(frame), output.encoding)
        self._publishers[output.topic].publish(message)

    def destroy(self) -> None:
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)


def label_map_json(manifest: Manifest) -> str:
    """Names and colours of the labels, as `~/label_map` carries them."""
    classes = [
        {"id": c.index, "name": c.name, "color": list(c.color_rgb)} for c in manifest.classes
    ]
    return json.dumps({"model": manifest.name, "classes": classes, "unlabelled": UNLABELLED})
