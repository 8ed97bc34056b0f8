# SPDX-License-Identifier: Apache-2.0
"""Reads pictures with instances in COCO's panoptic format: COCO, Cityscapes, rendered towns.

A sample's label map is uint16: train id + 256 * instance. Stuff and crowds have instance 0; void is
255. The label map modulo 256 is therefore an ordinary label map, and the transforms of labels work.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sfseg_ros.model.manifest import UNLABELLED
from training.data.dataset import DataError, Sample
from training.data.reading import read_bgr, rgb_and_labels
from training.panoptic_quality import read_ids

INSTANCE_STEP = 256
MAX_INSTANCES = 255


class PanopticFolder:
    """Pictures with segment ids, listed in a JSON file.

    Args:
        annotations: JSON file; the PNGs of segment ids lie in the folder of the same name. The
            train id of a class is its index in the file's "categories".
        image_path: "file_name" in the JSON file -> path of the picture.
        long_side: maximum width or height; larger pictures are shrunk when read. 0: no limit.

    Attributes:
        annotations: the JSON file.
        entries: (file name of the picture, its entry in the JSON file) per picture.
        categories: of the JSON file, in the order of the train ids.
        things: train ids of the classes with instances.

    Raises:
        FileNotFoundError: the JSON file is missing or names no pictures.
    """

    def __init__(
        self, annotations: Path, image_path: Callable[[str], Path], long_side: int = 0
    ) -> None:
        if not annotations.is_file():
            raise FileNotFoundError(
                f"{annotations} is missing: expected COCO's panoptic format; check --data-root"
            )
        listing = json.loads(annotations.read_text())
        self.annotations = annotations
        self.folder = annotations.with_suffix("")
        self.image_path = image_path
        self.long_side = long_side
        self.categories = listing["categories"]
        self.things = tuple(i for i, c in enumerate(self.categories) if c["isthing"])
        names = {image["id"]: image["file_name"] for image in listing["images"]}
        self.entries = [(names[entry["image_id"]], entry) for entry in listing["annotations"]]
        if not self.entries:
            raise FileNotFoundError(f"{annotations} names no pictures")
        self._train_id = {c["id"]: i for i, c in enumerate(self.categories)}

    def __len__(self) -> int:
        return len(self.entries)

    def expect_classes(self, num_classes: int) -> None:
        """Raises DataError if the file has another number of categories."""
        if len(self.categories) != num_classes:
            raise DataError(
                f"{self.annotations} has {len(self.categories)} categories, expected the recipe's "
                f"{num_classes} classes in their order"
            )

    def __getitem__(self, index: int) -> Sample:
        """Image uint8 (H, W, 3) RGB and labels uint16 (H, W), see the module.

        Raises:
            DataError: a file is unreadable, picture and ids have different sizes, a category is not
                listed, or the picture has more than 255 things.
        """
        name, entry = self.entries[index]
        path = self.image_path(name)
        bgr = read_bgr(path)
        try:
            ids = read_ids(self.folder / entry["file_name"])
        except FileNotFoundError as error:
            raise DataError(str(error)) from None
        if bgr.shape[:2] != ids.shape:
            raise DataError(f"{path}: picture and segment ids have different sizes")
        labels = np.full(ids.shape, UNLABELLED, np.uint16)
        instance = 0
        for segment in entry["segments_info"]:
            category = segment["category_id"]
            if category not in self._train_id:
                raise DataError(
                    f"{self.annotations}: {entry['file_name']} has a segment of category "
                    f'{category}, expected one of "categories"'
                )
            value = self._train_id[category]
            if value in self.things and not segment.get("iscrowd", 0):
                instance += 1
                value += INSTANCE_STEP * instance
            labels[ids == segment["id"]] = value
        if instance > MAX_INSTANCES:
            raise DataError(f"{path}: {instance} things, expected at most {MAX_INSTANCES}")
        rgb, labels = rgb_and_labels(bgr, labels, self.long_side)
        return Sample(rgb, labels, Path(name).stem)
