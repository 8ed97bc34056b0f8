# SPDX-License-Identifier: Apache-2.0
"""Examines the formats that only folders of pictures contain: BMP, PPM and PGM, WebP, TIFF."""

import re
import struct

import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import ImageError
from sfseg_ros.picture_files.bounds import PictureHeader, check_bytes, check_pixels

MAX_CHUNKS = 1000
"""Most chunks of a WebP file and entries of a TIFF directory; a still picture has a dozen."""

_BMP_INFO_SIZES = (40, 52, 56, 108, 124)
_BMP_UNCOMPRESSED = (0, 3)  # plain, and with bit masks
_PNM_HEADER = re.compile(rb"(P[56])(?:\s|#[^\n]*\n)+(\d{1,9})\s+(\d{1,9})\s+(\d{1,5})\s")
# TIFF compression -> most bytes that one byte can expand to. LZW: 12-bit codes for strings of up to
# 4,096 bytes. Deflate: as in PNG. PackBits: 128 equal bytes from 2.
_TIFF_EXPANSION = {1: 1, 5: 2731, 8: 1032, 32946: 1032, 32773: 64}
_TIFF_FIELDS = {
    **{256: "width", 257: "height", 258: "bits", 259: "compression", 277: "channels"},
    **{322: "tile width", 323: "tile height"},
}
_TIFF_TYPES = {3: ("H", 2), 4: ("I", 4)}


def examine_bmp(buffer: npt.NDArray[np.uint8]) -> PictureHeader:
    """Return the size of an uncompressed BMP. Raises ImageError."""
    content = buffer.data
    if len(content) < 54:
        raise ImageError(f"BMP of {len(content)} bytes is truncated")
    offset, info, width, height, planes, bits, compression = struct.unpack_from(
        "<IIiiHHI", content, 10
    )
    height = abs(height)  # negative if the rows run top-down
    if info not in _BMP_INFO_SIZES or planes != 1 or bits not in (1, 4, 8, 16, 24, 32):
        raise ImageError("BMP with a damaged header: expected 1 to 32 bits a pixel")
    if compression not in _BMP_UNCOMPRESSED:
        raise ImageError(f"BMP with compression {compression}: expected an uncompressed one")
    check_pixels("BMP", height, width)
    need = (width * bits + 31) // 32 * 4 * height
    return check_bytes(PictureHeader("BMP", height, width), len(content) - offset, need)


def examine_pnm(buffer: npt.NDArray[np.uint8]) -> PictureHeader:
    """Return the size of a binary PPM (P6) or PGM (P5). Raises ImageError."""
    header = _PNM_HEADER.match(buffer[:1024].tobytes())
    if header is None:
        raise ImageError("PPM with a damaged header: expected P5 or P6, width, height, maximum")
    kind, width, height, maximum = header[1], *(int(header[k]) for k in (2, 3, 4))
    if not 1 <= maximum <= 65535:
        raise ImageError(f"PPM with the maximum {maximum}: expected 1 to 65535")
    check_pixels("PPM", height, width)
    need = height * width * (3 if kind == b"P6" else 1) * (1 if maximum < 256 else 2)
    return check_bytes(PictureHeader("PPM", height, width), buffer.size - header.end(), need)


def examine_webp(buffer: npt.NDArray[np.uint8]) -> PictureHeader:
    """Return the size of a still WebP. Raises ImageError.

    A lossless WebP of one colour needs no minimum of bytes per pixel, so only MAX_PIXELS bounds it.
    """
    content = buffer.data
    end = 8 + int.from_bytes(content[4:8], "little")
    if end > len(content):
        raise ImageError(f"WebP of {len(content)} bytes is truncated: its header says {end}")
    sizes: list[tuple[int, int]] = []
    position, chunks = 12, 0
    while position + 8 <= end:
        kind, size = struct.unpack_from("<4sI", content, position)
        body = content[position + 8 : position + 8 + min(size, 10)]
        position += 8 + size + size % 2
        chunks += 1
        if chunks > MAX_CHUNKS or position > end + 1:
            raise ImageError("WebP with damaged or too many chunks")
        if kind in (b"ANIM", b"ANMF"):
            raise ImageError(f"animated WebP (chunk {kind.decode()}): expected a still picture")
        if kind in (b"VP8X", b"VP8L", b"VP8 "):
            sizes.append(_webp_size(kind, bytes(body)))
    if not sizes:
        raise ImageError("WebP without a picture")
    for height, width in sizes:
        check_pixels("WebP", height, width)
    return PictureHeader("WebP", *sizes[0])


