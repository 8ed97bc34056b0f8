# SPDX-License-Identifier: Apache-2.0
"""Writes a rendered drive as a recording:
`python -m training.rendered_town.bag --drive DIR --output BAG`.

Three topics with equal stamps, frame camera_optical_frame: /camera/image/compressed (JPEG),
/camera/camera_info, /camera/ground_truth (PNG, mono8 train ids, 255 void).
"""

from __future__ import annotations

import argparse
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from sfseg_ros.imaging import jpeg_from_rgb, rgb_from_file
from sfseg_ros.picture_files.decoding import read_picture
from sfseg_ros.recordings.bag_writer import BagWriter, TopicToWrite
from sfseg_ros.recordings.camera_bags import CAMERA_TOPIC
from sfseg_ros.recordings.message_bytes import COMPRESSED_IMAGE, NS_PER_S, compressed_image_cdr

INFO_TOPIC = "/camera/camera_info"
TRUTH_TOPIC = "/camera/ground_truth"
CAMERA_INFO = "sensor_msgs/msg/CameraInfo"
FRAME_ID = "camera_optical_frame"
START_NS = 1_767_225_600 * NS_PER_S  # 2026-01-01: a fixed date, so that the bag is reproducible
MAX_BYTES = 10_000_000


@dataclass(frozen=True)
class Frame:
    """One rendered frame: its files, and fx, fy, cx, cy in pixels."""

    image: Path
    labels: Path
    intrinsics: tuple[float, float, float, float]


def read_drive(directory: Path) -> tuple[dict[str, Any], list[Frame]]:
    """Returns the drive's description and its frames in order.

    Raises SystemExit if the folder holds no drive or an incomplete one.
    """
    notes = sorted(directory.glob("drive_*.json"))
    if len(notes) != 1:
        raise SystemExit(
            f"{directory}: {len(notes)} files drive_*.json, expected one; "
            "render it with python -m training.rendered_town.render"
        )
    note = json.loads(notes[0].read_text())
    if note["stills"]:
        raise SystemExit(f"{notes[0]}: single pictures, not a drive; render without --stills")
    frames: list[Frame] = []
    for stem, frame in sorted(note["frames"].items(), key=lambda item: item[1]["index"]):
        if frame["index"] != len(frames):
            raise SystemExit(
                f"{notes[0]}: frame {len(frames)} is missing; run the same render command again"
            )
        frames.append(
            Frame(
                directory / "images" / note["split"] / f"{stem}.jpg",
                directory / "labels" / note["split"] / f"{stem}.png",
                tuple(frame[k] for k in ("fx", "fy", "cx", "cy")),
            )
        )
    return note, frames


def encode(frames: list[Frame], max_bytes: int) -> tuple[list[bytes], list[bytes]]:
    """Encodes JPEG pictures and PNG labels that together stay below `max_bytes`.

    The rendered JPEG files are kept if they fit; otherwise the pictures get the best quality that
    fits.
    """
    truths = []
    for frame in frames:
        labels = read_picture(frame.labels, cv2.IMREAD_UNCHANGED, ("PNG",))
        done, png = cv2.imencode(".png", labels, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        if not done:
            raise SystemExit(f"{frame.labels}: OpenCV cannot write it as PNG")
        truths.append(png.tobytes())
    room = max_bytes - sum(map(len, truths)) - 2000 * len(frames)  # headers and camera infos
    images = [frame.image.read_bytes() for frame in frames]
    for quality in range(90, 30, -4):
        if sum(map(len, images)) <= room:
            return images, truths
        images = [jpeg_from_rgb(rgb_from_file(frame.image), quality) for frame in frames]
    raise SystemExit(f"{len(frames)} frames do not fit into {max_bytes} bytes; render fewer")


@functools.cache  # it takes a while
def _typestore() -> Any:
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def camera_info_cdr(note: dict[str, Any], frame: Frame, stamp_ns: int) -> bytes:
    """Serialises the CameraInfo of an undistorted pinhole camera."""
    store = _typestore()
    types: Any = store.types
    fx, fy, cx, cy = frame.intrinsics
    seconds, nanoseconds = divmod(stamp_ns, NS_PER_S)
    stamp = types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    message = types[CAMERA_INFO](
        header=types["std_msgs/msg/Header"](stamp=stamp, frame_id=FRAME_ID),
        height=note["height"],
        width=note["width"],
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=np.array([fx, 0, cx, 0, fy, cy, 0, 0, 1], float),
        r=np.eye(3).ravel(),
        p=np.array([fx, 0, cx, 0, 0, fy, cy, 0, 0, 0, 1, 0], float),
        binning_x=0,
        binning_y=0,
        roi=types["sensor_msgs/msg/RegionOfInterest"](
            x_offset=0, y_offset=0, height=0, width=0, do_rectify=False
        ),
    )
    return bytes(store.serialize_cdr(message, CAMERA_INFO))


def write_bag(drive: Path, output: Path, max_bytes: int = MAX_BYTES) -> int:
    """Write the drive as a new rosbag2 mcap directory; returns the number of frames."""
    note, frames = read_drive(drive)
    images, truths = encode(frames, max_bytes)
    topics = [
        TopicToWrite(CAMERA_TOPIC, COMPRESSED_IMAGE),
        TopicToWrite(INFO_TOPIC, CAMERA_INFO),
        TopicToWrite(TRUTH_TOPIC, COMPRESSED_IMAGE),
    ]
    with BagWriter(output, topics) as writer:
        for k, (frame, image, truth) in enumerate(zip(frames, images, truths, strict=True)):
            stamp_ns = START_NS + round(k * NS_PER_S / note["fps"])
            writer.write(INFO_TOPIC, stamp_ns, camera_info_cdr(note, frame, stamp_ns))
            writer.write(
                CAMERA_TOPIC, stamp_ns, compressed_image_cdr(image, "jpeg", stamp_ns, FRAME_ID)
            )
            writer.write(
                TRUTH_TOPIC, stamp_ns, compressed_image_cdr(truth, "png", stamp_ns, FRAME_ID)
            )
    return len(frames)


def main() -> None:
    """Parse the command line and write the bag."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drive", type=Path, required=True, help="what render wrote")
    parser.add_argument("--output", type=Path, required=True, help="a folder that does not exist")
    parser.add_argument("--max-bytes", type=int, default=MAX_BYTES)
    o = parser.parse_args()
    count = write_bag(o.drive, o.output, o.max_bytes)
    size = sum(f.stat().st_size for f in o.output.iterdir())
    print(f"{o.output}: {count} frames, {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
