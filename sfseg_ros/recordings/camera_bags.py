# SPDX-License-Identifier: Apache-2.0
"""Bags of one camera, made from a folder of pictures or from a video."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from sfseg_ros.errors import BagError, ImageError
from sfseg_ros.imaging import (
    jpeg_from_rgb,
    png_from_pixels,
    rgb_from_compressed,
    rgb_from_file,
)
from sfseg_ros.picture_files.decoding import read_picture_bytes
from sfseg_ros.recordings.bag_writer import BagWriter, TopicToWrite
from sfseg_ros.recordings.message_bytes import COMPRESSED_IMAGE, NS_PER_S, compressed_image_cdr
from sfseg_ros.recordings.timeline import Damage
from sfseg_ros.recordings.video import frames_of_video

CAMERA_TOPIC = "/camera/image/compressed"

# Files in a format of CompressedImage go into the bag unchanged; the others become PNG.
_FORMAT_OF_SUFFIX = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
_PICTURE_SUFFIXES = (*_FORMAT_OF_SUFFIX, ".bmp", ".ppm", ".tif", ".tiff", ".webp")


def pictures_in(folder: Path) -> list[Path]:
    """Return the picture files directly in `folder`, sorted by name. Raises BagError."""
    try:
        files = [f for f in folder.iterdir() if f.is_file()]
    except OSError as error:
        raise BagError(f"{folder}: cannot be read ({error.strerror})") from error
    return sorted(f for f in files if f.suffix.lower() in _PICTURE_SUFFIXES)


def bag_from_folder(
    folder: Path, output: Path, rate_hz: float, say: Callable[[str], None] = lambda _: None
) -> int:
    """Write the pictures of a folder, sorted by name, as a bag; return their number.

    The bag has one CompressedImage topic, /camera/image/compressed, at `rate_hz`. JPEG and PNG
    files are copied unchanged; the node rejects damaged ones. A photograph with an orientation tag
    is turned upright first, because the node ignores the tag. Pictures in other formats become PNG.
    Unreadable pictures are left out, and `say` is called once with their number and the first
    error. Raises BagError if no picture remains.
    """
    pictures = pictures_in(folder)
    if not pictures:
        raise BagError(
            f"{folder}: no recording and no pictures ({', '.join(_PICTURE_SUFFIXES)}) in it"
        )
    damage = Damage()

    def frames() -> Iterator[tuple[int, bytes, str]]:
        index = 0
        for picture in pictures:
            try:
                data, image_format = _message_of_picture(picture)
            except ImageError as error:
                damage.add(picture.name, error)
                continue
            yield round(index * NS_PER_S / rate_hz), data, image_format
            index += 1

    count = _write_camera_bag(output, frames())
    if count == 0:
        raise BagError(f"{folder}: no picture can be read; {damage}")
    if damage.count:
        say(f"left out of {folder}: {damage}")
    return count


def _message_of_picture(picture: Path) -> tuple[bytes, str]:
    """Return (data, format) of a CompressedImage. Raises ImageError."""
    image_format = _FORMAT_OF_SUFFIX.get(picture.suffix.lower())
    if image_format is None:
        return png_from_pixels(rgb_from_file(picture)), "png"
    data = read_picture_bytes(picture)
    return (_upright(data) if _EXIF in data[:_EXIF_WITHIN] else data), image_format


def bag_from_video(video: Path, output: Path, max_seconds: float) -> int:
    """Write the first `max_seconds` of a video as a bag; return the number of frames.

    The bag has one CompressedImage topic, /camera/image/compressed (JPEG, quality 95), with the
    video's own times. Only one frame is in memory at a time. Raises BagError.
    """

    def frames() -> Iterator[tuple[int, bytes, str]]:
        for time_ns, rgb in frames_of_video(video):
            if time_ns > max_seconds * NS_PER_S:
                break
            yield time_ns, jpeg_from_rgb(rgb, quality=95), "jpeg"

    count = _write_camera_bag(output, frames())
    if count == 0:
        raise BagError(f"{video}: no frame in it")
    return count


def _write_camera_bag(output: Path, frames: Iterator[tuple[int, bytes, str]]) -> int:
    """Write frames of (nanoseconds since the start, encoded picture, "jpeg" or "png")."""
    count = 0
    with BagWriter(output, [TopicToWrite(CAMERA_TOPIC, COMPRESSED_IMAGE)]) as writer:
        for since_start_ns, data, image_format in frames:
            stamp_ns = NS_PER_S + since_start_ns  # some tools read a stamp of zero as "no stamp"
            cdr = compressed_image_cdr(data, image_format, stamp_ns, "camera")
            writer.write(CAMERA_TOPIC, stamp_ns, cdr)
            count += 1
    return count


_EXIF = b"Exif\0\0"
_EXIF_WITHIN = 64 * 1024


def _upright(jpeg: bytes) -> bytes:
    """Return the JPEG turned upright, or the file itself if it is upright or damaged."""
    try:
        stored, shown = rgb_from_compressed(jpeg), rgb_from_compressed(jpeg, upright=True)
    except ImageError:
        return jpeg
    return jpeg if np.array_equal(stored, shown) else jpeg_from_rgb(shown, quality=95)
