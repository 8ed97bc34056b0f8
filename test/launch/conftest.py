# SPDX-License-Identifier: Apache-2.0
"""Runs launch files as `ros2 launch` does, without ros2cli, in an install prefix for the test."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sfseg_ros.installed_files import PROFILE_VARIABLES
from sfseg_ros.tools.processes import unused_domain

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 60.0

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
# Replaces the console script that setup.py installs.
EXECUTABLE = """#!{python}
import os, sys
print("profile:", os.environ.get("{variable}"), flush=True)
from sfseg_ros.nodes.{name} import main
sys.exit(main())
"""


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """An install prefix in which launch_ros finds the package and its executables."""
    index = tmp_path / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "sfseg_ros").touch()
    (tmp_path / "share" / "sfseg_ros").mkdir()
    folder = tmp_path / "lib" / "sfseg_ros"
    folder.mkdir(parents=True)
    for name in ("segmentation_node", "bag_player", "bag_recorder"):
        executable = folder / name
        executable.write_text(
            EXECUTABLE.format(python=sys.executable, name=name, variable=PROFILE_VARIABLES[0])
        )
        executable.chmod(0o755)
    return tmp_path


@pytest.fixture
def launch_environment(prefix: Path) -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k not in PROFILE_VARIABLES}
    ours = {"AMENT_PREFIX_PATH": str(prefix), "PYTHONPATH": str(ROOT)}
    for name, path in ours.items():
        environment[name] = os.pathsep.join(filter(None, [path, os.environ.get(name)]))
    return environment | {
        "ROS_DOMAIN_ID": str(unused_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "ROS_LOG_DIR": str(prefix / "log"),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def launched(launch_environment: dict[str, str]) -> Iterator[Callable[..., str]]:
    """Launch a file of launch/ and return its output. With `until`, send Ctrl-C when this text has
    been printed; otherwise the launch must end by itself. It must exit with `status`."""
    processes: list[subprocess.Popen[str]] = []

    def launched(
        file: str, *arguments: str, until: str = "", status: int = 0, profile: str = ""
    ) -> str:
        own = {PROFILE_VARIABLES[0]: profile} if profile else {}
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(ROOT / "launch" / file), *arguments],
            env=launch_environment | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        # The expected text may never be printed.
        limit = threading.Timer(LIMIT_S, os.killpg, (process.pid, signal.SIGKILL))
        limit.start()
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if until and until in line:
                os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C in a terminal
                lines.extend(process.stdout)
        returned = process.wait()
        limit.cancel()
        assert returned == status, "".join(lines)
        return "".join(lines)

    yield launched
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
