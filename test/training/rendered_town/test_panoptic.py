# SPDX-License-Identifier: Apache-2.0
"""Labels and instances of a frame as COCO's panoptic format."""

import json
from pathlib import Path

import numpy as np

from training.panoptic_quality import read_ids
from training.rendered_town.labels import VOID, Label
from training.rendered_town.panoptic import SMALLEST, add_to_split, segments


def frame() -> tuple[np.ndarray, np.ndarray]:
    """Road with two cars, one person of too few pixels, and void."""
    labels = np.full((20, 30), int(Label.ROAD), np.uint8)
    instances = np.zeros((20, 30), np.uint16)
    labels[:10, :20], instances[:10, :10], instances[:10, 10:20] = Label.CAR, 3, 8
    labels[12, : SMALLEST - 1], instances[12, : SMALLEST - 1] = Label.PEDESTRIAN, 5
    labels[19] = VOID
    return labels, instances


def test_instances_are_separate_for_things_only() -> None:
    ids, found = segments(*frame())

    by_id = {segment["id"]: segment for segment in found}
    assert {9003, 9008} <= set(by_id)
    assert by_id[9008]["bbox"] == [10, 0, 10, 10]
    assert by_id[9008]["area"] == 100
    assert by_id[4000]["category_id"] == Label.ROAD
    assert (ids[19] == 0).all()


def test_an_object_too_small_to_count_is_a_crowd() -> None:
    _, found = segments(*frame())

    crowds = [segment for segment in found if segment["iscrowd"]]
    assert [(s["category_id"], s["area"]) for s in crowds] == [(Label.PEDESTRIAN, SMALLEST - 1)]


def test_a_frame_without_things_is_written() -> None:
    labels = np.full((4, 4), int(Label.SKY), np.uint8)

    ids, found = segments(labels, np.zeros((4, 4), np.uint16))

    assert [segment["category_id"] for segment in found] == [Label.SKY]
    assert (ids == 1000).all()


def test_a_frame_that_is_rendered_again_replaces_its_entry(tmp_path: Path) -> None:
    labels, instances = frame()
    add_to_split(tmp_path, "val", "b", labels, instances)
    add_to_split(tmp_path, "val", "a", labels, instances)
    add_to_split(tmp_path, "val", "b", labels, np.zeros_like(instances))

    listing = json.loads((tmp_path / "panoptic_val.json").read_text())
    assert [image["id"] for image in listing["images"]] == ["a", "b"]
    assert [entry["image_id"] for entry in listing["annotations"]] == ["a", "b"]
    crowd = {s["category_id"] for s in listing["annotations"][1]["segments_info"] if s["iscrowd"]}
    assert crowd == {Label.CAR, Label.PEDESTRIAN}
    assert 9003 in read_ids(tmp_path / "panoptic_val" / "a.png")
