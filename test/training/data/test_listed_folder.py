# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from training.data.camvid import camvid
from training.data.dataset import DataError
from training.data.labelmefacade import LABELMEFACADE_TO_CAMVID, labelmefacade
from training.data.listed_folder import ListedFolder


def test_pictures_are_rgb_with_train_ids(street: Path) -> None:
    sample = camvid(street, ("train.txt",))[0]
    assert sample.name == "A_000"
    assert sample.image.shape == (64, 96, 3)
    assert sample.image.dtype == sample.labels.dtype == np.uint8
    assert sample.image[20, 60, 2] > sample.image[20, 60, 0]  # the sky is blue, so this is RGB
    assert set(np.unique(sample.labels)) == {0, 1, 2, 255}


def test_drives_can_be_kept_or_dropped(street: Path) -> None:
    assert len(ListedFolder(street, ("train.txt",), keep=("B",))) == 2
    assert len(ListedFolder(street, ("train.txt",), drop=("B",))) == 6


def test_lists_are_joined(street: Path) -> None:
    assert len(camvid(street, ("train.txt", "train.txt"))) == 16


def test_error_of_a_missing_list_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"val.txt is missing.*check the folder"):
        camvid(tmp_path, ("val.txt",))


def test_picture_and_labels_of_different_size_are_refused(street: Path) -> None:
    cv2.imwrite(str(street / "labels/train/A_000.png"), np.zeros((3, 3), np.uint8))
    with pytest.raises(ValueError, match=r"A_000.*sizes differ"):
        camvid(street, ("train.txt",))[0]


def test_palette_png_is_read_as_its_indices(street: Path) -> None:
    path = street / "labels/train/A_000.png"
    ids = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    palette = Image.fromarray(ids).convert("P")
    palette.putpalette([value for i in range(256) for value in (255 - i, i, 7)])
    palette.save(path)
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).ndim == 3  # OpenCV reads colours
    labels = camvid(street, ("train.txt",))[0].labels
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, ids)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.zeros((64, 96, 3), np.uint8), r"label map of 3 x uint8 per pixel, expected one uint8"),
        (np.zeros((64, 96), np.uint16), r"label map of 1 x uint16 per pixel, expected one uint8"),
        (np.full((64, 96), 3, np.uint8), r"holds 3: expected 0 to 2, or 255"),
        (np.full((64, 96), 254, np.uint8), r"holds 254: expected 0 to 2, or 255"),
        (None, r"label map missing or unreadable"),
    ],
)
def test_error_names_an_unusable_label_map(
    street: Path, ids: np.ndarray | None, message: str
) -> None:
    path = street / "labels/train/A_000.png"
    if ids is None:
        path.write_text("no picture")
    else:
        cv2.imwrite(str(path), ids)
    data = camvid(street, ("train.txt",))
    data.expect_classes(3)
    with pytest.raises(DataError, match=r"labels/train/A_000\.png:? " + message) as error:
        data[0]
    assert "\n" not in str(error.value)


def test_facade_ids_become_camvid_ids_and_others_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a.png b.png\n")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((2, 5, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "b.png"), np.array([[0, 1, 2, 3, 4], [5, 6, 7, 8, 255]], np.uint8))
    labels = labelmefacade(tmp_path)[0].labels
    expected = [LABELMEFACADE_TO_CAMVID.get(raw, 255) for raw in (0, 1, 2, 3, 4, 5, 6, 7, 8, 255)]
    assert labels.flatten().tolist() == expected


def test_large_pictures_are_shrunk_with_their_labels(street: Path) -> None:
    sample = ListedFolder(street, ("train.txt",), long_side=48)[0]
    assert sample.image.shape == (32, 48, 3)
    assert sample.labels.shape == (32, 48)
    assert set(np.unique(sample.labels)) <= {0, 1, 2, 255}
