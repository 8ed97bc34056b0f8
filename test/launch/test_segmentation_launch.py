# SPDX-License-Identifier: Apache-2.0
"""The launch file under the real `launch` and `launch_ros` (from a ROS 2 installation)."""

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="needs launch_ros: source a ROS 2 workspace")
pytest.importorskip("rclpy", reason="needs rclpy: source a ROS 2 workspace")

from launch.actions import DeclareLaunchArgument
from launch.launch_description_sources import get_launch_description_from_python_launch_file

from sfseg_ros.nodes.parameters import NodeParameters

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / "launch" / "segmentation.launch.py"
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")

# What `ros2 launch` does, without ros2cli.
LAUNCH = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
arguments = [tuple(text.split(":=")) for text in sys.argv[2:]]
service = LaunchService()
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(sys.argv[1]), launch_arguments=arguments)]))
sys.exit(service.run())
"""
# Stands where setup.py installs the console script.
EXECUTABLE = """#!{python}
import os
print("profile:", os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE"), flush=True)
from sfseg_ros.nodes.segmentation_node import main
main()
"""


@pytest.fixture
def prefix(tmp_path):
    """An install prefix in which launch_ros finds the package and its executable."""
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "sfseg_ros").touch()
    (tmp_path / "share" / "sfseg_ros").mkdir()
    executable = tmp_path / "lib" / "sfseg_ros" / "segmentation_node"
    executable.parent.mkdir(parents=True)
    executable.write_text(EXECUTABLE.format(python=sys.executable))
    executable.chmod(0o755)
    return tmp_path


@pytest.fixture
def launched(prefix):
    """Launch, send SIGINT where and when `until` is printed, expect `status`, return the output."""

    def launched(*arguments, until=None, status=0, profile=None):
        environment = {k: v for k, v in os.environ.items() if k not in PROFILE_VARIABLES}
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment |= {
            "AMENT_PREFIX_PATH": os.pathsep.join(
                [str(prefix), *filter(None, [os.environ.get("AMENT_PREFIX_PATH")])]
            ),
            "PYTHONPATH": os.pathsep.join(paths),
            "ROS_DOMAIN_ID": str(10 + os.getpid() % 90),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
            "ROS_LOG_DIR": str(prefix / "log"),
            "PYTHONUNBUFFERED": "1",
        }
        if profile:
            environment[PROFILE_VARIABLES[0]] = profile
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(LAUNCH_FILE), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        lines = []
        try:
            for line in process.stdout:
                lines.append(line)
                if until and until in line:
                    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C in a terminal does
                    until = None
            assert process.wait(30) == status, "".join(lines)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return "".join(lines)

    return launched


def test_every_parameter_of_the_node_is_an_argument_with_a_description():
    description = get_launch_description_from_python_launch_file(str(LAUNCH_FILE))
    arguments = {a.name: a for a in description.entities if isinstance(a, DeclareLaunchArgument)}
    for field in dataclasses.fields(NodeParameters):
        argument = arguments[field.name]
        assert field.metadata["description"] in argument.description
        assert set(field.metadata["choices"]) <= set(argument.choices or ())
    assert {"image", "name", "namespace", "params_file", "use_sim_time"} < set(arguments)


def test_it_starts_the_node_and_ctrl_c_ends_both(launched, tiny_model):
    output = launched(
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


def test_a_middleware_profile_that_the_user_has_set_stays(launched, tmp_path):
    own = tmp_path / "own.xml"
    own.write_text('<profiles xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"/>')
    output = launched("autostart:=false", until="profile:", profile=str(own))
    assert f"profile: {own}" in output


def test_a_value_that_is_no_choice_is_refused_by_launch(launched):
    output = launched("backend:=cuda", status=1)
    assert 'Argument "backend" provided value "cuda" is not valid' in output
    assert "process started" not in output
