# SPDX-License-Identifier: Apache-2.0
"""The replay under the real launch system; needs `launch_ros` (from a ROS 2 installation)."""

from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="needs launch_ros: source a ROS 2 workspace")
pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 workspace")

from sfseg_ros.recordings.opening import open_recording

FILE = "replay.launch.py"
BAG = Path(__file__).resolve().parents[1] / "data" / "town_drive"


def test_it_plays_the_bag_records_the_outputs_and_ends(launched, tiny_model, tmp_path):
    new = tmp_path / "new_bag"
    output = launched(
        FILE,
        f"bag:={BAG}",
        "rate:=5.0",
        f"record:={new}",
        "record_outputs:=mask overlay camera_info",
        "namespace:=test",
        f"model_dir:={tiny_model}",
        "backend:=onnxruntime",
    )
    assert "Traceback" not in output
    assert "exception" not in output
    with open_recording(BAG) as reader:
        images = {t.name: t.count for t in reader.topics()}["/camera/image/compressed"]
    with open_recording(new) as reader:
        counts = {t.name: t.count for t in reader.topics()}
    assert 0 < counts["/test/segmentation/mask"] <= images
    assert counts["/test/segmentation/overlay"] > 0
    # The first masks may be published before the first calibration arrives.
    assert counts["/test/segmentation/mask"] - counts["/test/segmentation/camera_info"] <= 2
    assert counts["/test/segmentation/label_map"] == 1
    assert counts["/diagnostics"] > 0


def test_an_invalid_bag_is_one_line(launched):
    output = launched(FILE, "bag:=/no/such/bag", status=1)
    assert "/no/such/bag: not a recording" in output
    assert "Traceback" not in output


def test_an_output_that_does_not_exist_is_one_line(launched, tmp_path):
    arguments = (f"record:={tmp_path / 'new'}", "record_outputs:=mask depth")
    output = launched(FILE, f"bag:={BAG}", *arguments, status=1)
    assert "record_outputs: no depth, expected some of mask, confidence" in output


def test_rosbag2_plays_with_its_clock(launched, launch_environment, tiny_model, tmp_path):
    ros2 = tmp_path / "bin" / "ros2"  # rosbag2 itself is not on PyPI
    ros2.parent.mkdir()
    ros2.write_text('#!/bin/sh\necho "ros2 $*"\n')
    ros2.chmod(0o755)
    launch_environment["PATH"] = f"{ros2.parent}:{launch_environment['PATH']}"
    arguments = ("player:=rosbag2", "use_sim_time:=true", f"model_dir:={tiny_model}")
    output = launched(FILE, f"bag:={BAG}", "backend:=onnxruntime", *arguments)
    assert f"ros2 bag play {BAG} --clock --rate 1.0" in output
