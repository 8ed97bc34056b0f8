# SPDX-License-Identifier: Apache-2.0
"""Recordings: reading and writing rosbag2, and making a bag of a video or a folder of pictures.

No ROS process is needed for any of it; the rosbags library does the work.

Times are integer nanoseconds since 1970. A message is kept as the CDR bytes that the middleware
sends, and is decoded only where its pixels are wanted.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sfseg_ros.errors import BagError, ImageError, one_line
from sfseg_ros.imaging import (
    jpeg_from_rgb,
    png_from_pixels,
    rgb_from_compressed,
    rgb_from_file,
)
from sfseg_ros.picture_files.decoding import read_picture_bytes
from sfseg_ros.recordings.message_bytes import (
    COMPRESSED_IMAGE,
    IMAGE,
    NS_PER_S,
    compressed_image_cdr,
    message_from_cdr,
    stamp_of_cdr,
    typestore,
)
from sfseg_ros.recordings.video import frames_of_video

if TYPE_CHECKING:
    from rosbags.interfaces import Connection

IMAGE_TYPES = (IMAGE, COMPRESSED_IMAGE)
GROUND_TRUTH_SUFFIX = "ground_truth"

# What a CompressedImage may carry goes into the bag as it is; the others become PNG.
_FORMAT_OF_SUFFIX = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
_PICTURE_SUFFIXES = (*_FORMAT_OF_SUFFIX, ".bmp", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Topic:
    """One topic of a bag; `type` is written as in `sensor_msgs/msg/Image`."""

    name: str
    type: str
    count: int


@dataclass(frozen=True)
class Message:
    """One recorded message: `log_ns` is when the recorder got it, `cdr` its serialised bytes."""

    topic: str
    type: str
    log_ns: int
    cdr: bytes


@dataclass(frozen=True)
class TopicToWrite:
    """A topic of a new bag. `latched` records transient-local durability in the bag's metadata, so
    that `ros2 bag play` offers it to late joiners too."""

    name: str
    type: str
    latched: bool = False


# --- reading ------------------------------------------------------------------------------------


def find_bag(path: Path) -> Path | None:
    """What to open where `path` is a recording: a rosbag2 directory, an .mcap, .db3 or ROS 1 .bag
    file, or a directory whose only storage file lost its metadata.yaml. None where it is not."""
    if path.is_file():
        return path if path.suffix in (".mcap", ".db3", ".bag") else None
    if (path / "metadata.yaml").is_file():
        return path
    storages = [file for suffix in ("mcap", "db3") for file in sorted(path.glob(f"*.{suffix}"))]
    if len(storages) > 1:
        raise BagError(
            f"{path}: {len(storages)} recordings and no metadata.yaml; name one of the files"
        )
    return storages[0] if storages else None


class BagReader:
    """A recording opened for reading, as a context manager. Raises BagError.

    ROS 1 bags are translated on the way: their messages come out as the ROS 2 CDR of the type of
    the same name.
    """

    def __init__(self, path: Path) -> None:
        bag = find_bag(path) if path.exists() else None
        if bag is None:
            raise BagError(
                f"{path}: not a recording; expected a rosbag2 folder or an .mcap, .db3 or .bag file"
            )
        self.path = bag
        self._ros1 = bag.suffix == ".bag"
        self._reader: Any = _open_reader(bag, self._ros1)

    def __enter__(self) -> "BagReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    def topics(self) -> list[Topic]:
        """All topics, by name."""
        counts: dict[tuple[str, str], int] = {}
        for connection in self._reader.connections:
            key = (connection.topic, connection.msgtype)
            counts[key] = counts.get(key, 0) + connection.msgcount
        return [Topic(name, kind, count) for (name, kind), count in sorted(counts.items())]

    def messages(self, topics: Iterable[str]) -> Iterator[Message]:
        """Messages of the named topics in the order of their log time."""
        wanted = set(topics)
        connections = [c for c in self._reader.connections if c.topic in wanted]
        if not connections:
            return
        ros2 = typestore() if self._ros1 else None
        try:
            for connection, log_ns, raw in self._reader.messages(connections):
                cdr = ros2.ros1_to_cdr(raw, connection.msgtype) if ros2 else raw
                yield Message(connection.topic, connection.msgtype, log_ns, bytes(cdr))
        except Exception as error:  # rosbags raises a wide range of types on a damaged file
            raise BagError(f"{self.path}: damaged recording ({one_line(error)})") from error


def choose_image_topic(topics: Sequence[Topic], wanted: str | None = None) -> Topic:
    """The camera topic to segment: `wanted`, or the only one with images. BagError lists the
    choice where there are several, and what there is where there is none."""
    images = [t for t in topics if t.type in IMAGE_TYPES and t.count > 0]
    if wanted is not None:
        for topic in images:
            if topic.name == wanted:
                return topic
        raise BagError(f"no images on {wanted}; image topics of this recording: {_names(images)}")
    cameras = [t for t in images if not t.name.endswith(GROUND_TRUTH_SUFFIX)]
    # A driver offers one camera as `image_raw` and `image_raw/compressed`: take the smaller.
    doubled = {t.name.removesuffix("/compressed") for t in cameras if t.type == COMPRESSED_IMAGE}
    cameras = [t for t in cameras if t.name not in doubled]
    colour = [t for t in cameras if "depth" not in t.name.lower()]
    cameras = colour or cameras
    if not cameras:
        raise BagError(f"no topic with images; topics of this recording: {_names(topics)}")
    if len(cameras) > 1:
        raise BagError(f"several image topics, choose one with TOPIC=: {_names(cameras)}")
    return cameras[0]


@dataclass
class Damage:
    """Messages that were left out because they cannot be read, and what is wrong with the first."""

    counts: Counter[str] = field(default_factory=Counter)  # by topic
    first: str = ""

    def add(self, topic: str, error: BagError | ImageError) -> None:
        self.first = self.first or f"{topic}: {error}"
        self.counts[topic] += 1

    @property
    def count(self) -> int:
        return self.counts.total()

    def __str__(self) -> str:
        return f"{self.count} damaged, the first on {self.first}"


def undamaged(messages: Iterable[Message], damage: Damage) -> Iterator[Message]:
    """Those whose bytes are a message of their type; the others are counted in `damage`. Player and
    report both go through here, so neither takes a time from rubbish."""
    for message in messages:
        try:
            if message.type in typestore().fielddefs:  # others cannot be checked
                message_from_cdr(message.cdr, message.type)
        except BagError as error:
            damage.add(message.topic, error)
        else:
            yield message


def choose_clock(messages: Iterable[Message]) -> str:
    """Which time says when these images of one topic were taken: "header", or "log" where their
    header stamps do not rise (some recorders leave them zero)."""
    stamps = [stamp_of_cdr(m.cdr) for m in messages]
    rising = all(earlier < later for earlier, later in itertools.pairwise(stamps))
    return "header" if rising and (len(stamps) > 1 or any(stamps)) else "log"


def with_times(messages: Iterable[Message], clock: str) -> Iterator[tuple[int, Message]]:
    """(time by `clock`, message) of those whose time rises within their topic.

    The others are left out: with two images of one time nobody could say which mask belongs to
    which. Player and report both go through here, so they agree on every frame's time.
    """
    last: dict[str, int] = {}
    for message in messages:
        time_ns = message.log_ns if clock == "log" else stamp_of_cdr(message.cdr)
        if time_ns > last.get(message.topic, -1):
            last[message.topic] = time_ns
            yield time_ns, message


@dataclass(frozen=True)
class Timeline:
    """When recorded times are played: the image taken at `first_ns` at `start_ns`, the others at
    `rate` times the speed of then. At rate 1 all stamps are shifted by one constant."""

    first_ns: int
    start_ns: int
    rate: float = 1.0

    def played_ns(self, time_ns: int) -> int:
        """The moment, and so the header stamp, at which a recorded time is played."""
        since_first_ns = time_ns - self.first_ns
        if self.rate != 1.0:  # a float has too few digits for the sum, but enough for the part
            since_first_ns = round(since_first_ns / self.rate)
        return self.start_ns + since_first_ns


def find_ground_truth_topic(topics: Sequence[Topic]) -> Topic | None:
    """The topic with the true labels of each frame, None where the recording has none.

    By convention its name ends in `ground_truth`; its images are mono8 (or PNG of one channel),
    hold class indices, 255 where nothing is to be counted, and have the stamps of the frames.
    """
    for topic in topics:
        if topic.name.endswith(GROUND_TRUTH_SUFFIX) and topic.type in IMAGE_TYPES and topic.count:
            return topic
    return None


# --- writing ------------------------------------------------------------------------------------


@dataclass
class BagWriter:
    """A new rosbag2 directory (mcap, zstd chunks) that `ros2 bag` and Foxglove read, as a context
    manager; metadata.yaml is written at the end. Raises BagError."""

    path: Path
    topics: Sequence[TopicToWrite]
    _connections: dict[str, "Connection"] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        rosbag2 = _rosbag2()
        from rosbags.rosbag2.enums import CompressionFormat, CompressionMode

        try:
            # Version 8 is what ROS 2 Iron and later read; 9 is newer than Jazzy.
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


def pictures_in(folder: Path) -> list[Path]:
    """The picture files directly in `folder`, by name. Raises BagError."""
    try:
        files = [f for f in folder.iterdir() if f.is_file()]
    except OSError as error:
        raise BagError(f"{folder}: cannot be read ({error.strerror})") from error
    return sorted(f for f in files if f.suffix.lower() in _PICTURE_SUFFIXES)


def bag_from_folder(
    folder: Path, output: Path, rate_hz: float, say: Callable[[str], None] = lambda _: None
) -> int:
    """Write the pictures of a folder, by name, as a bag with one CompressedImage topic
    /camera/image/compressed at `rate_hz`; returns their number.

    JPEG and PNG files go in as they are: the node rejects the damaged ones. A photograph whose
    orientation tag turns it is turned here, because the node, made for cameras, does not read the
    tag. Pictures of other formats become PNG; those that cannot be read are left out, and `say` is
    called once with their number and the first error. Raises BagError if no picture remains.
    """
    pictures = pictures_in(folder)
    if not pictures:
        raise BagError(
            f"{folder}: no recording and no pictures ({', '.join(_PICTURE_SUFFIXES)}) in it"
        )
    damage = Damage()

    def frames() -> Iterator[tuple[int, bytes, str]]:
        index = 0
        for picture in pictures:
            try:
                data, image_format = _message_of_picture(picture)
            except ImageError as error:
                damage.add(picture.name, error)
                continue
            yield round(index * NS_PER_S / rate_hz), data, image_format
            index += 1

    count = _write_camera_bag(output, frames())
    if count == 0:
        raise BagError(f"{folder}: no picture can be read; {damage}")
    if damage.count:
        say(f"left out of {folder}: {damage}")
    return count


def _message_of_picture(picture: Path) -> tuple[bytes, str]:
    """(data, format) of a CompressedImage. Raises ImageError."""
    image_format = _FORMAT_OF_SUFFIX.get(picture.suffix.lower())
    if image_format is None:
        return png_from_pixels(rgb_from_file(picture)), "png"
    data = read_picture_bytes(picture)
    return (_upright(data) if _EXIF in data[:_EXIF_WITHIN] else data), image_format


def bag_from_video(video: Path, output: Path, max_seconds: float) -> int:
    """Write the first `max_seconds` of a video as a bag with one CompressedImage topic
    /camera/image/compressed (JPEG, quality 95) with the video's own times; returns the number of
    frames. One frame is in memory at a time. Raises BagError."""

    def frames() -> Iterator[tuple[int, bytes, str]]:
        for time_ns, rgb in frames_of_video(video):
            if time_ns > max_seconds * NS_PER_S:
                break
            yield time_ns, jpeg_from_rgb(rgb, quality=95), "jpeg"

    count = _write_camera_bag(output, frames())
    if count == 0:
        raise BagError(f"{video}: no frame in it")
    return count


CAMERA_TOPIC = "/camera/image/compressed"


def _write_camera_bag(output: Path, frames: Iterator[tuple[int, bytes, str]]) -> int:
    """Frames are (nanoseconds since the start, encoded picture, jpeg or png)."""
    count = 0
    with BagWriter(output, [TopicToWrite(CAMERA_TOPIC, COMPRESSED_IMAGE)]) as writer:
        for since_start_ns, data, image_format in frames:
            stamp_ns = NS_PER_S + since_start_ns  # some tools take a stamp of zero as "none"
            cdr = compressed_image_cdr(data, image_format, stamp_ns, "camera")
            writer.write(CAMERA_TOPIC, stamp_ns, cdr)
            count += 1
    return count


_EXIF = b"Exif\0\0"
_EXIF_WITHIN = 64 * 1024


def _upright(jpeg: bytes) -> bytes:
    """The file itself where its orientation tag turns nothing, or where it is damaged."""
    try:
        stored, shown = rgb_from_compressed(jpeg), rgb_from_compressed(jpeg, upright=True)
    except ImageError:
        return jpeg
    return jpeg if np.array_equal(stored, shown) else jpeg_from_rgb(shown, quality=95)


# --- the libraries, imported at first use -------------------------------------------------------


def _rosbag2() -> Any:
    try:
        from rosbags import rosbag2
    except ImportError as error:
        raise BagError(f"bags need the rosbags library ({error}): pip install rosbags") from error
    return rosbag2


def _open_reader(path: Path, ros1: bool) -> Any:
    rosbag2 = _rosbag2()
    try:
        if ros1:
            from rosbags import rosbag1

            reader: Any = rosbag1.Reader(path)
        else:
            reader = rosbag2.Reader(path)
        reader.open()
    except Exception as error:  # rosbags raises a wide range of types on a damaged file
        raise BagError(f"{path}: cannot be read as a recording ({one_line(error)})") from error
    return reader


def _qos(latched: bool) -> Any:
    from rosbags import interfaces as i

    # rosbag2 writes "infinite" as the largest duration of rmw.
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


def _names(topics: Sequence[Topic]) -> str:
    return ", ".join(f"{t.name} ({t.type}, {t.count})" for t in topics) or "none"
