# SPDX-License-Identifier: Apache-2.0
"""The calibration in a sensor_msgs/CameraInfo, and how it changes for a cropped or scaled mask.

`nodes/messages.py` copies the fields of the message. `roi` and binning are read as image_geometry
reads them, so that every ROS consumer finds the same pixels: pixel = (full-resolution pixel - roi
offset) / binning, with integers at pixel centres.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import NamedTuple

from sfseg_ros.errors import ImageError
from sfseg_ros.geometry import FrameGeometry


@dataclass(frozen=True)
class CameraModel:
    """A calibrated or uncalibrated camera, fields as in sensor_msgs/CameraInfo.

    `height` and `width` are the resolution of the calibration in pixels. `d` are the parameters of
    `distortion_model`; `k` and `r` are 3x3, `p` is 3x4, row by row. `binning_x` and `binning_y` 0
    mean 1. `roi` is (x_offset, y_offset, height, width, do_rectify) in full-resolution pixels,
    with height and width 0 for all.
    """

    height: int
    width: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    r: tuple[float, ...]
    p: tuple[float, ...]
    binning_x: int = 0
    binning_y: int = 0
    roi: tuple[int, int, int, int, bool] = (0, 0, 0, 0, False)

    @property
    def calibrated(self) -> bool:
        """Whether `k` is usable; drivers without a calibration leave it zero."""
        return self.k[0] != 0 and all(math.isfinite(value) for value in self.k)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that this model describes."""
        height, width = self.roi[2:4] if self._has_roi else (self.height, self.width)
        return height // max(1, self.binning_y), width // max(1, self.binning_x)

    def for_output(self, geometry: FrameGeometry) -> "CameraModel":
        """Return the model of `geometry`'s output; its `image_size` is the output's size.

        Cropping sets `roi` and keeps `k`, like image_proc::CropDecimateNode. Scaling scales `k`,
        `p`, the resolution and `roi`, like image_proc::ResizeNode. ResizeNode drops the fraction of
        a scaled roi offset; here the fraction goes into cx and cy. Like ResizeNode, this method
        ignores the half-pixel shift of pixel centres, so that all nodes of a pipeline agree.

        Raises ImageError if the images do not have this model's size.
        """
        if self.image_size != geometry.image_size and (self.height, self.width) != (0, 0):
            (height, width), (rows, columns) = self.image_size, geometry.image_size
            raise ImageError(
                f"camera_info is of images of {height}x{width} (height x width), the image has "
                f"{rows}x{columns}; calibrate at that size or set its binning and roi"
            )
        if geometry.output_area.size == geometry.output_size == geometry.image_size:
            return self
        area, (output_height, output_width) = geometry.output_area, geometry.output_size
        cropped = area.size != geometry.image_size
        has_roi = cropped or self._has_roi
        x_offset, y_offset, _, _, do_rectify = self.roi
        x = _axis(self.width, has_roi, x_offset, self.binning_x, area.x, area.width, output_width)
        y = _axis(
            self.height, has_roi, y_offset, self.binning_y, area.y, area.height, output_height
        )
        roi = (x.offset, y.offset, y.length, x.length, do_rectify or cropped)
        return dataclasses.replace(
            self,
            height=y.resolution,
            width=x.resolution,
            k=_transformed(self.k, x, y),
            p=_transformed(self.p, x, y),
            roi=roi if has_roi else self.roi,
        )

    def intrinsics(self, rectified: bool = False) -> tuple[float, float, float, float]:
        """Return (fx, fy, cx, cy) in pixels of the image, with roi and binning applied.

        They come from `p` for a rectified image, else from `k`.
        """
        if rectified:
            fx, cx, fy, cy = self.p[0], self.p[2], self.p[5], self.p[6]
        else:
            fx, cx, fy, cy = self.k[0], self.k[2], self.k[4], self.k[5]
        binning_x, binning_y = max(1, self.binning_x), max(1, self.binning_y)
        x_offset, y_offset = self.roi[:2]
        return (
            fx / binning_x,
            fy / binning_y,
            (cx - x_offset) / binning_x,
            (cy - y_offset) / binning_y,
        )

    @property
    def _has_roi(self) -> bool:
        return self.roi[2] > 0 and self.roi[3] > 0


class _Axis(NamedTuple):
    """One axis of the output's camera.

    Pixel u of the original camera becomes u * scale + shift. The output shows `length` of the
    `resolution` full-resolution pixels, starting at `offset`.
    """

    scale: float
    shift: float
    resolution: int
    offset: int
    length: int


def _axis(
    resolution: int,
    has_roi: bool,
    roi_offset: int,
    binning: int,
    start: int,
    length: int,
    output_length: int,
) -> _Axis:
    """Map `length` pixels of the image, starting at `start`, to `output_length` pixels."""
    binning = max(1, binning)
    scale = output_length / length
    output_full = output_length * binning
    if output_length != length:
        resolution = round(resolution * scale) if has_roi else output_full
    # Rounding down keeps the roi within the scaled resolution; rounding up might not.
    offset, fraction = divmod((roi_offset + start * binning) * output_length, length)
    shift = -fraction / length
    return _Axis(scale, shift, resolution, offset, output_full)


def _transformed(matrix: tuple[float, ...], x: _Axis, y: _Axis) -> tuple[float, ...]:
    """Scale and shift the pixels of a 3xN camera matrix, row by row. Zeros stay zeros."""
    columns = len(matrix) // 3
    first, second, third = (matrix[row * columns : (row + 1) * columns] for row in range(3))
    return (
        *(x.scale * value + x.shift * w for value, w in zip(first, third)),
        *(y.scale * value + y.shift * w for value, w in zip(second, third)),
        *third,
    )
