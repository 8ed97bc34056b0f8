# SPDX-License-Identifier: Apache-2.0
"""The input of `sfseg demo`: a bag, a video, a folder of pictures, or the recorded drive."""

import itertools
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sfseg_ros.errors import BagError, ImageError
from sfseg_ros.installed_files import DEMO_DRIVE, shared_file
from sfseg_ros.recordings.camera_bags import bag_from_folder, bag_from_video
from sfseg_ros.recordings.message_bytes import rgb_from_cdr
from sfseg_ros.recordings.opening import find_recording, open_recording
from sfseg_ros.recordings.recording import (
    Message,
    Topic,
    choose_image_topic,
    find_ground_truth_topic,
)
from sfseg_ros.tools.terminal import say

SIZE_SAMPLE = 20


@dataclass(frozen=True)
class Input:
    """A bag to play. `image_size` (height, width) is None if the images differ in size."""

    bag: Path
    image_topic: Topic
    image_size: tuple[int, int] | None
    truth_topic: Topic | None
    other_topics: tuple[str, ...]
    description: str


def open_input(
    path: Path | None,
    topic: str | None,
    picture_rate: float,
    max_seconds: float,
    scratch_bag: Path,
) -> Input:
    """Open a bag, or make one at `scratch_bag` from a video or a folder of pictures.

    `path` is None for the recorded drive of the source tree. Raises BagError.
    """
    if path is None:
        bag = shared_file(DEMO_DRIVE)
        if bag is None:
            raise BagError(
                f"{DEMO_DRIVE} is missing: only the source tree has it; use --input RECORDING"
            )
        return _described(bag, topic, "the recorded drive of the repository")
    if not path.exists():
        raise BagError(
            f"{path}: no such file or folder; expected a bag, a video or a folder of pictures"
        )
    if find_recording(path) is not None:
        return _described(path, topic, str(path))
    if path.is_dir():
        number = bag_from_folder(path, scratch_bag, picture_rate, say)
        say(f"{number} pictures, played at {picture_rate:g} per second")
    else:
        say("reading the video")
        bag_from_video(path, scratch_bag, max_seconds)
    return _described(scratch_bag, None, str(path))


def _described(bag: Path, wanted: str | None, source: str) -> Input:
    with open_recording(bag) as reader:
        topics = reader.topics()
        image = choose_image_topic(topics, wanted)
        size = _common_size(itertools.islice(reader.messages([image.name]), SIZE_SAMPLE))
    truth = find_ground_truth_topic(topics)
    camera_info = [t.name for t in topics if t.type == "sensor_msgs/msg/CameraInfo"]
    others = [*([truth.name] if truth else []), *camera_info]
    description = f"{source}: {image.count} images on {image.name}"
    description += ", with ground truth" if truth else ", no ground truth"
    return Input(bag, image, size, truth, tuple(others), description)


def _common_size(images: Iterable[Message]) -> tuple[int, int] | None:
    """(height, width) of all readable images, or None if they differ."""
    sizes = set()
    for message in images:
        with suppress(BagError, ImageError):
            sizes.add(rgb_from_cdr(message.cdr, message.type).shape[:2])
    return sizes.pop() if len(sizes) == 1 else None
