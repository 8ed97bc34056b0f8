# SPDX-License-Identifier: Apache-2.0
"""Labels and instances of a frame in COCO's panoptic format: a PNG of segment ids, and a list.

A segment is one thing, or all pixels of a class without instances.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from training.panoptic_quality import write_ids
from training.rendered_town.labels import THINGS, VOID, Label

PER_CLASS = 1000  # ids of one class; Cityscapes counts so as well
SMALLEST = 24  # minimum number of pixels of a counted thing


def segments(labels: np.ndarray, instances: np.ndarray) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Returns segment ids uint32 (H, W) and their list for the JSON file; boxes are x, y, width,
    height.

    All things of a class with fewer than SMALLEST pixels form one segment with "iscrowd", which
    counts as neither found nor missed.

    Args:
        labels: uint8 (H, W), train ids with 255 = void.
        instances: uint16 (H, W), 0 for pixels without an instance.
    """
    thing = np.isin(labels, list(THINGS))
    pixels = np.bincount(instances[thing], minlength=1)
    pixels[0] = 0  # without instances, so not counted
    counted = thing & (pixels[np.where(thing, instances, 0)] >= SMALLEST)
    ids = (labels.astype(np.uint32) + 1) * PER_CLASS + np.where(counted, instances, 0)
    ids = np.where(labels == VOID, 0, ids).astype(np.uint32)
    found = []
    for value in np.unique(ids[ids > 0]):
        rows, columns = np.nonzero(ids == value)
        left, top = int(columns.min()), int(rows.min())
        label, instance = int(value) // PER_CLASS - 1, int(value) % PER_CLASS
        found.append(
            {
                "id": int(value),
                "category_id": label,
                "area": len(rows),
                "bbox": [left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1],
                "iscrowd": int(label in THINGS and instance == 0),
            }
        )
    return ids, found


def add_to_split(
    folder: Path, split: str, stem: str, labels: np.ndarray, instances: np.ndarray
) -> None:
    """Writes a frame's PNG and its entry in panoptic_<split>.json, replacing an earlier entry."""
    ids, found = segments(labels, instances)
    pictures = folder / f"panoptic_{split}"
    pictures.mkdir(exist_ok=True)
    write_ids(pictures / f"{stem}.png", ids)
    path = folder / f"panoptic_{split}.json"
    if path.exists():
        listing = json.loads(path.read_text())
    else:
        categories = [
            {"id": int(label), "name": label.name.lower(), "isthing": int(label in THINGS)}
            for label in Label
        ]
        listing = {"images": [], "annotations": [], "categories": categories}
    height, width = labels.shape
    image = {
        "id": stem,
        "file_name": f"images/{split}/{stem}.jpg",
        "height": height,
        "width": width,
    }
    annotation = {"image_id": stem, "file_name": f"{stem}.png", "segments_info": found}
    for key, name, entry in (("images", "id", image), ("annotations", "image_id", annotation)):
        kept = [old for old in listing[key] if old[name] != stem]
        listing[key] = sorted([*kept, entry], key=lambda old: str(old[name]))
    path.write_text(json.dumps(listing) + "\n")
