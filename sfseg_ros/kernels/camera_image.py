# SPDX-License-Identifier: Apache-2.0
"""CameraImage: make the network's input from a camera's bytes in one pass.

The pass converts colours or demosaics, crops, resizes and letterboxes. It can also normalise,
change the layout and convert to float16. On the CPU, `imaging.picture_from_buffer` and
`FrameGeometry.network_input` take several passes for this.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import BackendError
from sfseg_ros.geometry import PADDING_GREY, FrameGeometry
from sfseg_ros.imaging import ENCODINGS, ByteBuffer, Float32Array, Uint8Array, picture_from_buffer
from sfseg_ros.kernels.launch import (
    ITEM_BYTES,
    LAYOUTS,
    MAX_ELEMENTS,
    SUFFIXES,
    Launch,
    Shape,
    blocks,
)

PIXELS = 4
BLOCK = (32, 8, 1)
"""A thread makes PIXELS neighbouring pixels, so a block makes 128x8 pixels."""
MAX_SIDE = 32767
"""Largest side. Positions are fractions of integers up to twice the product of two sides, which
must fit in 32 bits."""

# Position of red in the 2x2 pattern: (column, row).
_RED = {"rggb": (0, 0), "bggr": (1, 1), "gbrg": (0, 1), "grbg": (1, 0)}


Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class NetworkInput:
    """What the kernel makes of the pixels.

    dtype: "uint8", or "float32" or "float16" for (rgb / 255 - mean) / std.
    layout: "hwc", (1, H, W, 3) in memory, or "linear", (1, 3, H, W). uint8 is "hwc" only: the input
        of an exported model.
    mean, std: of red, green, blue.

    Raises BackendError unless a kernel exists for this dtype and layout.
    """

    dtype: str = "uint8"
    layout: str = "hwc"
    mean: Rgb = (0.0, 0.0, 0.0)
    std: Rgb = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        dtype, layout = self.dtype, self.layout
        if (
            dtype not in ITEM_BYTES
            or layout not in LAYOUTS
            or (dtype, layout) == ("uint8", "linear")
        ):
            raise BackendError(
                f"no kernel for a network input of {dtype} in layout {layout}: expected uint8 in "
                "hwc, or float32 or float16 in linear or hwc"
            )

    def scale_and_shift(self) -> tuple[Float32Array, Float32Array]:
        """Return float32 (3,) each: (rgb / 255 - mean) / std = rgb * scale + shift."""
        deviation = np.asarray(self.std, np.float64)
        shift = -np.asarray(self.mean, np.float64) / deviation
        return (1.0 / (255.0 * deviation)).astype(np.float32), shift.astype(np.float32)


UINT8_HWC = NetworkInput()


class Axis(NamedTuple):
    """How `size` source pixels along an axis become `target` pixels: `factor` neighbours are
    averaged, then the averages are resized by area means (`is_area`) or bilinearly."""

    size: int
    target: int
    factor: int
    is_area: bool


def axes(source: Shape, target: Shape) -> tuple[Axis, Axis]:
    """Return the (y, x) axes of the resize of `imaging.resized_rgb`, from and to (height, width).

    The source is halved while both sides are even and at least twice the target's. If one side is
    still that large, area means follow along each axis that shrinks, else a bilinear resize.
    """
    factor = 1
    rows, columns = source
    while rows >= 2 * target[0] and columns >= 2 * target[1] and not (rows % 2 or columns % 2):
        rows, columns, factor = rows // 2, columns // 2, 2 * factor
    area = rows >= 2 * target[0] or columns >= 2 * target[1]
    return (
        Axis(source[0], target[0], factor, area and rows > target[0]),
        Axis(source[1], target[1], factor, area and columns > target[1]),
    )


def camera_image(
    data: ByteBuffer,
    encoding: str,
    step: int,
    geometry: FrameGeometry,
    is_bigendian: bool = False,
    made: NetworkInput = UINT8_HWC,
) -> npt.NDArray[Any]:
    """Make the network's input from the fields of a sensor_msgs/Image.

    Args:
        data, encoding, step, is_bigendian: as for `imaging.picture_from_buffer`, which defines the
            colours.
        geometry: for images of this size. Its `area` is resized to its `content`, with grey around.
        made: dtype, layout and normalisation of the result.

    Returns:
        (1, H, W, 3) or (1, 3, H, W), as `made.layout` says.

    Differs from `FrameGeometry.network_input`: means of means are computed at once and rounded
    once, half up, while OpenCV rounds after each step. Both are equal without a resize or with 2x2
    means.
    """
    height, width = geometry.image_size
    rgb = picture_from_buffer(data, encoding, height, width, step, is_bigendian).rgb
    content = geometry.content
    y_axis, x_axis = axes(geometry.area.size, content.size)
    resized = _resized(geometry.area.of(rgb), y_axis, x_axis)
    image = np.full((*geometry.network_size, 3), PADDING_GREY, np.uint8)
    content.of(image)[:] = np.minimum(np.floor(resized + np.float32(0.5)), 255).astype(np.uint8)
    if made.dtype == "uint8":
        return image[None]
    scale, shift = made.scale_and_shift()
    normalised = (image.astype(np.float32) * scale + shift).astype(made.dtype)[None]
    return (
        normalised
        if made.layout == "hwc"
        else np.ascontiguousarray(normalised.transpose(0, 3, 1, 2))
    )


def _resized(rgb: Uint8Array, y_axis: Axis, x_axis: Axis) -> Float32Array:
    """Return float32 (h, w, 3). Sums are in the order of the kernel."""
    factor = y_axis.factor
    rows, columns = y_axis.size // factor, x_axis.size // factor
    sums = rgb.reshape(rows, factor, columns, factor, 3).astype(np.int64).sum(axis=(1, 3))
    sums = sums.astype(np.float32)
    across = np.zeros((rows, x_axis.target, 3), np.float32)
    for index, weight in _taps(x_axis):
        across += weight[None, :, None] * sums[:, index]
    total = np.zeros((y_axis.target, x_axis.target, 3), np.float32)
    for index, weight in _taps(y_axis):
        total += weight[:, None, None] * across[index]
    return total * np.float32(1.0 / (factor * factor))


def _taps(axis: Axis) -> "list[tuple[npt.NDArray[np.int64], Float32Array]]":
    """Return (indices of means of `factor` pixels, their weights) for the pixels of the target, one
    pair per tap. The weight is 0 if a pixel has fewer taps."""
    size, target = axis.size // axis.factor, axis.target
    i = np.arange(target)
    if axis.is_area:
        # Overlaps of [i, i + 1) * size / target with each pixel, in units of 1 / target of a pixel.
        first = i * size // target
        count = -(-size // target) + 1
        overlaps = [
            (j, np.minimum((i + 1) * size, (j + 1) * target) - np.maximum(i * size, j * target))
            for j in (first + k for k in range(count))
        ]
        return [
            (np.minimum(j, size - 1), np.maximum(o, 0).astype(np.float32) / np.float32(size))
            for j, o in overlaps
        ]
    # Position (i + 1/2) * size / target - 1/2 in units of 1 / (2 * target), inside the source.
    position = np.clip((2 * i + 1) * size - target, 0, 2 * target * (size - 1))
    first, rest = position // (2 * target), position % (2 * target)
    share = rest.astype(np.float32) / np.float32(2 * target)
    return [(first, np.float32(1) - share), (np.minimum(first + 1, size - 1), share)]


def camera_image_launch(
    encoding: str,
    step: int,
    geometry: FrameGeometry,
    is_bigendian: bool = False,
    made: NetworkInput = UINT8_HWC,
) -> Launch:
    """Return the launch for one image. Input: its step * height bytes. Output: see `camera_image`.

    The arguments are those of `camera_image`. Each image of a batch has its own launch and its own
    part of the output. Raises BackendError if no kernel takes these arguments.

    Minimum traffic: the bytes of the area's pixels, and 3 * H * W * item bytes of output. Not run
    on a GPU.
    """
    row = ENCODINGS.get(encoding)
    if row is None:
        raise BackendError(
            f"encoding {encoding[:40]!r} is not supported, expected one of {', '.join(ENCODINGS)}"
        )
    height, width = geometry.image_size
    pixel_bytes = row.channels * row.sample_bytes
    sides = (*geometry.image_size, *geometry.network_size)
    out_height, out_width = geometry.network_size
    if max(sides) > MAX_SIDE or max(step * height, 3 * out_height * out_width) > MAX_ELEMENTS:
        raise BackendError(
            f"image of {height}x{width} for a network of {out_height}x{out_width}: expected sides "
            f"up to {MAX_SIDE} pixels and up to {MAX_ELEMENTS} bytes or values each"
        )
    if (
        step < width * pixel_bytes
        or width % row.width_multiple
        or min(height, width) < row.min_side
    ):
        raise BackendError(
            f"{encoding} image of {height}x{width} with step {step}: expected a step of at least "
            f"{width * pixel_bytes}, a width that is a multiple of {row.width_multiple} and sides "
            f"of at least {row.min_side}"
        )
    y_axis, x_axis = axes(geometry.area.size, geometry.content.size)
    scale, shift = made.scale_and_shift()
    # With two bytes per sample, the kernel uses the high byte.
    high_byte = row.sample_bytes - 1 if not is_bigendian else 0
    kind, places = _format(encoding, row.sample_bytes, high_byte)
    scalars: tuple[int | float, ...] = (
        *(height, width, step, pixel_bytes),
        *places,
        *geometry.area,
        *geometry.content,
        *(y_axis.factor, int(y_axis.is_area), int(x_axis.is_area)),
        *(out_height, out_width),
    )
    normalise = tuple(float(value) for value in (*scale, *shift)) if made.dtype != "uint8" else ()
    item = ITEM_BYTES[made.dtype]
    return Launch(
        f"sfseg_camera_image_{kind}_{SUFFIXES[made.dtype]}_{made.layout}",
        (blocks(out_width, BLOCK[0] * PIXELS), blocks(out_height, BLOCK[1]), 1),
        BLOCK,
        scalars + normalise,
        bytes_moved=geometry.area.width * geometry.area.height * pixel_bytes
        + 3 * item * out_height * out_width,
    )


def _format(encoding: str, sample_bytes: int, high_byte: int) -> tuple[str, tuple[int, int, int]]:
    """Return the kernel's name for the encoding and three numbers.

    For packed pixels these are the bytes of red, green and blue in a pixel; for yuv422 those of
    luma, u and v in two pixels; for bayer the column and row of red in the pattern and the byte of
    a sample.
    """
    if encoding.startswith("bayer"):
        return "bayer", (*_RED[encoding[6:10]], high_byte)
    if encoding in ("uyvy", "yuv422"):
        return "yuv422", (1, 0, 2)
    if encoding in ("yuyv", "yuv422_yuy2"):
        return "yuv422", (0, 1, 3)
    order = (0, 1, 2) if encoding.startswith("rgb") else (2, 1, 0)
    if encoding.startswith("mono") or encoding == "8UC1":
        order = (0, 0, 0)
    red, green, blue = (place * sample_bytes + high_byte for place in order)
    return "packed", (red, green, blue)
