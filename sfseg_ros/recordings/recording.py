# SPDX-License-Identifier: Apache-2.0
"""What every kind of recording offers: topics and messages.

No ROS process is needed. Times are integer nanoseconds since 1970. A message is kept as the CDR
bytes that the middleware sends, and is decoded only if its content is needed.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sfseg_ros.errors import BagError
from sfseg_ros.recordings.message_bytes import COMPRESSED_IMAGE, IMAGE

IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)
GROUND_TRUTH_SUFFIX = "ground_truth"


@dataclass(frozen=True)
class Topic:
    """One topic of a recording; `type` has the form `sensor_msgs/msg/Image`."""

    name: str
    type: str
    count: int


@dataclass(frozen=True)
class Message:
    """One recorded message: `log_ns` is the time of its recording, `cdr` its serialised bytes."""

    topic: str
    type: str
    log_ns: int
    cdr: bytes


class Recording(ABC):
    """A recording opened for reading, as a context manager."""

    path: Path

    def __enter__(self) -> "Recording":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close the files."""

    @abstractmethod
    def topics(self) -> list[Topic]:
        """Return all topics, sorted by name."""

    @abstractmethod
    def messages(self, topics: Iterable[str]) -> Iterator[Message]:
        """Yield the messages of the named topics in the order of their log time.

        Raises BagError if the recording is damaged.
        """


def choose_image_topic(topics: Sequence[Topic], wanted: str | None = None) -> Topic:
    """Return the camera topic to segment: `wanted`, or the only topic with images.

    Raises BagError, which lists the candidates, or all topics if none has images.
    """
    images = [t for t in topics if t.type in IMAGE_TYPES and t.count > 0]
    if wanted is not None:
        for topic in images:
            if topic.name == wanted:
                return topic
        raise BagError(f"no images on {wanted}; image topics of this recording: {_names(images)}")
    cameras = [t for t in images if not t.name.endswith(GROUND_TRUTH_SUFFIX)]
    # A driver may publish a camera both raw and compressed; the compressed topic is smaller.
    doubled = {t.name.removesuffix("/compressed") for t in cameras if t.type == COMPRESSED_IMAGE}
    cameras = [t for t in cameras if t.name not in doubled]
    colour = [t for t in cameras if "depth" not in t.name.lower()]
    cameras = colour or cameras
    if not cameras:
        raise BagError(f"no topic with images; topics of this recording: {_names(topics)}")
    if len(cameras) > 1:
        raise BagError(f"several image topics, choose one with TOPIC=: {_names(cameras)}")
    return cameras[0]


def find_ground_truth_topic(topics: Sequence[Topic]) -> Topic | None:
    """Return the topic with the ground truth of each frame, or None.

    By convention its name ends in `ground_truth`. Its images are mono8, or PNG with one channel,
    and hold class indices; 255 is ignored. They have the stamps of the frames.
    """
    for topic in topics:
        if topic.name.endswith(GROUND_TRUTH_SUFFIX) and topic.type in IMAGE_TYPES and topic.count:
            return topic
    return None


def _names(topics: Sequence[Topic]) -> str:
    return ", ".join(f"{t.name} ({t.type}, {t.count})" for t in topics) or "none"
