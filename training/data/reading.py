# SPDX-License-Identifier: Apache-2.0
"""Reads the pictures and label maps of all data sets."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfseg_ros.errors import ImageError
from sfseg_ros.picture_files.decoding import decode_picture, read_picture, read_picture_bytes
from training.data.dataset import DataError


def read_bgr(path: Path) -> NDArray[np.uint8]:
    """Reads a picture file as uint8 (H, W, 3) BGR, upright. Raises DataError."""
    try:
        return np.asarray(read_picture(path, cv2.IMREAD_COLOR), np.uint8)
    except ImageError as error:
        raise DataError(f"{path}: picture missing or unreadable ({error})") from error


def read_label_ids(path: Path) -> NDArray[np.uint8]:
    """Reads a label map as ids uint8 (H, W): grey values, or the indices of a palette.

    Raises:
        DataError: the file is unreadable or has more than one byte per pixel.
    """
    try:
        data = read_picture_bytes(path)
        ids = decode_picture(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except ImageError as error:
        raise DataError(f"{path}: label map missing or unreadable ({error})") from error
    if ids.ndim == 3:
        ids = _palette_indices(data, ids)
    if ids.ndim == 3 or ids.dtype != np.uint8:
        channels = ids.shape[2] if ids.ndim == 3 else 1
        raise DataError(
            f"{path}: label map of {channels} x {ids.dtype} per pixel, expected one uint8, the "
            "class id: write cv2.imwrite(path, ids) with ids uint8 (H, W), or a palette PNG"
        )
    return np.asarray(ids, np.uint8)


def _palette_indices(data: bytes, colours: NDArray[Any]) -> NDArray[Any]:
    """Returns the indices of a palette PNG, which OpenCV reads as colours, or `colours` for other
    files.

    `data` must have passed the guards of `decode_picture`.
    """
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.array(picture) if picture.mode == "P" else colours
    except (OSError, SyntaxError):  # a format that only OpenCV reads
        return colours


def rgb_and_labels(
    bgr: NDArray[Any], labels: NDArray[Any], long_side: int
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Converts a picture uint8 (H, W, 3) to RGB, and shrinks it and its label map (H, W) to
    `long_side` if they are larger; 0: no limit."""
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    shrink = long_side / max(rgb.shape[:2]) if long_side else 1.0
    if shrink < 1.0:
        size = (round(rgb.shape[1] * shrink), round(rgb.shape[0] * shrink))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(rgb, np.uint8), labels
