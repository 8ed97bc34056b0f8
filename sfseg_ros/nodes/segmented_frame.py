# SPDX-License-Identifier: Apache-2.0
"""A frame after the network: all that an output can be made of."""

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
    """All that an output can be made of. Labels and confidence have the size of the output
    (H, W) = geometry.output_size, which is the image's unless parameters say otherwise.

    picture: the camera's image; labels uint8 (H, W), 255 = unlabelled; confidence uint8 (H, W),
    0 to 255 for 0 to 1, None where no wanted output needs it; palette_rgb uint8 (256, 3);
    overlay_alpha 0 to 1; camera: of the image, None where no CameraInfo came; painted: what the
    backend made already, see `Segmentation`.
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
        """uint8 (H, W, 3): the camera's image."""
        return self.picture.rgb

    @functools.cached_property
    def rgb_at_output(self) -> Uint8Array:
        """uint8 (H, W, 3): the image on the grid of the labels."""
        return self.picture.rgb_of(self.geometry.rgb_at_output(self.picture.pixels))

    @functools.cached_property
    def color_mask(self) -> Uint8Array:
        """uint8 (H, W, 3) RGB: the colours of the classes."""
        if "color_mask" in self.painted:
            return self.painted["color_mask"]
        return imaging.color_mask(self.labels, self.palette_rgb)

    @functools.cached_property
    def overlay(self) -> Uint8Array:
        """uint8 (H, W, 3) RGB: the image under the colours of the classes."""
        if "overlay" in self.painted:
            return self.painted["overlay"]
        return imaging.overlay(
            self.rgb_at_output, self.labels, self.palette_rgb, self.overlay_alpha
        )
