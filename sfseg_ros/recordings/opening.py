# SPDX-License-Identifier: Apache-2.0
"""Open a recording of any kind.

To add a kind: one file with a subclass of Recording, its suffix in SUFFIXES and one line in
`open_recording`.
"""

import os
from pathlib import Path

from sfseg_ros.errors import BagError
from sfseg_ros.recordings.recording import Recording
from sfseg_ros.recordings.rosbag1 import Rosbag1Recording
from sfseg_ros.recordings.rosbag2 import Rosbag2Recording

SUFFIXES = (".mcap", ".db3", ".bag")
LONGEST_NAME = 255
"""Bytes of one part of a path on Linux."""


def open_recording(path: Path) -> Recording:
    """Open a rosbag2 folder, an .mcap or .db3 file, or a ROS 1 .bag file.

    Raises BagError if `path` is not a recording or is damaged.
    """
    found = find_recording(path)
    if found is None:
        raise BagError(
            f"{path}: not a recording; expected a rosbag2 folder or an .mcap, .db3 or .bag file"
        )
    return Rosbag1Recording(found) if found.suffix == ".bag" else Rosbag2Recording(found)


def find_recording(path: Path) -> Path | None:
    """Return the path to open if `path` is a recording, else None.

    A recording is a rosbag2 folder, a file with one of SUFFIXES, or a folder that holds one storage
    file but lost its metadata.yaml. Raises BagError if such a folder holds several storage files.
    """
    if "\0" in str(path) or any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise BagError(f"{str(path)[:80]!r}: not a name that a file can have")
    if path.is_file():
        return path if path.suffix in SUFFIXES else None
    if (path / "metadata.yaml").is_file():
        return path
    storages = sorted(f for f in path.glob("*") if f.suffix in SUFFIXES[:2] and f.is_file())
    if len(storages) > 1:
        raise BagError(
            f"{path}: {len(storages)} recordings and no metadata.yaml; name one of the files"
        )
    return storages[0] if storages else None
