# SPDX-License-Identifier: Apache-2.0
from pathlib import Path

import cv2
import numpy as np
import pytest

from sfseg_ros.recordings.video import VideoWriter
from training.data.dataset import DataError
from training.data.unlabelled import Unlabelled


def test_pictures_and_frames_come_without_labels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), np.full((40, 96, 3), (0, 0, 255), np.uint8))  # red
    (tmp_path / "notes.txt").write_text("no picture")
    with VideoWriter(tmp_path / "drive") as writer:
        for i in range(12):
            writer.add(np.full((32, 64, 3), (0, 20 * i, 0), np.uint8), i / 25)
    data = Unlabelled(tmp_path, long_side=48, every=5)
    assert len(data) == 4  # the picture and frames 0, 5 and 10
    data.expect_classes(2)
    samples = [data[i] for i in range(4)]
    assert samples[0].image.shape == (20, 48, 3)
    assert samples[0].image[10, 10, 0] > 200 > 50 > samples[0].image[10, 10, 2]
    assert [s.image.shape for s in samples[1:]] == [(24, 48, 3)] * 3
    greens = [int(s.image[..., 1].mean()) for s in samples[1:]]
    assert greens == pytest.approx([0, 100, 200], abs=12)
    for sample in samples:
        assert sample.labels.shape == sample.image.shape[:2]
        assert (sample.labels == 255).all()


def test_error_names_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no pictures and no videos"):
        Unlabelled(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing: expected a folder"):
        Unlabelled(tmp_path / "nothing")


def test_what_cannot_be_read_is_a_data_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DataError, match="a.png"):
        Unlabelled(tmp_path)[0]
    (tmp_path / "b.mp4").write_text("no video")
    with pytest.raises(DataError, match="b.mp4"):
        Unlabelled(tmp_path)
