# SPDX-License-Identifier: Apache-2.0
"""ROS 2 bags: a folder with metadata.yaml, or one .mcap or .db3 file."""

import functools
import os
import sqlite3
from contextlib import closing
from pathlib import Path, PurePath
from typing import Any
from urllib.parse import quote

from sfseg_ros.errors import BagError
from sfseg_ros.recordings.message_bytes import LARGEST_MESSAGE_BYTES
from sfseg_ros.recordings.rosbags_reader import RosbagsRecording, bound_rosbags, decompressed
from sfseg_ros.yaml_files import read_yaml

LARGEST_RATIO = 200
"""Of a storage file that is compressed as a whole; label images reach about 100."""
_ALWAYS_ALLOWED_BYTES = 1024 * 1024 * 1024
_PIECE_BYTES = 1024 * 1024


class Rosbag2Recording(RosbagsRecording):
    """A rosbag2 folder, .mcap or .db3 file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, lambda: _reader(path))
        storage = self._reader.storage
        # rosbags would decompress each message without a limit: `_cdr` does it instead.
        self._compressed = storage.metadata.compression_mode == "message"
        if self._compressed:
            storage.metadata = storage.metadata._replace(compression_mode=None)

    def _cdr(self, raw: bytes, _message_type: str) -> bytes:
        if not self._compressed:
            return raw
        return decompressed(raw, _zstd().ZstdDecompressor, LARGEST_MESSAGE_BYTES)


def _reader(path: Path) -> Any:
    from rosbags import rosbag2

    bound_rosbags()
    plugins: Any = rosbag2.Reader.STORAGE_PLUGINS
    plugins[".db3"] = _checked_sqlite_reader()
    plugins = plugins["dir"].STORAGE_PLUGINS
    plugins["sqlite3"] = _checked_sqlite_reader()
    if path.is_dir():
        _check_folder(path)
    return rosbag2.Reader(path)


@functools.cache
def _checked_sqlite_reader() -> Any:
    """The class of rosbags that reads SQLite, except that it checks the database first.

    rosbags opens `file:PATH?immutable=1`. Unless quoted, `x.db3#y.db3` would open another file than
    the checked one.
    """
    from rosbags.rosbag2 import storage_sqlite3

    apsw: Any = storage_sqlite3.apsw

    class CheckedSqliteReader(storage_sqlite3.Sqlite3Reader):
        def open(self) -> None:
            path = Path(str(self.path))
            _check_database(path)
            self.path = Path(quote(os.fsencode(path)))
            super().open()

    def bound_rows(connection: Any) -> None:
        """rosbags opens two connections; a sparse file of some kilobytes can hold a row of 1 GB."""
        connection.limit(apsw.SQLITE_LIMIT_LENGTH, LARGEST_MESSAGE_BYTES)

    apsw.connection_hooks.append(bound_rows)
    return CheckedSqliteReader


def _check_folder(folder: Path) -> None:
    """Raise BagError if metadata.yaml or a storage file that it names cannot be read safely."""
    try:
        document = read_yaml(folder / "metadata.yaml")
        metadata = document["rosbag2_bagfile_information"]
        files = [folder / PurePath(name).name for name in metadata["relative_file_paths"]]
        compressed = str(metadata.get("compression_mode", "")).lower() == "file"
    except ValueError as error:
        raise BagError(f"metadata.yaml: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise BagError("metadata.yaml lacks what rosbag2 writes into it") from error
    for file in files:
        if not file.is_file():
            raise BagError(f"metadata.yaml names {file.name[:80]!r}: expected a file beside it")
        if compressed:
            _check_compressed_file(file)


def _check_compressed_file(file: Path) -> None:
    """Raise BagError if a zstd file grows beyond reason.

    rosbags decompresses the whole file into the folder for temporary files.
    """
    most = max(_ALWAYS_ALLOWED_BYTES, LARGEST_RATIO * file.stat().st_size)
    size = 0
    with _zstd().open(file, "rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            size += len(piece)
            if size > most:
                raise BagError(f"{file.name} decompresses to more than {most:,} bytes")


def _check_database(file: Path) -> None:
    """Raise BagError if an SQLite file computes what it should store.

    A view or a generated column runs when it is read, without end if its author wants.
    """
    uri = f"file:{quote(os.fsencode(file))}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as database:
        database.execute("PRAGMA trusted_schema = OFF")
        rows = database.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
        for kind, name, sql in rows:
            words = str(sql).upper().split()
            if kind not in ("table", "index") or words[1:2] == ["VIRTUAL"]:
                raise BagError(f"the database has a {kind} that rosbag2 does not write")
            columns = database.execute("SELECT hidden FROM pragma_table_xinfo(?)", [name])
            if any(hidden for (hidden,) in columns):
                raise BagError("the database has a generated column, which rosbag2 does not write")


def _zstd() -> Any:
    from rosbags.rosbag2 import storage_mcap

    return storage_mcap.zstd
