# SPDX-License-Identifier: Apache-2.0
"""ROS 1 bags."""

from pathlib import Path
from typing import Any

from sfseg_ros.recordings.message_bytes import typestore
from sfseg_ros.recordings.rosbags_reader import RosbagsRecording, bound_rosbags


class Rosbag1Recording(RosbagsRecording):
    """A .bag file; each message becomes the ROS 2 CDR of the type of the same name."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, lambda: _reader(path))

    def _cdr(self, raw: bytes, message_type: str) -> bytes:
        return bytes(typestore().ros1_to_cdr(raw, message_type))


def _reader(path: Path) -> Any:
    from rosbags import rosbag1

    bound_rosbags()
    return rosbag1.Reader(path)
