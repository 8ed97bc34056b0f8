# SPDX-License-Identifier: Apache-2.0
"""Writes a frame and its result to files, for a bug report or as a training picture."""

import dataclasses
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from sfseg_ros.errors import SfsegError
from sfseg_ros.imaging import Uint8Array, png_from_pixels
from sfseg_ros.model.manifest import Manifest
from sfseg_ros.nodes.messages import nanoseconds
from sfseg_ros.nodes.segmented_frame import SegmentedFrame
from sfseg_ros.whole_files import whole_folder


class SnapshotError(SfsegError):
    """A snapshot cannot be written."""


def new_folder(parent: str) -> Path:
    """Absolute path of a folder in `parent`, named by the time; it is not created yet.

    Raises RuntimeError for ~user of a user that does not exist.
    """
    return Path(parent).expanduser().absolute() / f"{datetime.now():%Y-%m-%d_%H-%M-%S.%f}"


def snapshot_of(
    frame: SegmentedFrame, manifest: Manifest
) -> tuple[dict[str, Uint8Array], dict[str, Any]]:
    """Pictures and metadata of a frame, for `write_snapshot`."""
    pictures = {"image": frame.rgb, "mask": frame.labels, "overlay": frame.overlay}
    if frame.confidence is not None:
        pictures["confidence"] = frame.confidence
    return pictures, {
        "stamp_ns": nanoseconds(frame.header.stamp),
        "frame_id": frame.header.frame_id,
        "model": manifest.name,
        "model_sha256": manifest.onnx_sha256,
        "image_size": list(frame.geometry.image_size),
        "network_size": list(frame.geometry.network_size),
        "area": list(frame.geometry.area),
        "output_area": list(frame.geometry.output_area),
        "camera": None if frame.camera is None else dataclasses.asdict(frame.camera),
    }


def write_snapshot(folder: Path, pictures: dict[str, Uint8Array], metadata: dict[str, Any]) -> None:
    """Write each picture, uint8 (H, W) or (H, W, 3) RGB, as `<name>.png` and the metadata as
    `metadata.json` into a new folder, which appears only when it is complete.

    Raises SnapshotError.
    """
    try:
        with whole_folder(folder) as unfinished:
            for name, picture in pictures.items():
                (unfinished / f"{name}.png").write_bytes(png_from_pixels(picture))
            text = json.dumps(metadata, indent=2)
            (unfinished / "metadata.json").write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise SnapshotError(f"{folder}: cannot be written ({error.strerror})") from error