def _webp_size(kind: bytes, body: bytes) -> tuple[int, int]:
    """Parse (height, width) per the WebP container specification and RFC 6386, section 9.1."""
    if kind == b"VP8X" and len(body) == 10:
        if body[0] & 0x02:
            raise ImageError("animated WebP (flag of VP8X): expected a still picture")
        return 1 + int.from_bytes(body[7:10], "little"), 1 + int.from_bytes(body[4:7], "little")
    if kind == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits >> 14 & 0x3FFF), 1 + (bits & 0x3FFF)
    if kind == b"VP8 " and len(body) == 10 and body[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", body, 6)
        return height & 0x3FFF, width & 0x3FFF
    raise ImageError("WebP with a damaged picture header")


def examine_tiff(buffer: npt.NDArray[np.uint8]) -> PictureHeader:
    """Return the size of a classic TIFF with one page.

    The page is uncompressed or uses LZW, deflate or PackBits. Raises ImageError.
    """
    content = buffer.data
    order = "<" if content[0] == 0x49 else ">"
    try:
        (start,) = struct.unpack_from(f"{order}I", content, 4)
        (entries,) = struct.unpack_from(f"{order}H", content, start)
        if entries > MAX_CHUNKS:
            raise ImageError(f"TIFF with {entries} entries: expected at most {MAX_CHUNKS}")
        fields = _tiff_fields(content, start, entries, order)
        (following,) = struct.unpack_from(f"{order}I", content, start + 2 + 12 * entries)
    except struct.error as error:
        raise ImageError(f"TIFF of {len(content)} bytes is truncated") from error
    if following:
        raise ImageError("TIFF of several pages: expected one picture")
    height, width = fields.get("height", 0), fields.get("width", 0)
    check_pixels("TIFF", height, width)
    check_pixels("TIFF tile", fields.get("tile height", 1), fields.get("tile width", 1))
    channels, compression = fields.get("channels", 1), fields.get("compression", 1)
    if compression not in _TIFF_EXPANSION or channels not in (1, 3, 4):
        raise ImageError(
            f"TIFF of compression {compression} and {channels} channels: expected one of "
            f"{', '.join(map(str, _TIFF_EXPANSION))}, and 1, 3 or 4"
        )
    need = height * width * channels * fields.get("bits", 1) // 8 // _TIFF_EXPANSION[compression]
    return check_bytes(PictureHeader("TIFF", height, width), len(content), need)


def _tiff_fields(content: memoryview, start: int, entries: int, order: str) -> dict[str, int]:
    """Return the first value of each field that determines the size of the picture."""
    fields = {}
    for index in range(entries):
        place = start + 2 + 12 * index
        tag, kind, count = struct.unpack_from(f"{order}HHI", content, place)
        if tag not in _TIFF_FIELDS:
            continue
        if kind not in _TIFF_TYPES or _TIFF_FIELDS[tag] in fields:
            raise ImageError(f"TIFF with a damaged entry {tag}: expected one, an integer")
        code, size = _TIFF_TYPES[kind]
        place += 8  # the value, or its offset if the value exceeds 4 bytes
        if count * size > 4:
            (place,) = struct.unpack_from(f"{order}I", content, place)
        (fields[_TIFF_FIELDS[tag]],) = struct.unpack_from(f"{order}{code}", content, place)
    return fields
