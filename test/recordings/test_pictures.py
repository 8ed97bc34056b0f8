# SPDX-License-Identifier: Apache-2.0
"""Pictures for calibration and accuracy from folders and recordings, with their ground truth."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from sfseg_ros.errors import BagError
from sfseg_ros.recordings.pictures import sampled_pictures

DRIVE = Path(__file__).resolve().parents[1] / "data" / "town_drive"


def write(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        cv2.imwrite(str(folder / f"{i:03d}.png"), np.full((4, 6, 3), (1, 2, i), np.uint8))


def test_a_folder_is_sampled_evenly_and_in_order(tmp_path):
    write(tmp_path, 100)
    names = [p.name for p in sampled_pictures(tmp_path, 10)]
    assert names == [f"{i:03d}" for i in range(5, 100, 10)]
    everything = list(sampled_pictures(tmp_path, 1000))
    assert len(everything) == 100
    np.testing.assert_array_equal(everything[7].rgb[0, 0], [7, 2, 1])


def test_one_picture_is_enough(tmp_path):
    write(tmp_path, 1)
    (picture,) = sampled_pictures(tmp_path / "000.png", 5)
    assert picture.truth is None


def test_pictures_of_a_recording_come_with_their_ground_truth(tmp_path):
    pictures = list(sampled_pictures(DRIVE, 4))
    assert len(pictures) == 4
    for picture in pictures:
        assert picture.truth is not None
        assert picture.truth.shape == picture.rgb.shape[:2]
        assert picture.truth.max() in (10, 255) or picture.truth.max() < 11


def test_ground_truth_in_a_folder_is_found_by_the_name_of_the_picture(tmp_path):
    write(tmp_path / "images", 2)
    truth = tmp_path / "truth"
    truth.mkdir()
    for i in range(2):
        cv2.imwrite(str(truth / f"{i:03d}.png"), np.full((4, 6), i, np.uint8))
    pictures = list(sampled_pictures(tmp_path / "images", 5, truth_folder=truth))
    assert [int(p.truth[0, 0]) for p in pictures] == [0, 1]
    (truth / "001.png").unlink()
    with pytest.raises(BagError, match="expected the true labels of 001.png"):
        list(sampled_pictures(tmp_path / "images", 5, truth_folder=truth))


def test_damaged_pictures_are_skipped_and_an_error_if_all_are_damaged(tmp_path):
    write(tmp_path, 3)
    (tmp_path / "001.png").write_bytes(b"no picture")
    said: list[str] = []
    assert [p.name for p in sampled_pictures(tmp_path, 5, say=said.append)] == ["000", "002"]
    assert len(said) == 1
    assert "1 damaged, the first on 001.png" in said[0]
    for name in ("000", "002"):
        (tmp_path / f"{name}.png").write_bytes(b"")
    with pytest.raises(BagError, match="no picture can be read; 3 damaged, the first on 000.png"):
        list(sampled_pictures(tmp_path, 5))


def test_a_source_without_pictures_is_refused(tmp_path):
    with pytest.raises(BagError, match="no such folder or recording"):
        list(sampled_pictures(tmp_path / "missing", 5))
    with pytest.raises(BagError, match="no recording and no pictures"):
        list(sampled_pictures(tmp_path, 5))
    with pytest.raises(BagError, match="no images on /other"):
        list(sampled_pictures(DRIVE, 5, topic="/other"))


def test_ground_truth_of_another_size_is_refused(tmp_path):
    write(tmp_path / "images", 1)
    truth = tmp_path / "truth"
    truth.mkdir()
    cv2.imwrite(str(truth / "000.png"), np.zeros((40, 6), np.uint8))
    with pytest.raises(BagError, match=r"truth of 000\.png is 40x6, the picture .*same size"):
        list(sampled_pictures(tmp_path / "images", 5, truth_folder=truth))


def test_a_folder_as_ground_truth_of_a_recording_is_refused(tmp_path):
    with pytest.raises(BagError, match="is a recording, its truth a topic"):
        list(sampled_pictures(DRIVE, 2, truth_folder=tmp_path))
