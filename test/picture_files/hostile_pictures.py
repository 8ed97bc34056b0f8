# SPDX-License-Identifier: Apache-2.0
"""Files that crash or stall a decoder, built from the descriptions of their formats."""

import struct
import zlib

import cv2
import numpy as np


def street(height: int = 60, width: int = 80) -> np.ndarray:
    """A smooth picture with noise, uint8 (H, W, 3), so that no format compresses it to nothing."""
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 16, (height, width))
    channels = (rows * 3 + noise, columns * 2, rows + columns + noise)
    return np.stack([channel % 256 for channel in channels], axis=-1).astype(np.uint8)


def encoded(suffix: str, pixels: np.ndarray, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, pixels, options)[1].tobytes())


def png_chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png_of(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """An 8-bit RGB PNG with these chunks between header and end."""
    header = png_chunk(b"IHDR", struct.pack(">II5B", width, height, 8, 2, 0, 0, 0))
    middle = b"".join(png_chunk(*chunk) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + middle + png_chunk(b"IEND", b"")


def animated_png() -> bytes:
    """203 bytes that corrupt the heap of OpenCV 4.12 and 5.0.0.93: the second frame declares 1x34
    pixels and has data for 26x34."""
    white = zlib.compress((b"\0" + b"\xff" * 78) * 34, 9)
    frame = struct.pack(">IIIIIHHBB", 0, 1, 34, 0, 0, 1, 1, 0, 0)
    return png_of(
        26,
        34,
        (b"acTL", struct.pack(">II", 2, 0)),
        (b"IDAT", white),
        (b"fcTL", frame),
        (b"fdAT", struct.pack(">I", 1) + white),
    )


def jpeg_segment(code: int, content: bytes) -> bytes:
    return bytes((0xFF, code)) + struct.pack(">H", len(content) + 2) + content


def jpeg_frame(height: int, width: int, code: int = 0xC0) -> bytes:
    """A frame header with three channels, 4:2:0."""
    channels = bytes((1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0))
    return jpeg_segment(code, struct.pack(">BHHB", 8, height, width, 3) + channels)


JPEG_TABLES = b"".join(
    (
        jpeg_segment(0xDB, b"\0" + b"\1" * 64),
        # One code of one bit: a difference of 0 of the mean, and the end of the block.
        *(jpeg_segment(0xC4, bytes((kind, 1, *[0] * 15, 0))) for kind in (0x00, 0x10)),
    )
)


def jpeg_scan(data: bytes, first: int = 0, last: int = 63) -> bytes:
    """A scan of all three channels, or of the first channel only if `first` is above 0."""
    channels = (1,) if first else (1, 2, 3)
    content = bytes((len(channels), *(b for c in channels for b in (c, 0)), first, last, 0))
    return jpeg_segment(0xDA, content) + data


def jpeg_of(*parts: bytes) -> bytes:
    return b"\xff\xd8" + b"".join(parts) + b"\xff\xd9"


def jpeg_without_data() -> bytes:
    """A JPEG of a few hundred bytes that declares 8192x8192 pixels."""
    return jpeg_of(JPEG_TABLES, jpeg_frame(8192, 8192), jpeg_scan(b"\0" * 16))


def jpeg_of_scans(count: int, side: int = 4096) -> bytes:
    """A progressive JPEG with `count` scans over all coefficients except the mean. Each scan is a
    few bytes long: one code of one bit ends 32,767 blocks at once."""
    run = jpeg_segment(0xC4, bytes((0x10, 1, *[0] * 15, 0xE0)))
    means = jpeg_scan(b"\0" * (side * side // 64 // 4), 0, 0)
    return jpeg_of(
        JPEG_TABLES, run, jpeg_frame(side, side, 0xC2), means, jpeg_scan(b"\0" * 30, 1, 63) * count
    )
