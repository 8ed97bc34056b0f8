# SPDX-License-Identifier: Apache-2.0
"""Data sets laid out as list files of "image label" lines beside the pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sfseg_ros.model.manifest import UNLABELLED
from training.data.dataset import DataError, Sample
from training.data.reading import read_bgr, read_label_ids, rgb_and_labels


class ListedFolder:
    """Pictures and label maps named by list files.

    Args:
        root: folder that holds the list files.
        lists: list files to join, e.g. ("train.txt", "val.txt"); each line is "image label",
            relative to root.
        raw_to_train: raw label id -> train id; other raw ids become 255. None: the files hold
            train ids.
        keep: prefixes of the file stems to keep, such as the names of drives; empty keeps all.
        drop: prefixes of the file stems to leave out.
        long_side: maximum width or height; larger pictures are shrunk when read. 0: no limit.

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
        self.num_classes = UNLABELLED  # any, until `expect_classes` says how many
        self.table = np.arange(256, dtype=np.uint8)
        if raw_to_train is not None:
            self.table = np.full(256, UNLABELLED, dtype=np.uint8)
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
        """Makes the data set refuse train ids other than 0 to num_classes - 1 and 255."""
        self.num_classes = num_classes

    def __getitem__(self, index: int) -> Sample:
        """Image uint8 (H, W, 3) RGB and labels uint8 (H, W).

        Raises:
            DataError: a file is unreadable, picture and label map have different sizes, the label
                map is not one byte per pixel, or an id is neither a class nor 255.
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
        wrong = (labels >= self.num_classes) & (labels != UNLABELLED)
        if wrong.any():
            raise DataError(
                f"{label_path} holds {labels[wrong][0]}: expected 0 to {self.num_classes - 1}, or "
                f"{UNLABELLED} to ignore; ListedFolder's raw_to_train maps other ids"
            )
        rgb, labels = rgb_and_labels(bgr, labels, self.long_side)
        return Sample(rgb, labels, image_path.stem)
