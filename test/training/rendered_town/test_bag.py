# SPDX-License-Identifier: Apache-2.0
"""A drive becomes a bag: three topics, equal stamps, intrinsics and labels as rendered."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from sfseg_ros.recordings.message_bytes import labels_from_cdr, rgb_from_cdr, stamp_of_cdr
from sfseg_ros.recordings.opening import open_recording
from training.rendered_town.bag import CAMERA_INFO, CAMERA_TOPIC, INFO_TOPIC, TRUTH_TOPIC, write_bag
from training.rendered_town.labels import VALID_LABELS, Label

TOWN_DRIVE = Path(__file__).parents[2] / "data" / "town_drive"


def write_drive(directory: Path, frames: int = 5, stills: bool = False) -> None:
    rng = np.random.default_rng(0)
    note = {"seed": 1, "fps": 10.0, "height": 24, "width": 32, "split": "demo", "stills": stills,
            "frames": {}}  # fmt: skip
    for folder in ("images/demo", "labels/demo"):
        (directory / folder).mkdir(parents=True)
    for k in range(frames):
        image = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        labels = np.full((24, 32), k % 11, np.uint8)
        labels[0] = 255
        cv2.imwrite(str(directory / f"images/demo/f{k}.jpg"), image)
        cv2.imwrite(str(directory / f"labels/demo/f{k}.png"), labels)
        note["frames"][f"f{k}"] = {"index": k, "fx": 20.0, "fy": 20.0, "cx": 16.0, "cy": 12.0}
    (directory / "drive_demo_001.json").write_text(json.dumps(note))


def test_a_bag_holds_the_frames_of_its_drive(tmp_path: Path) -> None:
    write_drive(tmp_path / "drive")

    assert write_bag(tmp_path / "drive", tmp_path / "bag") == 5

    with open_recording(tmp_path / "bag") as bag:
        assert {t.name: t.count for t in bag.topics()} == {
            CAMERA_TOPIC: 5,
            INFO_TOPIC: 5,
            TRUTH_TOPIC: 5,
        }
        messages = {t: list(bag.messages([t])) for t in (CAMERA_TOPIC, INFO_TOPIC, TRUTH_TOPIC)}
    stamps = [[stamp_of_cdr(m.cdr) for m in messages[t]] for t in messages]
    assert stamps[0] == stamps[1] == stamps[2]
    assert set(np.diff(stamps[0])) == {100_000_000}
    truth = messages[TRUTH_TOPIC][3]
    labels = labels_from_cdr(truth.cdr, truth.type)
    assert set(np.unique(labels)) == {3, 255}
    picture = messages[CAMERA_TOPIC][3]
    assert rgb_from_cdr(picture.cdr, picture.type).shape == (24, 32, 3)


def test_the_camera_info_is_the_rendered_pinhole(tmp_path: Path) -> None:
    from rosbags.typesys import Stores, get_typestore

    write_drive(tmp_path / "drive")
    write_bag(tmp_path / "drive", tmp_path / "bag")

    with open_recording(tmp_path / "bag") as bag:
        cdr = next(iter(bag.messages([INFO_TOPIC]))).cdr
    info = get_typestore(Stores.ROS2_JAZZY).deserialize_cdr(cdr, CAMERA_INFO)
    assert (info.height, info.width) == (24, 32)
    assert info.header.frame_id == "camera_optical_frame"
    assert info.k.tolist() == [20, 0, 16, 0, 20, 12, 0, 0, 1]
    assert info.p.tolist() == [20, 0, 16, 0, 0, 20, 12, 0, 0, 0, 1, 0]


def test_the_same_drive_gives_the_same_messages(tmp_path: Path) -> None:
    write_drive(tmp_path / "drive")
    contents = []
    for name in ("a", "b"):
        write_bag(tmp_path / "drive", tmp_path / name)
        with open_recording(tmp_path / name) as bag:
            contents.append([(m.topic, m.log_ns, m.cdr) for m in bag.messages([CAMERA_TOPIC])])

    assert contents[0] == contents[1]


def test_pictures_are_compressed_harder_until_they_fit(tmp_path: Path) -> None:
    write_drive(tmp_path / "drive")

    write_bag(tmp_path / "drive", tmp_path / "bag", max_bytes=16_000)

    with open_recording(tmp_path / "bag") as bag:
        sent = sum(len(m.cdr) for m in bag.messages([CAMERA_TOPIC]))
    rendered = sum(f.stat().st_size for f in (tmp_path / "drive/images/demo").iterdir())
    assert sent < rendered


def test_a_drive_with_a_frame_missing_is_refused(tmp_path: Path) -> None:
    write_drive(tmp_path / "drive")
    path = tmp_path / "drive" / "drive_demo_001.json"
    note = json.loads(path.read_text())
    del note["frames"]["f2"]
    path.write_text(json.dumps(note))

    with pytest.raises(SystemExit, match="frame 2 is missing"):
        write_bag(tmp_path / "drive", tmp_path / "bag")


def test_still_pictures_are_refused_as_a_drive(tmp_path: Path) -> None:
    write_drive(tmp_path / "drive", stills=True)

    with pytest.raises(SystemExit, match="render without --stills"):
        write_bag(tmp_path / "drive", tmp_path / "bag")


@pytest.mark.skipif(not TOWN_DRIVE.exists(), reason="the demo drive is not in this checkout")
def test_the_committed_drive_shows_every_class_for_ten_seconds_or_more() -> None:
    assert sum(f.stat().st_size for f in TOWN_DRIVE.iterdir()) <= 10_000_000
    counts = np.zeros(256, np.int64)
    with open_recording(TOWN_DRIVE) as bag:
        truths = list(bag.messages([TRUTH_TOPIC]))
        frames = list(bag.messages([CAMERA_TOPIC]))
    assert [stamp_of_cdr(m.cdr) for m in truths] == [stamp_of_cdr(m.cdr) for m in frames]
    assert 100 <= len(truths) <= 150
    for truth in truths:
        labels = labels_from_cdr(truth.cdr, truth.type)
        assert labels.shape == (360, 640)
        counts += np.bincount(labels.ravel(), minlength=256)
    assert {int(v) for v in np.flatnonzero(counts)} <= VALID_LABELS
    assert all(counts[label] > 20_000 for label in Label), counts[: len(Label)]
