# SPDX-License-Identifier: Apache-2.0
"""Examines a PNG file before a decoder reads it: walks the chunks and checks their checksums.

Animated PNG is refused: 203 bytes of it (a second frame of 1x34 with the data of 26x34) corrupt the
heap of OpenCV 4.12 and 5.0.0.93. OpenCV 4.10 and 4.11 ignore the animation. Because of this guard,
setup.py allows every version from 4.5 on.
"""

import struct
import zlib

import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import ImageError
from sfseg_ros.picture_files.bounds import PictureHeader, check_bytes, check_pixels

SIGNATURE = b"\x89PNG\r\n\x1a\n"

FREE_CHUNKS, BYTES_PER_CHUNK = 1000, 4096
"""A file may have FREE_CHUNKS chunks plus one per BYTES_PER_CHUNK; libpng writes chunks of 8 kB."""

MAX_METADATA_BYTES = 4 * 1024 * 1024
"""Limit for all compressed texts and profiles together, expanded. libpng allows 8 MB for each,
which takes 80 ms."""

MAX_EXPANSION = 1032
"""Deflate's highest ratio: 258 bytes from a 1-bit length and a 1-bit distance."""

_ANIMATION = frozenset((b"acTL", b"fcTL", b"fdAT"))
_COMPRESSED_METADATA = frozenset((b"zTXt", b"iTXt", b"iCCP"))
_CRITICAL = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND"))
# Colour type -> (channels, allowed bits per sample); the PNG specification, table 11.1.
_COLOUR_TYPES = {
    0: (1, (1, 2, 4, 8, 16)),
    2: (3, (8, 16)),
    3: (1, (1, 2, 4, 8)),
    4: (2, (8, 16)),
    6: (4, (8, 16)),
}


def examine_png(buffer: npt.NDArray[np.uint8]) -> PictureHeader:
    """Return the size of a PNG with complete chunks.

    uint8 (N,) `buffer` begins with the signature. Bytes after the end chunk are ignored. Checksums
    are verified because libpng prints a line to the terminal for each damaged frame. Raises
    ImageError for a damaged or animated file and for a file beyond the bounds above.
    """
    content, length = buffer.data, buffer.size
    most_chunks = FREE_CHUNKS + length // BYTES_PER_CHUNK
    header, need = PictureHeader("PNG", 0, 0), 0
    chunks = data = metadata = 0
    position = len(SIGNATURE)
    while True:
        kind, body, end = _chunk_at(content, position)
        chunks += 1
        if chunks == 1:
            header, need = _header_of(kind, content[body:end])
        elif kind == b"IHDR":
            raise ImageError("PNG with two headers: expected one")
        elif kind == b"IDAT":
            data += end - body
        elif kind in _COMPRESSED_METADATA:
            metadata += _expanded_bytes(kind, content[body:end], MAX_METADATA_BYTES - metadata)
        if chunks > most_chunks:
            raise ImageError(f"PNG of {length} bytes in more than {most_chunks} chunks")
        if metadata > MAX_METADATA_BYTES:
            raise ImageError(f"PNG with more than {MAX_METADATA_BYTES} bytes of text and profiles")
        if zlib.crc32(content[body - 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise ImageError(f"PNG of {length} bytes is damaged: wrong checksum")
        # A capital first letter (bit 5 clear) marks a chunk that every decoder must understand.
        if not kind.isalpha() or (not kind[0] & 0x20 and kind not in _CRITICAL):
            raise ImageError(f"PNG with an unknown chunk {kind.hex()}")
        if kind == b"IEND":
            return check_bytes(header, data, need)
        position = end + 4


def _chunk_at(content: memoryview, position: int) -> tuple[bytes, int, int]:
    """Return (kind, first byte, end) of the content of the chunk at `position`."""
    if position + 12 > len(content):
        raise ImageError(f"PNG of {len(content)} bytes is truncated: it has no end chunk")
    size, kind = struct.unpack_from(">I4s", content, position)
    end = position + 8 + size
    if end + 4 > len(content):
        raise ImageError(f"PNG of {len(content)} bytes is truncated in a chunk of {size}")
    if kind in _ANIMATION:
        raise ImageError(f"animated PNG (chunk {kind.decode()}): expected a still picture")
    return kind, position + 8, end


def _header_of(kind: bytes, body: memoryview) -> tuple[PictureHeader, int]:
    """Return the header and the smallest number of compressed bytes for its pixels."""
    if kind != b"IHDR" or len(body) != 13:
        raise ImageError("PNG does not begin with a header")
    width, height, depth, colour, compression, filtering, interlace = struct.unpack(">II5B", body)
    channels, depths = _COLOUR_TYPES.get(colour, (0, ()))
    if depth not in depths or compression or filtering or interlace > 1:
        raise ImageError(f"PNG with a damaged header ({body.hex()})")
    check_pixels("PNG", height, width)
    pixel_bytes = width * channels * depth // 8 * height
    return PictureHeader("PNG", height, width), max(1, pixel_bytes // MAX_EXPANSION)


def _expanded_bytes(kind: bytes, body: memoryview, most: int) -> int:
    """Return the expanded length of a text or profile; expansion stops above `most`.

    Raises ImageError for a damaged stream.
    """
    keyword = bytes(body[:80]).find(b"\0")  # of at most 79 bytes
    if keyword < 0:
        raise ImageError(f"PNG with a damaged chunk {kind.decode()}: expected a keyword")
    stream = body[keyword + 2 :]  # after the method of compression
    if kind == b"iTXt":
        if bytes(body[keyword + 1 : keyword + 2]) != b"\1":  # not compressed
            return len(body)
        stream = memoryview(bytes(body[keyword + 3 :]).split(b"\0", 2)[-1])  # language, translation
    try:
        return len(zlib.decompressobj().decompress(stream, most + 1))
    except zlib.error as error:
        raise ImageError(f"PNG with a damaged chunk {kind.decode()}: {error}") from error
