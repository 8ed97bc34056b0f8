# SPDX-License-Identifier: Apache-2.0
"""Examines a JPEG file before a decoder reads it.

The guard walks the markers like libjpeg (T.81, annex B), so that guard and decoder see the same
frame and scans. The walk costs one numpy pass over the entropy-coded data.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import ImageError
from sfseg_ros.picture_files.bounds import MAX_PIXELS, PictureHeader, check_bytes, check_pixels

MAX_SEGMENTS = 1000
"""Photographs with colour profile, depth map and extended metadata have a few hundred."""

MAX_STRAY_BYTES = 4096
"""Bytes between two header segments that belong to neither; libjpeg skips them."""

MAX_SCANS = 100
"""The most elaborate scan scripts have about 60."""

SCANS_OF_ANY_SIZE = 12
"""A progressive encoder writes about 10."""

MAX_SCANNED_PIXELS = 4 * MAX_PIXELS
"""Limit of scans x pixels for files with more than SCANS_OF_ANY_SIZE scans. A scan without data
costs the decoder about 0.3 ns per pixel: at most 0.1 s in addition to the picture itself."""

SIGNATURE = b"\xff\xd8"
_EOI, _SOI, _SOS = 0xD9, 0xD8, 0xDA
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

# A marker is 0xFF and a code. FF00 is a stuffed data byte, FF01 and FFD0 to FFD7 have no segment,
# FFFF is padding.
_IS_MARKER = np.ones(256, np.bool_)
_IS_MARKER[[0x00, 0x01, *range(0xD0, 0xD8), 0xFF]] = False
_FIRST_BLOCK, _LARGEST_BLOCK = 1 << 12, 1 << 20


@dataclass(frozen=True)
class _Frame:
    height: int
    width: int
    least_bytes: int


def examine_jpeg(buffer: npt.NDArray[np.uint8]) -> PictureHeader:
    """Return the size of a complete 8-bit baseline, extended or progressive Huffman JPEG.

    uint8 (N,) `buffer` begins with the signature. Bytes after the end marker are ignored. Raises
    ImageError for other files and for files beyond the bounds above.
    """
    content, length = buffer.data, buffer.size
    frame: _Frame | None = None
    segments = scans = data_start = 0
    position = 2
    while True:
        marker = _next_marker(buffer, position)
        if marker + 2 > length:
            raise ImageError(f"JPEG of {length} bytes is truncated: it has no end marker")
        code = content[marker + 1]
        if code == _EOI:
            break
        if not scans and marker - position > MAX_STRAY_BYTES:
            raise ImageError(
                f"JPEG with {marker - position} stray bytes between two segments: expected at most "
                f"{MAX_STRAY_BYTES}"
            )
        segments += 1
        if segments > MAX_SEGMENTS:
            raise ImageError(f"JPEG of more than {MAX_SEGMENTS} segments: expected fewer")
        position = _end_of_segment(content, marker)
        if code in _FRAME_HEADERS:
            if frame is not None:
                raise ImageError("JPEG with two frame headers: expected one")
            frame = _frame_of(content[marker + 1 : position])
        elif code == _SOS:
            scans += 1
            data_start = data_start or position
            _check_scans(frame, scans)
    if frame is None:
        raise ImageError(f"JPEG of {length} bytes has no frame header")
    if not scans:
        raise ImageError(f"JPEG of {frame.height}x{frame.width} has no scan: expected picture data")
    header = PictureHeader("JPEG", frame.height, frame.width)
    return check_bytes(header, marker - data_start, frame.least_bytes)


def _next_marker(buffer: npt.NDArray[np.uint8], position: int) -> int:
    """Return the index of the next 0xFF that begins a marker, or the buffer's length.

    The search uses growing blocks, so its cost is proportional to the distance.
    """
    start = buffer[position : position + 2]
    if start.size == 2 and start[0] == 0xFF and _IS_MARKER[start[1]]:
        return position  # almost always true between two segments
    block = _FIRST_BLOCK
    while position + 1 < buffer.size:
        piece = buffer[position : position + block + 1]
        maybe = np.logical_and(piece[:-1] == 0xFF, piece[1:])
        if maybe.any():
            candidates = np.flatnonzero(maybe)
            markers = candidates[_IS_MARKER[piece[candidates + 1]]]
            if markers.size:
                return position + int(markers[0])
        position += piece.size - 1
        block = min(8 * block, _LARGEST_BLOCK)
    return int(buffer.size)


def _end_of_segment(content: memoryview, marker: int) -> int:
    code, start = content[marker + 1], marker + 2
    if code == _SOI:
        raise ImageError("JPEG that begins a second time within the first: expected one picture")
    size = int.from_bytes(content[start : start + 2], "big")
    if start + max(2, size) > len(content):
        raise ImageError(f"JPEG of {len(content)} bytes is truncated: it has no end marker")
    if size < 2:
        raise ImageError(f"JPEG with a segment FF{code:02X} of length {size}: expected 2 or more")
    return start + size


def _check_scans(frame: _Frame | None, scans: int) -> None:
    if frame is None:
        raise ImageError("JPEG with a scan before its frame header: expected the header first")
    size = frame.height, frame.width
    most = min(MAX_SCANS, max(SCANS_OF_ANY_SIZE, MAX_SCANNED_PIXELS // (size[0] * size[1])))
    if scans > most:
        raise ImageError(f"JPEG of {size[0]}x{size[1]} in more than {most} scans: expected fewer")


def _frame_of(segment: memoryview) -> _Frame:
    """Parse a frame header; `segment` begins with the marker's code (T.81, B.2.2)."""
    code = segment[0]
    if code not in (*_SEQUENTIAL, _PROGRESSIVE):
        raise ImageError(
            f"JPEG of type SOF{code - 0xC0}: expected baseline, extended or progressive (0 to 2)"
        )
    count = segment[8] if len(segment) > 8 else 0
    if count not in (1, 3, 4) or len(segment) != 9 + 3 * count or segment[3] != 8:
        raise ImageError("JPEG with a damaged frame header: expected 1, 3 or 4 channels of 8 bits")
    height, width = (int.from_bytes(segment[i : i + 2], "big") for i in (4, 6))
    check_pixels("JPEG", height, width)
    factors = [divmod(segment[10 + 3 * k], 16) for k in range(count)]
    if not all(1 <= h <= 4 and 1 <= v <= 4 for h, v in factors):
        raise ImageError("JPEG with sampling factors outside 1 to 4")
    across, down = max(h for h, _ in factors), max(v for _, v in factors)
    blocks = sum(-(-width * h // (8 * across)) * -(-height * v // (8 * down)) for h, v in factors)
    # The shortest Huffman code has 1 bit. An 8x8 block needs one code for its mean and, in a
    # sequential frame, one for "no other coefficient". A progressive frame can code a run of such
    # blocks at once.
    bits = blocks * (1 if code == _PROGRESSIVE else 2)
    return _Frame(height, width, -(-bits // 8))
