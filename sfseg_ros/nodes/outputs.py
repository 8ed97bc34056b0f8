# SPDX-License-Identifier: Apache-2.0
"""The topics that the node publishes for each frame: one row each, in the order of publishing.

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
"""End of a topic that carries an image as a file, as in image_transport."""
JPEG_QUALITY = 90


@dataclass(frozen=True)
class Output:
    """One row: the topic `~/<camera>/<name>`.

    encoding: of the pixels or the file; "" for other messages.
    message_from: returns the message of a frame, or None if the frame lacks an input for it. Rows
    of point clouds have no function: nodes/point_outputs.py makes the cloud from the frame and a
    depth image or a lidar's cloud.
    needs: input of the output besides labels: "confidence", a name of PAINTED_IMAGES, or "".
    """

    name: str
    message: type
    encoding: str
    description: str
    message_from: Callable[[SegmentedFrame], Any] | None
    needs: str = ""

    @property
    def image_name(self) -> str:
        """Its name in the parameter `outputs`, which has one name for an image and its file."""
        return self.name.removesuffix(COMPRESSED)

    @property
    def type_name(self) -> str:
        """Message type as in `ros2 topic list -t`, such as "sensor_msgs/msg/Image"."""
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
        "Confidence of each label, 0 to 255 for 0 to 1.",
        _confidence,
        needs="confidence",
    ),
    Output(
        "camera_info",
        CameraInfo,
        "",
        "Calibration for the mask's pixels, if the camera publishes `camera_info`.",
        _camera_info,
    ),
    _image_output(
        "color_mask",
        "rgb8",
        "The labels in the colours of their classes.",
        lambda frame: frame.color_mask,
        needs="color_mask",
    ),
    _image_output(
        "overlay",
        "rgb8",
        "The camera's image, tinted with these colours.",
        lambda frame: frame.overlay,
        needs="overlay",
    ),
    Output(
        f"mask{COMPRESSED}",
        CompressedImage,
        "PNG",
        "The mask for recordings and slow networks, lossless.",
        _compressed_mask,
    ),
    Output(
        f"overlay{COMPRESSED}",
        CompressedImage,
        "JPEG",
        "The overlay for recordings and slow networks.",
        _compressed_overlay,
        needs="overlay",
    ),
    Output(
        "points",
        PointCloud2,
        "",
        "The mask as an organised cloud, made from `depth`: x, y, z in m, rgb, class, confidence.",
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
