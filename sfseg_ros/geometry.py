# SPDX-License-Identifier: Apache-2.0
"""How the pixels of an image, of the network's input and of the mask map to each other.

Sizes are (height, width), areas (x, y, width, height), both in pixels. Every resize keeps pixel
centres: pixel i of n shows the same place as pixel position (i + 0.5) * m / n - 0.5 of m pixels.
`CameraModel.for_output` applies the same mapping to a camera's calibration.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from sfseg_ros.errors import ImageError
from sfseg_ros.imaging import Uint8Array, resized_labels, resized_rgb
from sfseg_ros.picture_files.bounds import MAX_PIXELS

FITS = ("stretch", "letterbox", "crop")
OUTPUT_SIZES = ("image", "network")
PADDING_GREY = 114
"""Colour of the letterbox's bars: about the mean of natural images. Normalisation maps it close to
zero, which is also the value of the network's own padding."""


class Area(NamedTuple):
    """A rectangle of pixels in an image."""

    x: int
    y: int
    width: int
    height: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)"""
        return self.height, self.width

    def of(self, pixels: Uint8Array) -> Uint8Array:
        """Return these pixels of uint8 (H, W, ...) as a view; the array itself if it is all."""
        if pixels.shape[:2] == self.size:
            return pixels
        return pixels[self.y : self.y + self.height, self.x : self.x + self.width]


@dataclass(frozen=True)
class View:
    """Which part of a camera's images the network sees, and which part the mask covers.

    `region` is (x_offset, y_offset, width, height) in pixels of the image, None for all of it.
    `horizon`, from 0 to less than 1, is the fraction of the image's height that is cut off at the
    top, independent of the region. `fit` applies if the remaining area and the network's input
    differ in aspect ratio: "stretch" distorts the area, "letterbox" pads it, "crop" cuts its longer
    side. `output_size` is the size of the mask: "image" for the image's size, with pixels outside
    the network's view unlabelled; "network" for the network's pixels without padding; or
    (height, width), which like "network" covers only the area that the network sees.

    Raises ImageError for values that no image can satisfy.
    """

    region: tuple[int, int, int, int] | None = None
    horizon: float = 0.0
    fit: str = "stretch"
    output_size: str | tuple[int, int] = "image"

    def __post_init__(self) -> None:
        if self.region is not None and (min(self.region[:2]) < 0 or min(self.region[2:]) < 1):
            raise ImageError(
                f"region {self.region}: expected x_offset, y_offset >= 0 and width, height >= 1"
            )
        if not 0.0 <= self.horizon < 1.0:
            raise ImageError(f"horizon is {self.horizon}: expected 0 to less than 1")
        if self.fit not in FITS:
            raise ImageError(f"fit is {self.fit!r}: expected one of {', '.join(FITS)}")
        if isinstance(self.output_size, str):
            if self.output_size not in OUTPUT_SIZES:
                raise ImageError(
                    f"output size is {self.output_size!r}: expected image, network or a size"
                )
        elif min(self.output_size) < 1 or self.output_size[0] * self.output_size[1] > MAX_PIXELS:
            height, width = self.output_size
            raise ImageError(f"output size {height}x{width}: expected 1 to {MAX_PIXELS} pixels")


WHOLE_IMAGE = View()


@dataclass(frozen=True)
class FrameGeometry:
    """The mapping for one image size under a View; made by `geometry_of`.

    The network sees `area` of the image in the pixels `content` of its input; `content` is the
    whole input unless `fit` is "letterbox". The output covers `output_area` of the image: all of
    it, or `area`.
    """

    image_size: tuple[int, int]
    network_size: tuple[int, int]
    area: Area
    content: Area
    output_size: tuple[int, int]
    output_area: Area

    @property
    def output_has_network_pixels(self) -> bool:
        """Whether the output consists of the network's pixels, none resized and none filled in."""
        return self.area == self.output_area and self.content.size == self.output_size

    def network_input(self, rgb: Uint8Array) -> Uint8Array:
        """Fit uint8 (H, W, 3) of `image_size`, RGB or BGR, to the network's input size.

        Returns the image itself or a view of it if no pixel changes.
        """
        content = resized_rgb(self.area.of(rgb), self.content.size)
        if self.content.size == self.network_size:
            return content
        below = self.network_size[0] - self.content.y - self.content.height
        right = self.network_size[1] - self.content.x - self.content.width
        padded = cv2.copyMakeBorder(
            content,
            *(self.content.y, below, self.content.x, right),
            cv2.BORDER_CONSTANT,
            value=(PADDING_GREY,) * 3,
        )
        return np.asarray(padded, np.uint8)

    def output_from(self, network_array: Uint8Array, fill: int) -> Uint8Array:
        """Map uint8 (H, W) from the network's pixels to the output's, C-contiguous.

        Each pixel takes the nearest value (`resized_labels`), or `fill` outside the network's view.
        If `output_has_network_pixels`, colours of uint8 (H, W, 3) are accepted too. Returns the
        array itself if nothing changes.
        """
        content = self.content.of(network_array)
        if self.area == self.output_area:
            return np.ascontiguousarray(resized_labels(content, self.output_size))
        output = np.full(self.output_size, fill, np.uint8)
        self.area.of(output)[:] = resized_labels(content, self.area.size)
        return output

    def rgb_at_output(self, rgb: Uint8Array) -> Uint8Array:
        """Map an image of `image_size` to the output's pixels: uint8 RGB (*output_size, 3).

        Returns the image itself or a view of it if no pixel changes.
        """
        return resized_rgb(self.output_area.of(rgb), self.output_size)


