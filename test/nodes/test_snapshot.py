# SPDX-License-Identifier: Apache-2.0
"""A snapshot is whole or absent."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 workspace")

from sfseg_ros.nodes.snapshot import SnapshotError, write_snapshot

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def test_a_snapshot_holds_pictures_and_metadata(tmp_path):
    write_snapshot(tmp_path / "shots" / "one", {"image": NOISE}, {"model": "m"})
    assert {p.name for p in (tmp_path / "shots" / "one").iterdir()} == {
        "image.png",
        "metadata.json",
    }
    assert [p.name for p in (tmp_path / "shots").iterdir()] == ["one"]


def test_a_full_disk_leaves_no_half_of_a_snapshot(tmp_path, full_disk):
    pictures = {"mask": NOISE[:2, :2, 0], "image": NOISE}
    with full_disk(5000), pytest.raises(SnapshotError, match="cannot be written") as caught:
        write_snapshot(tmp_path / "shots" / "one", pictures, {})
    assert str(caught.value).endswith("(File too large)")
    assert list((tmp_path / "shots").iterdir()) == []
