# SPDX-License-Identifier: Apache-2.0
"""Bounded reading through the rosbags library, which trusts the sizes that a file declares."""

import bz2
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from sfseg_ros.errors import BagError, one_line
from sfseg_ros.recordings.message_bytes import LARGEST_MESSAGE_BYTES, typestore
from sfseg_ros.recordings.recording import Message, Recording, Topic

LARGEST_CHUNK_BYTES = LARGEST_MESSAGE_BYTES + 64 * 1024 * 1024
"""Of a decompressed chunk: one of the largest messages and what else came with it."""
MOST_RECORDS = 1_000_000
"""Of one chunk; rosbags reads a million empty records in some seconds."""
LONGEST_NAME = 255
"""Characters of a topic or type; DDS allows as many."""

_CHUNK_HEADER_BYTES = 1024
_SCHEMA, _MESSAGE = 0x03, 0x05  # opcodes that an MCAP chunk may hold, with 0x04, a channel


class RosbagsRecording(Recording):
    """A recording that a reader of the rosbags library has opened."""

    def __init__(self, path: Path, reader: Callable[[], Any]) -> None:
        """Open the reader that `reader` makes. Raises BagError."""
        typestore()  # explains how to install rosbags if it is missing
        self.path = path
        try:
            self._reader = reader()
            self._reader.open()
        except Exception as error:  # rosbags raises a wide range of types on a damaged file
            raise BagError(f"{path}: cannot be read as a recording ({one_line(error)})") from error
        try:
            for number, connection in enumerate(self._reader.connections):
                _check_connection(f"{path}: topic {number + 1} of the recording", connection)
        except BagError:
            self.close()
            raise

    def close(self) -> None:
        self._reader.close()

    def topics(self) -> list[Topic]:
        counts: dict[tuple[str, str], int] = {}
        for connection in self._reader.connections:
            key = (connection.topic, connection.msgtype)
            counts[key] = counts.get(key, 0) + connection.msgcount
        return [Topic(name, kind, count) for (name, kind), count in sorted(counts.items())]

    def messages(self, topics: Iterable[str]) -> Iterator[Message]:
        wanted = set(topics)
        connections = [c for c in self._reader.connections if c.topic in wanted]
        if not connections:
            return
        try:
            for connection, log_ns, raw in self._reader.messages(connections):
                if not isinstance(log_ns, int) or not isinstance(raw, bytes | memoryview):
                    raise BagError(f"a message on {connection.topic} without time or bytes")
                cdr = self._cdr(bytes(raw), connection.msgtype)
                yield Message(connection.topic, connection.msgtype, log_ns, cdr)
        except Exception as error:
            raise BagError(f"{self.path}: damaged recording ({one_line(error)})") from error

    def _cdr(self, raw: bytes, _message_type: str) -> bytes:
        """Return the CDR bytes of a recorded message."""
        return raw


def _check_connection(where: str, connection: Any) -> None:
    """Raise BagError unless topic, type and number of messages are what they should be."""
    for kind, name in (("name", connection.topic), ("type", connection.msgtype)):
        if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            raise BagError(f"{where} has no valid {kind}: expected 1 to {LONGEST_NAME} characters")
    if not isinstance(connection.msgcount, int) or connection.msgcount < 0:
        raise BagError(f"{where} has no valid number of messages")


def decompressed(data: bytes, new_decompressor: Callable[[], Any], most: int) -> bytes:
    """Decompress one zstd, lz4 or bz2 frame. Raises BagError beyond `most` bytes.

    No more than `most` + 1 bytes are ever held, whatever size the frame declares.
    """
    decompressor = new_decompressor()
    parts: list[bytes] = []
    size = 0
    while not decompressor.eof:
        parts.append(decompressor.decompress(data, max_length=most + 1 - size))
        size += len(parts[-1])
        if size > most:
            raise BagError(f"compressed data of more than {most:,} bytes")
        if not parts[-1] and decompressor.needs_input:
            raise BagError("compressed data that end too early")
        data = b""
    if decompressor.unused_data:
        raise BagError("more than one frame of compressed data where one is expected")
    return b"".join(parts)


def bound_rosbags() -> None:
    """Replace the functions of rosbags whose cost a hostile file can choose.

    They are entries of module tables; the tests hold each replacement to a hostile file. QoS
    profiles are left out: reading needs none, and they are YAML inside of a file.
    """
    from lz4.frame import LZ4FrameDecompressor
    from rosbags.rosbag1 import reader as rosbag1_reader
    from rosbags.rosbag2 import reader as rosbag2_reader
    from rosbags.rosbag2 import storage_mcap, storage_sqlite3

    for module in (rosbag2_reader, storage_mcap, storage_sqlite3):
        module.parse_qos = lambda _profiles: []  # type: ignore[attr-defined]
    storage_mcap.read_exact = _record
    zstd = storage_mcap.zstd
    storage_mcap.DECOMPRESSORS.update(
        {
            "": lambda data, size: _mcap_chunk(data, size),
            "lz4": lambda data, size: _mcap_chunk(data, size, LZ4FrameDecompressor),
            "zstd": lambda data, size: _mcap_chunk(data, size, zstd.ZstdDecompressor),
        }
    )
    rosbag1_reader.decompressors.update(
        {
            "bz2": lambda data: decompressed(data, bz2.BZ2Decompressor, LARGEST_CHUNK_BYTES),
            "lz4": lambda data: decompressed(data, LZ4FrameDecompressor, LARGEST_CHUNK_BYTES),
        }
    )


def _record(bio: BinaryIO, size: int) -> bytes:
    """Read `size` bytes of an MCAP file, which may be sparse. Raises BagError."""
    if size > LARGEST_CHUNK_BYTES + _CHUNK_HEADER_BYTES:
        raise BagError(f"a record of {size:,} bytes, expected at most {LARGEST_CHUNK_BYTES:,}")
    data = bio.read(size)
    if len(data) != size:
        raise BagError(
            f"a record declares {size:,} bytes, but the file holds only {len(data):,} of them"
        )
    return data


def _mcap_chunk(data: bytes, size: int, new_decompressor: Callable[[], Any] | None = None) -> bytes:
    """Return the records of an MCAP chunk that declares `size` bytes. Raises BagError."""
    if size > LARGEST_CHUNK_BYTES:
        raise BagError(f"a chunk of {size:,} bytes, expected at most {LARGEST_CHUNK_BYTES:,}")
    chunk = decompressed(data, new_decompressor, size) if new_decompressor else data
    position = records = 0
    while position < len(chunk):
        length = int.from_bytes(chunk[position + 1 : position + 9], "little")
        if not _SCHEMA <= chunk[position] <= _MESSAGE or length > len(chunk) - position - 9:
            raise BagError(f"a chunk without a valid record at byte {position:,}")
        records += 1
        if records > MOST_RECORDS:
            raise BagError(f"a chunk of more than {MOST_RECORDS:,} records")
        position += 9 + length
    return chunk
