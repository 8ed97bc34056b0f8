# SPDX-License-Identifier: Apache-2.0
"""The launch file under the real launch system; needs `launch_ros` (from a ROS 2 installation)."""

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="needs launch_ros: source a ROS 2 workspace")
pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 workspace")

from launch.actions import DeclareLaunchArgument
from launch.launch_description_sources import get_launch_description_from_python_launch_file

from sfseg_ros.nodes.parameters import NodeParameters

ROOT = Path(__file__).resolve().parents[2]
FILE = "segmentation.launch.py"


@pytest.mark.parametrize(
    "file", sorted((ROOT / "launch").glob("*.launch.py")), ids=lambda f: f.name
)
def test_every_argument_of_every_launch_file_has_a_description(file):
    description = get_launch_description_from_python_launch_file(str(file))
    arguments = [a for a in description.entities if isinstance(a, DeclareLaunchArgument)]
    assert len(arguments) > len(dataclasses.fields(NodeParameters))
    assert all(len(a.description) > 10 for a in arguments)
    assert len({a.name for a in arguments}) == len(arguments)


def test_every_parameter_of_the_node_is_an_argument_with_a_description():
    description = get_launch_description_from_python_launch_file(str(ROOT / "launch" / FILE))
    arguments = {a.name: a for a in description.entities if isinstance(a, DeclareLaunchArgument)}
    for field in dataclasses.fields(NodeParameters):
        if field.name == "cameras":  # multi_camera.launch.py
            continue
        argument = arguments[field.name]
        assert field.metadata["description"] in argument.description
        if field.type is str:
            assert set(field.metadata["choices"]) <= set(argument.choices or ())
    assert {"image", "name", "namespace", "params_file", "use_sim_time"} < set(arguments)


def test_it_starts_the_node_and_ctrl_c_ends_both(launched, tiny_model):
    output = launched(
        FILE,
        f"model_dir:={tiny_model}",
        "backend:=onnxruntime",
        "image:=/camera/image_raw",
        "image_transport:=compressed",
        "namespace:=front",
        "name:=eye",
        until="waiting for images",
    )
    assert "[front.eye]: waiting for images on /camera/image_raw/compressed" in output
    assert f"profile: {ROOT / 'config' / 'fastdds_large_images.xml'}" in output
    assert "Traceback" not in output
    assert "process has finished cleanly" in output


def test_a_middleware_profile_of_the_user_is_kept(launched, tmp_path):
    own = tmp_path / "own.xml"
    own.write_text('<profiles xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"/>')
    output = launched(FILE, "autostart:=false", until="profile:", profile=str(own))
    assert f"profile: {own}" in output


def test_launch_refuses_a_value_that_is_not_a_choice(launched):
    assert "cuda" in launched(FILE, "backend:=cuda", status=1)
