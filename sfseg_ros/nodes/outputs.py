# SPDX-License-Identifier: Apache-2.0
"""What the node publishes for each frame: one row per topic, in the order of publishing.

Publishers, the parameter `outputs`, the tables of nodes/interface.py and config/segmentation.yaml
all follow from OUTPUTS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from sfseg_ros import imaging
from sfseg_ros.imaging import Uint8Array
from sfseg_ros.nodes.messages import (
    camera_info_from_model,
    compressed_from_file,
    image_from_array,
)
from sfseg_ros.nodes.segmented_frame import SegmentedFrame

COMPRESSED = "/compressed"
"""End of the topic that carries an image as a file, as image_transport has it."""
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Output:
    """One row: the topic `~/<camera>/<name>`.

    encoding: of the pixels or the file, "" for other messages.
    message_from: makes the message, or None if it cannot; the row itself has None if it is a point
    cloud, which nodes/point_outputs.py makes of the frame and of a depth image or a lidar's cloud.
    needs: what the output is made of besides labels: "confidence", a name of PAINTED_IMAGES, or
    "".
    """

    name: str
    message: type
    encoding: str
    description: str
    message_from: Callable[[SegmentedFrame], Any] | None
    needs: str = ""

    @property
    def image_name(self) -> str:
        """Its name in the parameter `outputs`, where an image and its file have one name."""
        return self.name.removesuffix(COMPRESSED)

    @property
    def type_name(self) -> str:
        """As `ros2 topic list -t` shows it, such as "sensor_msgs/msg/Image"."""
        return f"{self.message.__module__.split('.')[0]}/msg/{self.message.__name__}"


def _image_output(
    name: str,
    encoding: str,
    description: str,
    array_from: Callable[[SegmentedFrame], Uint8Array],
    needs: str = "",
) -> Output:
    def message_from(frame: SegmentedFrame) -> Image:
        return image_from_array(frame.header, array_from(frame), encoding)

    return Output(name, Image, encoding, description, message_from, needs)


def _confidence(frame: SegmentedFrame) -> Uint8Array:
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
    Output(
        "points",
        PointCloud2,
        "",
        "The mask as an organised cloud: x, y, z in m, rgb, class, confidence; from `depth`.",
        None,
        needs="confidence",
    ),
    Output(
        "labelled_points",
        PointCloud2,
        "",
        "The cloud of `points_in` with two more fields: class, confidence.",
        None,
        needs="confidence",
    ),
)
IMAGES = tuple(output for output in OUTPUTS if output.message_from is not None)
CLOUDS = {output.name: output for output in OUTPUTS if output.message_from is None}
