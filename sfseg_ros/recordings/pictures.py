# SPDX-License-Identifier: Apache-2.0
"""Evenly spaced pictures of a folder or recording, with ground truth if available.

Calibration and the accuracy of an engine are measured on them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from sfseg_ros.errors import BagError, ImageError
from sfseg_ros.imaging import Uint8Array, rgb_from_file
from sfseg_ros.picture_files.decoding import read_picture
from sfseg_ros.recordings.camera_bags import pictures_in
from sfseg_ros.recordings.message_bytes import labels_from_cdr, rgb_from_cdr, stamp_of_cdr
from sfseg_ros.recordings.opening import find_recording, open_recording
from sfseg_ros.recordings.recording import choose_image_topic, find_ground_truth_topic
from sfseg_ros.recordings.timeline import Damage


@dataclass(frozen=True)
class LabelledPicture:
    """One picture: uint8 (H, W, 3) `rgb` and its ground truth, if known.

    `truth` is uint8 (H, W): class indices; 255 is ignored.
    """

    name: str
    rgb: Uint8Array
    truth: Uint8Array | None = None


def sampled_pictures(
    path: Path,
    most: int,
    topic: str | None = None,
    truth_folder: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[LabelledPicture]:
    """Yield at most `most` pictures of a folder, a picture file or a recording, in order.

    The ground truth is the topic `.../ground_truth` of a recording, or a PNG of class indices in
    `truth_folder` with the name of each picture. Damaged pictures are left out and reported through
    `say`. Raises BagError if no picture remains.
    """
    if not path.exists():
        raise BagError(f"{path}: no such folder or recording")
    damage = Damage()
    if find_recording(path) is not None:
        if truth_folder is not None:
            raise BagError(
                f"{path}: is a recording, its truth a topic .../ground_truth; {truth_folder} would "
                "be for a folder of pictures"
            )
        pictures = _from_bag(path, most, topic, damage)
    else:
        files = pictures_in(path) if path.is_dir() else [path]
        if not files:
            raise BagError(f"{path}: no recording and no pictures in it")
        pictures = _from_files(_spread(files, most), truth_folder, damage)
    count = 0
    for picture in pictures:
        count += 1
        yield picture
    if count == 0:
        raise BagError(f"{path}: no picture can be read; {damage}")
    if damage.count:
        say(f"left out of {path}: {damage}")


def _spread(files: list[Path], most: int) -> list[Path]:
    return [files[i] for i in sorted(_indices(len(files), most))]


def _indices(count: int, most: int) -> set[int]:
    """Return at most `most` of `count` indices, evenly spaced; none at the very ends."""
    if count <= most:
        return set(range(count))
    return {int((k + 0.5) * count / most) for k in range(most)}


def _from_files(
    files: list[Path], truth_folder: Path | None, damage: Damage
) -> Iterator[LabelledPicture]:
    for file in files:
        try:
            rgb = rgb_from_file(file)
        except ImageError as error:
            damage.add(file.name, error)
            continue
        truth = _truth_of(file, truth_folder)
        if truth is not None and truth.shape != rgb.shape[:2]:
            raise BagError(
                f"truth of {file.name} is {truth.shape[0]}x{truth.shape[1]}, the picture "
                f"{rgb.shape[0]}x{rgb.shape[1]}: expected the same size"
            )
        yield LabelledPicture(file.stem, rgb, truth)


def _truth_of(picture: Path, folder: Path | None) -> Uint8Array | None:
    if folder is None:
        return None
    file = folder / f"{picture.stem}.png"
    expected = f"expected the true labels of {picture.name}, an 8-bit grey PNG"
    try:
        labels = read_picture(file, cv2.IMREAD_UNCHANGED, ("PNG",))
    except ImageError as error:
        raise BagError(f"{file}: {expected} ({error})") from error
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise BagError(f"{file}: {expected}")
    return np.asarray(labels, np.uint8)


def _from_bag(
    path: Path, most: int, topic: str | None, damage: Damage
) -> Iterator[LabelledPicture]:
    with open_recording(path) as images, open_recording(path) as truths:
        camera = choose_image_topic(images.topics(), topic)
        truth_topic = find_ground_truth_topic(images.topics())
        wanted = _indices(camera.count, most)
        chosen: dict[int, LabelledPicture] = {}
        for index, message in enumerate(images.messages([camera.name])):
            if index in wanted:
                try:
                    rgb = rgb_from_cdr(message.cdr, message.type)
                    stamp_ns = stamp_of_cdr(message.cdr)
                except (BagError, ImageError) as error:
                    damage.add(message.topic, error)
                else:
                    if truth_topic is None:
                        yield LabelledPicture(str(index), rgb)
                    else:
                        chosen[stamp_ns] = LabelledPicture(str(index), rgb)
        for message in truths.messages([truth_topic.name] if truth_topic else []):
            try:
                picture = chosen.pop(stamp_of_cdr(message.cdr), None)
                truth = labels_from_cdr(message.cdr, message.type) if picture else None
            except BagError as error:
                damage.add(message.topic, error)
            else:
                if picture is not None:
                    yield LabelledPicture(picture.name, picture.rgb, truth)
        yield from chosen.values()  # those without ground truth at their stamp
