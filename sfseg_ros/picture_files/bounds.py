# SPDX-License-Identifier: Apache-2.0
"""The bounds of every compressed picture, whatever its format, and what its header says."""

from typing import NamedTuple

from sfseg_ros.errors import ImageError

MAX_PIXELS = 64 * 1024 * 1024
"""Largest compressed picture that is decoded; a few bytes of header can claim gigabytes."""


class PictureHeader(NamedTuple):
    """Format ("PNG", ...) and size of a compressed picture that keeps every bound. `height` and
    `width` are those of the file, before its orientation tag turns it."""

    format: str
    height: int
    width: int


def check_pixels(name: str, height: int, width: int) -> None:
    """Raises ImageError unless the picture has 1 to MAX_PIXELS pixels."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ImageError(f"{name} of {height}x{width}: expected 1 to {MAX_PIXELS} pixels")


def check_bytes(header: PictureHeader, have: int, need: int) -> PictureHeader:
    """The header itself. Raises ImageError if `have`, the bytes of picture data in the file, is
    less than `need`, the fewest with which the format can describe that many pixels."""
    if have < need:
        raise ImageError(
            f"{header.format} of {header.height}x{header.width} has {have} bytes of picture data: "
            f"expected at least {need}"
        )
    return header
