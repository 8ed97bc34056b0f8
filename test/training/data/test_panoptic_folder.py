# SPDX-License-Identifier: Apache-2.0
"""Panoptic label maps of tiny data sets laid out as COCO, Cityscapes and the rendered town."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.cityscapes import cityscapes_panoptic
from training.data.coco import coco_panoptic
from training.data.dataset import DataError
from training.data.mixture import Mixture, MixturePart
from training.data.rendered_town import rendered_town_panoptic
from training.data.transforms import Augmentation
from training.panoptic_quality import write_ids

ROAD, PERSON, CAR = 7, 24, 26
CATEGORIES = [
    {"id": ROAD, "name": "road", "isthing": 0},
    {"id": PERSON, "name": "person", "isthing": 1},
    {"id": CAR, "name": "car", "isthing": 1},
]


def write(annotations: Path, image: Path, file_name: str, image_id: object) -> None:
    """One picture of 8 x 12 pixels: road, two cars, a crowd of people, and void."""
    ids = np.zeros((8, 12), np.uint32)
    ids[4:] = 7
    ids[2:6, 0:3], ids[2:6, 4:8] = 26001, 26002
    ids[2:6, 9:12] = 24
    image.parent.mkdir(parents=True, exist_ok=True)
    picture = np.zeros((8, 12, 3), np.uint8)
    picture[4:] = (10, 20, 200)  # blue, green, red
    cv2.imwrite(str(image), picture)
    annotations.with_suffix("").mkdir(parents=True)
    write_ids(annotations.with_suffix("") / "ids.png", ids)
    segments = [
        {"id": 7, "category_id": ROAD, "iscrowd": 0},
        {"id": 26001, "category_id": CAR, "iscrowd": 0},
        {"id": 26002, "category_id": CAR, "iscrowd": 0},
        {"id": 24, "category_id": PERSON, "iscrowd": 1},
    ]
    entry = {"image_id": image_id, "file_name": "ids.png", "segments_info": segments}
    listing = {
        "images": [{"id": image_id, "file_name": file_name, "height": 8, "width": 12}],
        "annotations": [entry],
        "categories": CATEGORIES,
    }
    annotations.write_text(json.dumps(listing))


@pytest.fixture
def town(tmp_path: Path) -> Path:
    write(tmp_path / "panoptic_val.json", tmp_path / "images/val/a.png", "images/val/a.png", "a")
    return tmp_path


def test_labels_hold_class_and_instance(town: Path) -> None:
    data = rendered_town_panoptic(town, "val")
    sample = data[0]

    assert data.things == (1, 2)
    assert sample.labels.dtype == np.uint16
    assert sample.image[7, 0].tolist() == [200, 20, 10]
    assert sample.labels[0, 0] == 255  # void
    assert sample.labels[7, 0] == 0  # road
    assert sample.labels[3, 1] == 2 + 256 * 1
    assert sample.labels[3, 5] == 2 + 256 * 2
    assert sample.labels[3, 10] == 1  # a crowd has a class but no instance


def test_coco_and_cityscapes_lie_as_they_are_unpacked(tmp_path: Path) -> None:
    coco, city = tmp_path / "coco", tmp_path / "cityscapes"
    write(
        coco / "annotations/panoptic_val2017.json",
        coco / "val2017/000000000139.jpg",
        "000000000139.jpg",
        139,
    )
    name = "ulm_000001_000019_leftImg8bit.png"
    write(
        city / "gtFine/cityscapes_panoptic_train.json",
        city / "leftImg8bit/train/ulm" / name,
        name,
        "ulm_000001_000019",
    )

    for data in (coco_panoptic(coco, "val"), cityscapes_panoptic(city, "train")):
        assert len(data) == 1
        assert set(np.unique(data[0].labels % 256)) == {0, 1, 2, 255}


def test_instances_survive_augmentation(town: Path) -> None:
    parts = [MixturePart(rendered_town_panoptic(town, "val"), 3)]
    mixture = Mixture(parts, Augmentation((16, 24), scale=(1.5, 1.5)), seed=0, epoch=0)

    _, labels = mixture[0]

    assert labels.shape == (16, 24)
    values = set(labels.flatten().tolist())
    assert {2 + 256, 2 + 512} <= values
    assert values <= {0, 1, 255, 2 + 256, 2 + 512}  # nothing between


def test_large_pictures_are_shrunk_when_read(town: Path) -> None:
    sample = rendered_town_panoptic(town, "val", long_side=6)[0]

    assert sample.image.shape == (4, 6, 3)
    assert sample.labels.shape == (4, 6)
    assert set(np.unique(sample.labels)) <= {0, 1, 255, 2 + 256, 2 + 512}


def test_error_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"panoptic_val\.json is missing"):
        rendered_town_panoptic(tmp_path, "val")


def test_classes_other_than_the_recipes_are_refused(town: Path) -> None:
    data = rendered_town_panoptic(town, "val")
    data.expect_classes(3)
    with pytest.raises(DataError, match=r"panoptic_val\.json has 3 categories, expected .* 19"):
        data.expect_classes(19)


def test_error_names_a_category_that_is_not_listed(town: Path) -> None:
    file = town / "panoptic_val.json"
    file.write_text(file.read_text().replace(f'"category_id": {CAR}', '"category_id": 99'))
    with pytest.raises(DataError, match=r"ids\.png has a segment of category 99"):
        rendered_town_panoptic(town, "val")[0]


def test_missing_ids_are_a_data_error(town: Path) -> None:
    (town / "panoptic_val/ids.png").unlink()
    with pytest.raises(DataError, match=r"ids\.png: no readable PNG"):
        rendered_town_panoptic(town, "val")[0]


def test_a_picture_of_another_size_is_refused(town: Path) -> None:
    cv2.imwrite(str(town / "images/val/a.png"), np.zeros((4, 4, 3), np.uint8))

    with pytest.raises(ValueError, match=r"a\.png: picture and segment ids have different sizes"):
        rendered_town_panoptic(town, "val")[0]
