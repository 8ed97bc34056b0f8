# SPDX-License-Identifier: Apache-2.0
"""Pixels in and out: camera bytes to RGB, labels to colours, and the two resizes of a frame.

This module imports no ROS; it reads only the attributes of messages. To add an encoding, add one
row to ENCODINGS. For any input from a camera, these functions return an array or raise ImageError.
"""

import functools
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import ImageError
from sfseg_ros.model.manifest import UNLABELLED
from sfseg_ros.picture_files.decoding import MESSAGE_FORMATS, decode_picture, read_picture

Uint8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating]
ByteBuffer: TypeAlias = "bytes | bytearray | memoryview | array[int]"


@dataclass(frozen=True)
class CameraBytes:
    """The fields of a sensor_msgs/Image, checked by `picture_from_buffer`.

    `data` is a view of the message's bytes: uint8 (step * height,).
    """

    data: Uint8Array
    encoding: str
    height: int
    width: int
    step: int
    is_bigendian: bool


class ImageFormat(NamedTuple):
    """The format that all pictures of one camera share.

    The fields after height and width are those of `CameraBytes`. They keep their defaults for a
    picture that came as an array or a compressed file.
    """

    height: int
    width: int
    encoding: str = ""
    step: int = 0
    is_bigendian: bool = False

    def blank(self) -> "Picture":
        """Return a picture of this format whose bytes are all 0."""
        if not self.encoding:
            return Picture(np.zeros((self.height, self.width, 3), np.uint8))
        data = bytes(self.step * self.height)
        return picture_from_buffer(
            data, self.encoding, self.height, self.width, self.step, self.is_bigendian
        )


class Picture:
    """A camera's image of uint8 (H, W, 3) `pixels` in RGB or BGR order.

    The network sees only some pixels of a large image, so the channels are reordered after the
    image has been resized; `rgb` reorders all pixels, once. `camera` holds the bytes of an
    uncompressed message, which a GPU converts itself; it is None for arrays and compressed files.
    """

    def __init__(
        self,
        pixels: "Uint8Array | Callable[[], Uint8Array]",
        is_bgr: bool = False,
        camera: CameraBytes | None = None,
    ) -> None:
        """`pixels` may be a function, which is called once, at the first access."""
        self._pixels = pixels
        self.is_bgr = is_bgr
        self.camera = camera

    @functools.cached_property
    def pixels(self) -> Uint8Array:
        """uint8 (H, W, 3). Raises ImageError if the camera's bytes cannot be converted."""
        return self._pixels() if callable(self._pixels) else self._pixels

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        if self.camera is not None:
            return self.camera.height, self.camera.width
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def format(self) -> ImageFormat:
        if (camera := self.camera) is None:
            return ImageFormat(*self.size)
        return ImageFormat(*self.size, camera.encoding, camera.step, camera.is_bigendian)

    @functools.cached_property
    def rgb(self) -> Uint8Array:
        """uint8 (H, W, 3) RGB."""
        if not self.is_bgr:
            return self.pixels
        return np.asarray(cv2.cvtColor(self.pixels, cv2.COLOR_BGR2RGB), np.uint8)

    def rgb_of(self, changed: Uint8Array) -> Uint8Array:
        """Return RGB of uint8 (h, w, 3) `changed`, which has the channel order of `pixels`."""
        if changed is self.pixels:
            return self.rgb
        if not self.is_bgr:
            return changed
        return np.asarray(cv2.cvtColor(changed, cv2.COLOR_BGR2RGB), np.uint8)


@dataclass(frozen=True)
class Encoding:
    """How the bytes of one pixel become RGB: an OpenCV conversion code, or None for RGB itself."""

    channels: int
    conversion: int | None
    sample_bytes: int = 1
    width_multiple: int = 1
    min_side: int = 1


