# SPDX-License-Identifier: Apache-2.0
"""A segmented frame: the input of every output."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field

from std_msgs.msg import Header

from sfseg_ros import imaging
from sfseg_ros.geometry import FrameGeometry
from sfseg_ros.imaging import Uint8Array
from sfseg_ros.points.camera_model import CameraModel


@dataclass(frozen=True)
class SegmentedFrame:
    """A camera's image and its labels. (H, W) is geometry.output_size, the size of the published
    images, which is the image's own unless a parameter changes it.

    picture: the camera's image.
    labels: uint8 (H, W), 255 is unlabelled.
    confidence: uint8 (H, W), 0 to 255 for 0 to 1; None if no wanted output needs it.
    palette_rgb: uint8 (256, 3), colour of each label.
    overlay_alpha: 0 to 1.
    camera: calibration of the image, None without a CameraInfo.
    painted: pictures that the backend made already, see `Segmentation`.
    """

    header: Header
    picture: imaging.Picture
    labels: Uint8Array
    confidence: Uint8Array | None
    palette_rgb: Uint8Array
    overlay_alpha: float
    geometry: FrameGeometry
    camera: CameraModel | None = None
    painted: Mapping[str, Uint8Array] = field(default_factory=dict)

    @property
    def rgb(self) -> Uint8Array:
        """uint8 (height, width, 3): the camera's image at its own size."""
        return self.picture.rgb

    @functools.cached_property
    def rgb_at_output(self) -> Uint8Array:
        """uint8 (H, W, 3): the image at the size of the labels."""
        return self.picture.rgb_of(self.geometry.rgb_at_output(self.picture.pixels))

    @functools.cached_property
    def color_mask(self) -> Uint8Array:
        """uint8 (H, W, 3) RGB: the colour of each label."""
        if "color_mask" in self.painted:
            return self.painted["color_mask"]
        return imaging.color_mask(self.labels, self.palette_rgb)

    @functools.cached_property
    def overlay(self) -> Uint8Array:
        """uint8 (H, W, 3) RGB: the image, tinted with the colours of the labels."""
        if "overlay" in self.painted:
            return self.painted["overlay"]
        return imaging.overlay(
            self.rgb_at_output, self.labels, self.palette_rgb, self.overlay_alpha
        )
