# SPDX-License-Identifier: Apache-2.0
import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from sfseg_ros.tools import processes

PARTICIPANT = """
import rclpy
rclpy.init(domain_id=57)
node = rclpy.create_node("occupant")
print("there", flush=True)
input()
"""


@pytest.mark.skipif(find_spec("rclpy") is None, reason="needs rclpy")
def test_a_domain_in_use_is_not_taken(monkeypatch):
    monkeypatch.setattr(random, "sample", lambda domains, number: [57, 58])
    assert processes.unused_domain() == 57
    with subprocess.Popen(
        [sys.executable, "-c", PARTICIPANT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as occupant:
        assert occupant.stdout.readline() == "there\n"
        assert processes.unused_domain() == 58
        occupant.communicate("\n")
    assert processes.unused_domain() == 57


def children_of(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition, seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


PARENT = """
import pathlib, sys, time
from sfseg_ros.tools.processes import process, ros_environment
topic = ["--topic", "/image", "sensor_msgs/msg/Image", "--wait-for", "/image"]
log = pathlib.Path(sys.argv[1]) / "recorder.log"
with process("bag_recorder", [sys.argv[1] + "/bag", *topic], log, ros_environment()) as started:
    print(started.popen.pid, flush=True)
    time.sleep(300)
"""


@pytest.mark.skipif(find_spec("rclpy") is None, reason="needs rclpy")
def test_the_nodes_of_a_killed_parent_end_and_complete_their_bag(tmp_path):
    """The recorder ends in order: the kernel sends it SIGTERM, not SIGKILL."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as parent:
        recorder = int(parent.stdout.readline())
        assert children_of(parent.pid) == [recorder]
        assert wait_until(lambda: any((tmp_path / "bag").glob("*.mcap")))
        time.sleep(1.0)  # its signal handlers come after its bag
        parent.kill()
    assert wait_until(lambda: not is_running(recorder), 30)
    assert (tmp_path / "bag" / "metadata.yaml").is_file()


def test_a_child_whose_parent_has_ended_does_not_start(tmp_path):
    (tmp_path / "started.py").write_text("open('here', 'w')\n")
    command = [sys.executable, "-m", "sfseg_ros.tools.end_with_parent"]
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{Path(__file__).resolve().parents[2]}"}
    for pid, status in ((os.getpid(), 0), (1, 128 + signal.SIGTERM)):
        (tmp_path / "here").unlink(missing_ok=True)
        done = subprocess.run(
            [*command, str(pid), "started"], cwd=tmp_path, env=environment, check=False
        )
        assert done.returncode == status
        assert (tmp_path / "here").exists() == (status == 0)