# OpenCV names a Bayer pattern by the second row and column, ROS by the first: rggb is "BG".
_RGGB, _BGGR, _GBRG, _GRBG = (
    cv2.COLOR_BayerBG2RGB,
    cv2.COLOR_BayerRG2RGB,
    cv2.COLOR_BayerGR2RGB,
    cv2.COLOR_BayerGB2RGB,
)

# Names and layouts: sensor_msgs/image_encodings.hpp. Other encodings (depth, float, planar YUV)
# are left to cv_bridge. The high byte of 16-bit samples is used.
ENCODINGS: dict[str, Encoding] = {
    "rgb8": Encoding(3, None),
    "bgr8": Encoding(3, cv2.COLOR_BGR2RGB),
    "rgba8": Encoding(4, cv2.COLOR_RGBA2RGB),
    "bgra8": Encoding(4, cv2.COLOR_BGRA2RGB),
    "mono8": Encoding(1, cv2.COLOR_GRAY2RGB),
    "8UC1": Encoding(1, cv2.COLOR_GRAY2RGB),
    "8UC3": Encoding(3, cv2.COLOR_BGR2RGB),  # the name has no order; cv_bridge uses OpenCV's
    "8UC4": Encoding(4, cv2.COLOR_BGRA2RGB),
    "rgb16": Encoding(3, None, sample_bytes=2),
    "bgr16": Encoding(3, cv2.COLOR_BGR2RGB, sample_bytes=2),
    "mono16": Encoding(1, cv2.COLOR_GRAY2RGB, sample_bytes=2),
    "bayer_rggb8": Encoding(1, _RGGB, min_side=3),
    "bayer_bggr8": Encoding(1, _BGGR, min_side=3),
    "bayer_gbrg8": Encoding(1, _GBRG, min_side=3),
    "bayer_grbg8": Encoding(1, _GRBG, min_side=3),
    "bayer_rggb16": Encoding(1, _RGGB, sample_bytes=2, min_side=3),
    "bayer_bggr16": Encoding(1, _BGGR, sample_bytes=2, min_side=3),
    "bayer_gbrg16": Encoding(1, _GBRG, sample_bytes=2, min_side=3),
    "bayer_grbg16": Encoding(1, _GRBG, sample_bytes=2, min_side=3),
    "uyvy": Encoding(2, cv2.COLOR_YUV2RGB_UYVY, width_multiple=2),
    "yuv422": Encoding(2, cv2.COLOR_YUV2RGB_UYVY, width_multiple=2),
    "yuyv": Encoding(2, cv2.COLOR_YUV2RGB_YUYV, width_multiple=2),
    "yuv422_yuy2": Encoding(2, cv2.COLOR_YUV2RGB_YUYV, width_multiple=2),
}


def picture_from_fields(message: Any) -> Picture:
    """Return the picture of a sensor_msgs/Image or CompressedImage from rclpy or rosbags.

    Raises ImageError like `picture_from_buffer` and `picture_from_compressed`.
    """
    if hasattr(message, "format"):
        return picture_from_compressed(message.data)
    return picture_from_buffer(
        message.data,
        message.encoding,
        message.height,
        message.width,
        message.step,
        bool(message.is_bigendian),
    )


def picture_from_buffer(
    data: ByteBuffer,
    encoding: str,
    height: int,
    width: int,
    step: int,
    is_bigendian: bool = False,
) -> Picture:
    """Return the fields of a sensor_msgs/Image as a picture of height x width.

    `step` is the length of a row in bytes, including padding. `data` has exactly step * height
    bytes, as the message definition demands; cv_bridge refuses other lengths too. `is_bigendian`
    matters for 16-bit samples only. The pixels of rgb8 and bgr8 are a view of `data`, read-only if
    `data` is, with the padding in the row stride. Pixels of other encodings are converted in one
    pass at the first access.

    Raises ImageError for an encoding not in ENCODINGS and for sizes that contradict each other.
    """
    row = ENCODINGS.get(encoding)
    if row is None:
        raise ImageError(
            f"encoding {encoding[:40]!r} is not supported, expected one of {', '.join(ENCODINGS)}"
        )
    size = f"{encoding} image of {height}x{width} (height x width)"
    if height < row.min_side or width < row.min_side:
        raise ImageError(f"{size}: expected at least {row.min_side}x{row.min_side}")
    if width % row.width_multiple:
        raise ImageError(f"{size}: expected a width that is a multiple of {row.width_multiple}")
    pixel_bytes = row.channels * row.sample_bytes
    if step < width * pixel_bytes:
        raise ImageError(f"{size}: step is {step}, expected at least {width * pixel_bytes} bytes")
    samples = _bytes_of(data)
    if samples.size != step * height:
        raise ImageError(
            f"{size}: data has {samples.size} bytes, expected step {step} x height = "
            f"{step * height}"
        )
    camera = CameraBytes(samples, encoding, height, width, step, is_bigendian)
    return Picture(
        lambda: _pixels_of(camera, row, size), row.conversion == cv2.COLOR_BGR2RGB, camera
    )