def geometry_of(
    image_size: tuple[int, int],
    view: View,
    network_size_for: Callable[[tuple[int, int]], tuple[int, int]],
) -> FrameGeometry:
    """Return the geometry of images of `image_size` (height, width) under `view`.

    `network_size_for` returns the network's input (height, width) for an area of (height, width).
    Raises ImageError if the region leaves the image or lies above the horizon.
    """
    area = _visible_area(image_size, view)
    network_size = network_size_for(area.size)
    content = Area(0, 0, network_size[1], network_size[0])
    if view.fit == "crop":
        area = _centred(_fitted(network_size, area.size), area)
    elif view.fit == "letterbox":
        content = _centred(_fitted(area.size, network_size), content)
    if view.output_size == "image":
        output_size, output_area = image_size, Area(0, 0, image_size[1], image_size[0])
    else:
        output_area = area
        output_size = content.size if isinstance(view.output_size, str) else view.output_size
    return FrameGeometry(image_size, network_size, area, content, output_size, output_area)


def _visible_area(image_size: tuple[int, int], view: View) -> Area:
    """Return the part of the region that lies below the horizon."""
    height, width = image_size
    region = Area(*(view.region or (0, 0, width, height)))
    if region.x + region.width > width or region.y + region.height > height:
        raise ImageError(
            f"image of {height}x{width} (height x width): region x {region.x} y {region.y} width "
            f"{region.width} height {region.height} leaves it; set region_of_interest to x_offset, "
            "y_offset, width, height within the image, or to all 0 for the whole of it"
        )
    # A whole image keeps at least one row, even if the horizon is close to 1.
    top = max(region.y, min(round(view.horizon * height), height - 1))
    bottom = region.y + region.height
    if top >= bottom:
        raise ImageError(
            f"image of {height}x{width} (height x width): region ends in row {bottom}, above the "
            f"horizon in row {top}; make region_of_interest taller or horizon smaller"
        )
    return Area(region.x, top, region.width, bottom - top)


def _fitted(shape: tuple[int, int], bounds: tuple[int, int]) -> tuple[int, int]:
    """Return the largest size with the aspect ratio of `shape` in `bounds`; all (height, width)."""
    height, width = bounds
    if shape[0] * width <= shape[1] * height:
        return max(1, round(width * shape[0] / shape[1])), width
    return height, max(1, round(height * shape[1] / shape[0]))


def _centred(size: tuple[int, int], area: Area) -> Area:
    """Return an area of `size` (height, width) in the middle of `area`."""
    height, width = size
    x = area.x + (area.width - width) // 2
    y = area.y + (area.height - height) // 2
    return Area(x, y, width, height)
