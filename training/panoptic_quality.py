# SPDX-License-Identifier: Apache-2.0
"""Computes panoptic quality of predictions in COCO's panoptic format, by the official rules.

    python -m training.panoptic_quality --truth panoptic_val.json --prediction RUN/panoptic_val.json

The segment ids of X.json lie in the folder X beside it. Paper: Kirillov et al., "Panoptic
Segmentation", CVPR 2019, equations 1 and 2. Void, crowds and absent classes, which the paper leaves
open, follow cocodataset/panopticapi, evaluation.py; the results are equal.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg_ros.errors import ImageError
from sfseg_ros.picture_files.decoding import read_picture

VOID = 0
Ids = NDArray[np.uint32]
Segments = list[dict[str, Any]]


@dataclass
class ClassQuality:
    """Counts of one class: matched, invented and missed segments, and the sum of IoU of the matched
    ones."""

    iou: float = 0.0
    matched: int = 0
    invented: int = 0
    missed: int = 0

    @property
    def appears(self) -> bool:
        return self.matched + self.invented + self.missed > 0

    @property
    def segmentation(self) -> float:
        """SQ, 0 to 1: mean IoU of the matched segments."""
        return self.iou / self.matched if self.matched else 0.0

    @property
    def recognition(self) -> float:
        """RQ, 0 to 1: the F1 score of finding segments."""
        total = self.matched + (self.invented + self.missed) / 2
        return self.matched / total if total else 0.0

    @property
    def panoptic(self) -> float:
        """PQ, 0 to 1: SQ times RQ."""
        return self.segmentation * self.recognition


class PanopticQuality:
    """Accumulates panoptic quality over pictures.

    Args:
        categories: the list of the JSON file: dicts with "id", "name" and "isthing".
    """

    def __init__(self, categories: list[dict[str, Any]]) -> None:
        self.categories = {category["id"]: category for category in categories}
        self.classes = {number: ClassQuality() for number in self.categories}

    def update(
        self, truth: Ids, truth_segments: Segments, predicted: Ids, predicted_segments: Segments
    ) -> None:
        """Adds one picture.

        Args:
            truth, predicted: segment ids uint32 (H, W), 0 = void.
            truth_segments: dicts with "id", "category_id", "iscrowd".
            predicted_segments: dicts with "id", "category_id".

        Raises:
            ValueError: sizes differ, ids and list disagree, or a category is unknown.
        """
        if truth.shape != predicted.shape:
            raise ValueError(
                f"prediction is {predicted.shape}, expected {truth.shape} as the truth"
            )
        expected = {segment["id"]: segment for segment in truth_segments}
        found = {segment["id"]: segment for segment in predicted_segments}
        self._check(predicted, found)
        overlap = _overlaps(truth, predicted)
        truth_area: dict[int, int] = {}
        area: dict[int, int] = {}
        for (t, p), pixels in overlap.items():
            truth_area[t] = truth_area.get(t, 0) + pixels
            area[p] = area.get(p, 0) + pixels

        matched_truth, matched = set(), set()
        for (t, p), pixels in overlap.items():
            if t not in expected or p not in found or expected[t].get("iscrowd", 0):
                continue
            category = expected[t]["category_id"]
            if found[p]["category_id"] != category:
                continue
            # Unlabelled pixels do not count against the prediction.
            union = area[p] - overlap.get((VOID, p), 0) + truth_area[t] - pixels
            if pixels / union > 0.5:  # so a segment has at most one partner
                self.classes[category].matched += 1
                self.classes[category].iou += pixels / union
                matched_truth.add(t)
                matched.add(p)

        crowds: dict[int, int] = {}
        for t, segment in expected.items():
            if segment.get("iscrowd", 0):
                crowds[segment["category_id"]] = t  # the last crowd of a class counts
            elif t not in matched_truth:
                self.classes[segment["category_id"]].missed += 1
        for p, segment in found.items():
            if p in matched:
                continue
            excused = overlap.get((VOID, p), 0)
            if segment["category_id"] in crowds:
                excused += overlap.get((crowds[segment["category_id"]], p), 0)
            if excused / area[p] <= 0.5:
                self.classes[segment["category_id"]].invented += 1

    def _check(self, predicted: Ids, found: dict[int, dict[str, Any]]) -> None:
        present = set(np.unique(predicted).tolist()) - {VOID}
        if present != set(found):
            difference = sorted(present ^ set(found))[:5]
            raise ValueError(
                f"segment ids {difference} are in the picture or in the list, not both"
            )
        for segment in found.values():
            if segment["category_id"] not in self.categories:
                raise ValueError(
                    f"segment {segment['id']} has category {segment['category_id']}, "
                    f"expected one of {sorted(self.categories)}"
                )

    def mean(self, things: bool | None = None) -> tuple[float, float, float]:
        """Returns PQ, SQ and RQ, 0 to 1, over the classes that appear: all, things or stuff."""
        chosen = [
            self.classes[number]
            for number, category in self.categories.items()
            if self.classes[number].appears
            and (things is None or bool(category["isthing"]) == things)
        ]
        if not chosen:
            return 0.0, 0.0, 0.0
        rows = [(c.panoptic, c.segmentation, c.recognition) for c in chosen]
        pq, sq, rq = (float(np.mean(column)) for column in zip(*rows, strict=True))
        return pq, sq, rq

    def record(self) -> dict[str, Any]:
        """Returns all results as plain values, 0 to 1, rounded to four digits."""
        means = {"all": None, "things": True, "stuff": False}
        result: dict[str, Any] = {
            name: dict(zip(("pq", "sq", "rq"), (round(v, 4) for v in self.mean(things))))
            for name, things in means.items()
        }
        result["classes"] = {
            str(category["name"]): {
                "pq": round(quality.panoptic, 4),
                "sq": round(quality.segmentation, 4),
                "rq": round(quality.recognition, 4),
                "matched": quality.matched,
                "invented": quality.invented,
                "missed": quality.missed,
            }
            for category, quality in zip(self.categories.values(), self.classes.values())
            if quality.appears
        }
        return result

    def report(self) -> str:
        """Returns a table in percent as text."""
        record = self.record()
        rows = [*record["classes"].items(), *((n, record[n]) for n in ("things", "stuff", "all"))]
        lines = [f"{'':>16}    PQ    SQ    RQ"]
        lines += [
            f"{name:>16} {100 * r['pq']:5.1f} {100 * r['sq']:5.1f} {100 * r['rq']:5.1f}"
            for name, r in rows
        ]
        return "\n".join(lines)


def _overlaps(truth: Ids, predicted: Ids) -> dict[tuple[int, int], int]:
    """Returns the number of common pixels by pair of true and predicted id."""
    pairs, pixels = np.unique(
        truth.astype(np.uint64) << np.uint64(32) | predicted.astype(np.uint64), return_counts=True
    )
    return {
        (int(pair) >> 32, int(pair) & 0xFFFFFFFF): int(count)
        for pair, count in zip(pairs, pixels, strict=True)
    }


def read_ids(path: Path) -> Ids:
    """Reads segment ids uint32 (H, W) from a PNG: R + 256 G + 256^2 B.

    Raises:
        FileNotFoundError: the file is missing or is no readable PNG.
    """
    try:
        bgr = read_picture(path, cv2.IMREAD_COLOR, ("PNG",))
    except ImageError as error:
        raise FileNotFoundError(f"{path}: no readable PNG of segment ids ({error})") from error
    values = bgr.astype(np.uint32)
    return values[..., 2] + 256 * values[..., 1] + 65536 * values[..., 0]


def write_ids(path: Path, ids: Ids) -> None:
    """Writes a PNG for `read_ids`."""
    bgr = np.stack([ids >> 16, ids >> 8, ids], axis=-1).astype(np.uint8)
    cv2.imwrite(str(path), bgr)


def quality_of_files(truth: Path, prediction: Path) -> PanopticQuality:
    """Computes the panoptic quality of all pictures in `truth`.

    Args:
        truth, prediction: JSON files; the PNGs lie in the folder of the same name without .json.

    Raises:
        ValueError: a picture has no prediction.
    """
    listing = json.loads(truth.read_text())
    predictions = {
        entry["image_id"]: entry for entry in json.loads(prediction.read_text())["annotations"]
    }
    quality = PanopticQuality(listing["categories"])
    for entry in listing["annotations"]:
        other = predictions.get(entry["image_id"])
        if other is None:
            raise ValueError(f"{prediction}: no prediction for picture {entry['image_id']!r}")
        quality.update(
            read_ids(truth.with_suffix("") / entry["file_name"]),
            entry["segments_info"],
            read_ids(prediction.with_suffix("") / other["file_name"]),
            other["segments_info"],
        )
    return quality


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truth", type=Path, required=True, help="JSON file, PNGs beside it")
    parser.add_argument("--prediction", type=Path, required=True, help="likewise")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    arguments = parser.parse_args()
    try:
        quality = quality_of_files(arguments.truth, arguments.prediction)
    except (ValueError, OSError) as error:
        raise SystemExit(str(error)) from None
    print(quality.report())
    if arguments.json:
        arguments.json.write_text(json.dumps(quality.record(), indent=1) + "\n")


if __name__ == "__main__":
    main()
