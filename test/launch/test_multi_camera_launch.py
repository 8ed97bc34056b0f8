# SPDX-License-Identifier: Apache-2.0
"""Several cameras under the real launch system; needs `launch_ros` (from a ROS 2 installation)."""

import pytest

pytest.importorskip("launch_ros", reason="needs launch_ros: source a ROS 2 workspace")
pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 workspace")

FILE = "multi_camera.launch.py"
CAMERAS = """
cameras:
  - name: front
    image: /camera_1/image_raw
    horizon: 0.25
  - name: rear
    image: /camera_2/image_raw
    image_transport: compressed
    max_rate: 10
"""


def test_one_node_has_all_cameras_of_the_list(launched, tiny_model, tmp_path):
    cameras = tmp_path / "cameras.yaml"
    cameras.write_text(CAMERAS)
    output = launched(
        FILE,
        f"cameras_file:={cameras}",
        f"model_dir:={tiny_model}",
        "backend:=onnxruntime",
        until="/camera_2/image_raw/compressed",
    )
    assert "waiting for images on" in output
    assert "/camera_1/image_raw" in output
    assert "Traceback" not in output
    assert output.count("process has finished cleanly") == 1


def test_a_misspelt_parameter_is_one_line(launched, tmp_path):
    cameras = tmp_path / "cameras.yaml"
    cameras.write_text("cameras:\n  - {name: front, max_rtae: 10}\n")
    output = launched(FILE, f"cameras_file:={cameras}", status=1)
    assert f"{cameras}: camera front: no 'max_rtae', expected one of name, image," in output
    assert "Traceback" not in output
