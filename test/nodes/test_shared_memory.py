# SPDX-License-Identifier: Apache-2.0
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from rclpy.utilities import get_rmw_implementation_identifier

from sfseg_ros.nodes.shared_memory import FOLDER, SEGMENT, remove_dead_segments
from sfseg_ros.tools.processes import unused_domain

NAME = "fastrtps_0123456789abcdef"


def age(path, seconds=3600.0):
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)


@pytest.fixture
def dead(tmp_path):
    """The segment and lock file of a process that was killed an hour ago."""
    segment, lock = tmp_path / NAME, tmp_path / f"{NAME}_el"
    segment.write_bytes(b"x" * 100_000)
    lock.touch()
    age(segment)
    age(lock)
    return segment, lock


def test_the_segment_and_lock_of_a_dead_owner_are_removed(dead, tmp_path):
    others = [tmp_path / name for name in ("fastrtps_port7411", "fastrtps_port7411_el", "mine")]
    for path in others:
        path.touch()
        age(path)
    number, size = remove_dead_segments(tmp_path)
    assert (number, size >= 100_000) == (1, True)
    assert sorted(tmp_path.iterdir()) == sorted(others)
    assert remove_dead_segments(tmp_path) == (0, 0)


def test_a_locked_segment_stays(dead, tmp_path):
    with dead[1].open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert remove_dead_segments(tmp_path) == (0, 0)
    assert all(path.exists() for path in dead)


def make_unusual(case, segment, lock, monkeypatch):
    target = segment.with_name("target")
    if case == "no lock file":
        lock.unlink()
    elif case == "a young segment":
        age(segment, 5)
    elif case == "a young lock":
        age(lock, 5)
    elif case == "another user's":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    elif case == "another name":
        segment.rename(segment.with_name("fastrtps_0123456789abcdeg"))
    elif case == "a linked segment":
        segment.rename(target)
        segment.symlink_to(target)
        age(segment)
    elif case == "a linked lock":
        lock.rename(target)
        lock.symlink_to(target)
    elif case == "a lock that is a FIFO":
        lock.unlink()
        os.mkfifo(lock)
        age(lock)


@pytest.mark.parametrize(
    "case",
    [
        "no lock file",
        "a young segment",
        "a young lock",
        "another user's",
        "another name",
        "a linked segment",
        "a linked lock",
        "a lock that is a FIFO",
    ],
)
def test_an_unusual_segment_stays(dead, tmp_path, monkeypatch, case):
    make_unusual(case, *dead, monkeypatch)
    before = sorted(tmp_path.iterdir())
    assert remove_dead_segments(tmp_path) == (0, 0)
    assert sorted(tmp_path.iterdir()) == before


def test_a_missing_folder_has_no_segments(tmp_path):
    assert remove_dead_segments(tmp_path / "none") == (0, 0)


@pytest.fixture
def start(tiny_model):
    """Starts a node; returns the process, its segments in /dev/shm and its output."""
    processes = []
    environment = os.environ | {
        "ROS_DOMAIN_ID": str(unused_domain()),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }
    command = [sys.executable, "-m", "sfseg_ros.nodes.segmentation_node", "--ros-args"]
    command += ["-p", f"model_dir:={tiny_model}", "-p", "backend:=onnxruntime"]

    def start():
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        output = ""
        while "waiting for images" not in output:
            output += process.stderr.readline()
        lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        names = {line.split("/dev/shm/")[1] for line in lines if "/dev/shm/" in line}
        segments = [FOLDER / name for name in names if SEGMENT.fullmatch(name)]
        assert segments
        return process, segments, output

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.skipif(
    "fastrtps" not in get_rmw_implementation_identifier(), reason="the middleware is not Fast DDS"
)
def test_a_node_removes_segments_of_a_killed_node_but_not_of_a_living_one(start, monkeypatch):
    killed, left, _ = start()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    living, in_use, _ = start()
    left = [segment for segment in left if segment not in in_use]
    assert all(segment.exists() for segment in left), "Fast DDS cleaned up by itself"
    for segment in (*left, *in_use):
        age(segment)
        age(segment.with_name(f"{segment.name}_el"))
    _, _, output = start()
    assert not any(segment.exists() for segment in left)
    assert not any(segment.with_name(f"{segment.name}_el").exists() for segment in left)
    assert all(segment.exists() for segment in in_use)
    assert living.poll() is None
    assert "of shared memory removed" in output
