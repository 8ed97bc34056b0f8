# SPDX-License-Identifier: Apache-2.0
"""Bounds that hold for compressed pictures of every format."""

from typing import NamedTuple

from sfseg_ros.errors import ImageError

MAX_PIXELS = 64 * 1024 * 1024
"""Largest compressed picture that is decoded; a short header can declare gigabytes of pixels."""


class PictureHeader(NamedTuple):
    """Format ("PNG", ...) and size of a compressed picture within all bounds.

    `height` and `width` are those of the file, before its orientation tag is applied.
    """

    format: str
    height: int
    width: int


def check_pixels(name: str, height: int, width: int) -> None:
    """Raise ImageError unless the picture has 1 to MAX_PIXELS pixels."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ImageError(f"{name} of {height}x{width}: expected 1 to {MAX_PIXELS} pixels")


def check_bytes(header: PictureHeader, have: int, need: int) -> PictureHeader:
    """Return `header`. Raises ImageError if the file has fewer bytes of picture data than needed.

    `have` is the number of bytes in the file; `need` is the smallest number with which the format
    can describe that many pixels.
    """
    if have < need:
        raise ImageError(
            f"{header.format} of {header.height}x{header.width} has {have} bytes of picture data: "
            f"expected at least {need}"
        )
    return header
