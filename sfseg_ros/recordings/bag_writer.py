# SPDX-License-Identifier: Apache-2.0
"""Writing rosbag2 folders."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfseg_ros.errors import BagError, one_line
from sfseg_ros.recordings.message_bytes import typestore

if TYPE_CHECKING:
    from rosbags.interfaces import Connection


@dataclass(frozen=True)
class TopicToWrite:
    """A topic of a new bag.

    `latched` writes transient-local durability into the bag's metadata, so that `ros2 bag play`
    also sends the topic to late subscribers.
    """

    name: str
    type: str
    latched: bool = False


@dataclass
class BagWriter:
    """Writes a new rosbag2 folder (MCAP with zstd chunks), as a context manager.

    `ros2 bag` and Foxglove read it. metadata.yaml is written at the end. Raises BagError.
    """

    path: Path
    topics: Sequence[TopicToWrite]
    _connections: dict[str, "Connection"] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        try:
            from rosbags import rosbag2
            from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
        except ImportError as error:
            raise BagError(
                f"recordings need the rosbags library ({error}): pip install rosbags"
            ) from error

        try:
            # ROS 2 Iron and later read version 8; version 9 is newer than Jazzy.
            self._writer = rosbag2.Writer(
                self.path, version=8, storage_plugin=rosbag2.StoragePlugin.MCAP
            )
            self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
            self._writer.open()
        except (rosbag2.WriterError, OSError) as error:
            raise BagError(f"{self.path}: cannot be written ({one_line(error)})") from error
        for topic in self.topics:
            if topic.type not in typestore().fielddefs:
                raise BagError(f"{topic.name}: unknown message type {topic.type}")
            self._connections[topic.name] = self._writer.add_connection(
                topic.name,
                topic.type,
                typestore=typestore(),
                offered_qos_profiles=[_qos(topic.latched)],
            )

    def __enter__(self) -> "BagWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def write(self, topic: str, log_ns: int, cdr: bytes) -> None:
        """Append one message to a topic named at construction."""
        self._writer.write(self._connections[topic], log_ns, cdr)


def _qos(latched: bool) -> Any:
    from rosbags import interfaces as i

    # rosbag2 writes the largest duration of rmw for "infinite".
    forever = i.QosTime(9223372036, 854775807)
    return i.Qos(
        i.QosHistory.KEEP_LAST,
        1 if latched else 10,
        i.QosReliability.RELIABLE,
        i.QosDurability.TRANSIENT_LOCAL if latched else i.QosDurability.VOLATILE,
        forever,
        forever,
        i.QosLiveliness.AUTOMATIC,
        forever,
        avoid_ros_namespace_conventions=False,
    )