def _pixels_of(camera: CameraBytes, row: Encoding, name: str) -> Uint8Array:
    """Return uint8 (H, W, 3): BGR for encodings in BGR order, RGB for all others."""
    pixel_bytes = row.channels * row.sample_bytes
    rows = camera.data.reshape(camera.height, camera.step)[:, : camera.width * pixel_bytes]
    pixels = rows.reshape(camera.height, camera.width, pixel_bytes)
    if row.sample_bytes == 2:
        pixels = np.ascontiguousarray(pixels[:, :, (0 if camera.is_bigendian else 1) :: 2])
    if row.conversion in (None, cv2.COLOR_BGR2RGB):
        return pixels
    if row.channels == 1:
        pixels = pixels[:, :, 0]
    return _converted(pixels, row.conversion, name)


def rgb_from_compressed(data: ByteBuffer, upright: bool = False) -> Uint8Array:
    """Return uint8 (H, W, 3) RGB; arguments and errors are those of `picture_from_compressed`."""
    return picture_from_compressed(data, upright).rgb


def picture_from_compressed(data: ByteBuffer, upright: bool = False) -> Picture:
    """Decode a JPEG or PNG file.

    Grey is repeated, alpha dropped, 16-bit samples reduced to 8. `upright` applies the orientation
    tag of a photograph; otherwise the array has the camera's pixel grid.

    Raises ImageError for other formats, truncated or damaged files, animations, and files beyond
    the bounds of `decoding.examine_picture`. A missing end marker identifies a truncated JPEG; the
    OpenCV of ROS 2 Humble and Jazzy (4.5, 4.6) would return it with a grey lower part. Bytes after
    the end marker are ignored, as in every viewer.
    """
    orientation = 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    bgr = decode_picture(_bytes_of(data), cv2.IMREAD_COLOR | orientation, MESSAGE_FORMATS)
    return Picture(np.asarray(bgr, np.uint8), is_bgr=True)


def rgb_from_file(path: Path) -> Uint8Array:
    """Read a picture file in one of FILE_FORMATS as uint8 (H, W, 3) RGB.

    The orientation tag is applied, as in a viewer. Raises ImageError.
    """
    bgr = read_picture(path, cv2.IMREAD_COLOR)
    return np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), np.uint8)


def png_from_pixels(pixels: Uint8Array) -> bytes:
    """Encode uint8 (H, W), or (H, W, 3) RGB, as a PNG file.

    The compression level is low because that is fast and label images are small anyway. Raises
    ImageError for sizes that PNG does not support.
    """
    return _encoded(".png", pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])


def jpeg_from_rgb(rgb: Uint8Array, quality: int) -> bytes:
    """Encode uint8 (H, W, 3) RGB as a JPEG file; `quality` is 0 to 100.

    Raises ImageError for sizes that JPEG does not support.
    """
    return _encoded(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, quality])


