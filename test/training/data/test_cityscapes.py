# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import cv2
import numpy as np
import pytest

from training.data.cityscapes import CITYSCAPES_CLASSES, cityscapes


def write(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels)


def test_labels_become_train_ids_and_pictures_are_sorted_by_name(
    tmp_path: Path,
) -> None:
    ids = np.array([[7, 33, 0, 10, 26, 29]], np.uint8)
    for split, city, frame in (("train", "ulm", "000001"), ("train", "aachen", "000000")):
        stem = f"{city}_{frame}_000019"
        image = tmp_path / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png"
        write(image, np.full((1, 6, 3), 9, np.uint8))
        write(tmp_path / "gtFine" / split / city / f"{stem}_gtFine_labelIds.png", ids)
    data = cityscapes(tmp_path, ("train",))
    assert [data[i].name.partition("_")[0] for i in range(len(data))] == ["aachen", "ulm"]
    assert data[0].labels.tolist() == [[0, 18, 255, 255, 13, 255]]
    assert CITYSCAPES_CLASSES[18][0] == "bicycle"
    assert CITYSCAPES_CLASSES[13][0] == "car"


def test_error_of_a_missing_split_says_what_to_unpack(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"leftImg8bit/val holds no.*unpack"):
        cityscapes(tmp_path, ("val",))