def color_mask(labels: Uint8Array, palette_rgb: Uint8Array) -> Uint8Array:
    """Return the colour of each label: uint8 (H, W) to (H, W, 3) RGB; `palette_rgb` is (256, 3)."""
    # OpenCV's table look-up is faster than numpy's take.
    return np.asarray(cv2.applyColorMap(labels, palette_rgb.reshape(256, 1, 3)), np.uint8)


def overlay(
    rgb: Uint8Array, labels: Uint8Array, palette_rgb: Uint8Array, alpha: float
) -> Uint8Array:
    """Blend the class colours into the image: a new array, uint8 (H, W, 3) RGB.

    `alpha` is 0 (image only) to 1 (colours only). Unlabelled pixels (255) keep the image.
    """
    blended = cv2.addWeighted(rgb, 1.0 - alpha, color_mask(labels, palette_rgb), alpha, 0.0)
    unlabelled = (labels == UNLABELLED).view(np.uint8)
    return np.asarray(cv2.copyTo(rgb, unlabelled, blended), np.uint8)


def resized_rgb(rgb: Uint8Array, size: tuple[int, int]) -> Uint8Array:
    """Resize uint8 (H, W, 3) to `size` (height, width); returns `rgb` itself if it has that size.

    The resize is bilinear. While both sides are at least twice too large, blocks of 2x2 pixels are
    averaged first, because bilinear sampling would skip pixels and break up thin objects such as
    poles. Averaging to the final size with OpenCV's INTER_AREA takes several times as long, so it
    is used only for shapes that cannot be halved.
    """
    height, width = size
    while rgb.shape[0] >= 2 * height and rgb.shape[1] >= 2 * width:
        rows, columns = rgb.shape[:2]
        if rows % 2 or columns % 2:
            break
        rgb = _resized(rgb, (rows // 2, columns // 2), cv2.INTER_AREA)
    if rgb.shape[0] >= 2 * height or rgb.shape[1] >= 2 * width:
        # INTER_AREA displaces objects along a side that grows, so it only shrinks here.
        smaller = min(rgb.shape[0], height), min(rgb.shape[1], width)
        rgb = _resized(rgb, smaller, cv2.INTER_AREA)
    return rgb if rgb.shape[:2] == size else _resized(rgb, size, cv2.INTER_LINEAR)


def resized_labels(labels: Uint8Array, size: tuple[int, int]) -> Uint8Array:
    """Resize uint8 (H, W) labels or confidence to `size` (height, width) by nearest neighbour.

    Pixel centres match `resized_rgb`: output i takes input floor((i + 0.5) * scale). OpenCV's plain
    INTER_NEAREST takes floor(i * scale), which shifts the mask by up to half a pixel.
    """
    if labels.shape == size:
        return labels
    return _resized(labels, size, cv2.INTER_NEAREST_EXACT)


def _resized(pixels: Uint8Array, size: tuple[int, int], interpolation: int) -> Uint8Array:
    return np.asarray(cv2.resize(pixels, size[::-1], interpolation=interpolation), np.uint8)


def _bytes_of(data: ByteBuffer) -> Uint8Array:
    """Return a flat view without a copy; memoryview accepts empty buffers, frombuffer does not."""
    try:
        view = memoryview(data).cast("B")
    except (TypeError, ValueError) as error:
        raise ImageError(f"image data is {type(data).__name__}: expected bytes") from error
    return np.asarray(view, np.uint8)


def _converted(pixels: Uint8Array, conversion: int, name: str) -> Uint8Array:
    try:
        return np.asarray(cv2.cvtColor(pixels, conversion), np.uint8)
    except cv2.error as error:
        raise ImageError(f"{name}: OpenCV cannot convert it ({error.err})") from error


def _encoded(suffix: str, pixels: Uint8Array, options: list[int]) -> bytes:
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    try:
        done, data = cv2.imencode(suffix, bgr, options)
    except cv2.error as error:
        raise ImageError(f"image of {pixels.shape} as {suffix}: {error.err}") from error
    if not done:
        raise ImageError(f"image of {pixels.shape}: OpenCV cannot write it as {suffix}")
    return data.tobytes()
