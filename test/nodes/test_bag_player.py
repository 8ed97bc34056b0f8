# SPDX-License-Identifier: Apache-2.0
"""Player and recorder as processes on real rclpy: the recorder writes the messages of the player,
and only their stamps differ."""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy

from sfseg_ros.nodes import bag_recorder
from sfseg_ros.recordings.bag_writer import BagWriter, TopicToWrite
from sfseg_ros.recordings.message_bytes import (
    COMPRESSED_IMAGE,
    IMAGE,
    NS_PER_S,
    compressed_image_cdr,
    stamp_of_cdr,
)
from sfseg_ros.recordings.opening import open_recording
from sfseg_ros.recordings.timeline import Timeline
from sfseg_ros.tools.processes import Process, process, ros_environment

CAMERA, TRUTH = "/camera/image/compressed", "/camera/ground_truth"
PERIOD_NS = NS_PER_S // 20
FIRST_NS = 1_500_000_000 * NS_PER_S + 999_999_999
IMAGES = 10


@pytest.fixture
def environment() -> dict[str, str]:
    return ros_environment()


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    path = tmp_path / "drive"
    topics = [TopicToWrite(name, COMPRESSED_IMAGE) for name in (CAMERA, TRUTH)]
    rng = np.random.default_rng(0)
    with BagWriter(path, topics) as writer:
        for index in range(IMAGES):
            stamp_ns = FIRST_NS + index * PERIOD_NS
            for topic in (CAMERA, TRUTH):
                pixels = rng.integers(0, 255, (24, 32), np.uint8)
                png = cv2.imencode(".png", pixels)[1].tobytes()
                cdr = compressed_image_cdr(png, "png", stamp_ns, "camera")
                writer.write(topic, stamp_ns + 1_000_000, cdr)
    return path


def messages_of(bag: Path, topic: str) -> list:
    with open_recording(bag) as reader:
        return list(reader.messages([topic]))


def run_player(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sfseg_ros.nodes.bag_player", *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def recorder(tmp_path: Path, environment: dict[str, str], *options: str):
    return process(
        "bag_recorder", [str(tmp_path / "out"), *options], tmp_path / "recorder.log", environment
    )


def wait_for_line(started: Process, line: str) -> None:
    deadline = time.monotonic() + 20
    while line not in started.log_lines():
        assert started.popen.poll() is None, started.last_words()
        assert time.monotonic() < deadline, started.last_words()
        time.sleep(0.05)


def test_the_recorder_gets_every_message_with_all_stamps_shifted_by_one_constant(
    tmp_path, bag, environment
):
    both = ["--topic", CAMERA, COMPRESSED_IMAGE, "--topic", TRUTH, COMPRESSED_IMAGE]
    with recorder(tmp_path, environment, *both) as recording:
        before_ns = time.time_ns()
        played = run_player(environment, bag, "--also", TRUTH, "--result", tmp_path / "played.json")
        assert played.returncode == 0, played.stderr
        time.sleep(0.5)
        recording.stop()
    what = json.loads((tmp_path / "played.json").read_text())
    timeline = Timeline(what["first_ns"], what["start_ns"], what["rate"])
    assert (what["images"], what["clock"], what["first_ns"]) == (IMAGES, "header", FIRST_NS)
    for topic in (CAMERA, TRUTH):
        sent, received = messages_of(bag, topic), messages_of(tmp_path / "out", topic)
        assert len(received) == IMAGES
        for before, after in zip(sent, received, strict=True):
            assert after.cdr[12:] == before.cdr[12:]
            stamp_ns = stamp_of_cdr(after.cdr)
            assert stamp_ns == timeline.played_ns(stamp_of_cdr(before.cdr)) > before_ns
            assert 0 <= after.log_ns - stamp_ns < NS_PER_S // 2  # real time, current stamps


def test_the_rate_stretches_the_times_between_stamps(tmp_path, bag, environment):
    with recorder(tmp_path, environment, "--topic", CAMERA, COMPRESSED_IMAGE) as recording:
        played = run_player(environment, bag, "--rate", 2)
        assert played.returncode == 0, played.stderr
        time.sleep(0.5)
        recording.stop()
    stamps = [stamp_of_cdr(m.cdr) for m in messages_of(tmp_path / "out", CAMERA)]
    assert np.diff(stamps).tolist() == [PERIOD_NS // 2] * (IMAGES - 1)


def test_a_loop_plays_until_interrupted_with_increasing_stamps(tmp_path, bag, environment):
    options = ["--topic", CAMERA, COMPRESSED_IMAGE, "--wait-for", CAMERA]
    with (
        recorder(tmp_path, environment, *options) as recording,
        process("bag_player", [str(bag), "--loop"], tmp_path / "player.log", environment) as player,
    ):
        wait_for_line(recording, "ready")
        time.sleep(2.0)
        player.stop()
        assert player.popen.returncode == 130
        recording.stop()
    assert "Traceback" not in (tmp_path / "player.log").read_text()
    stamps = [stamp_of_cdr(m.cdr) for m in messages_of(tmp_path / "out", CAMERA)]
    assert len(stamps) > IMAGES
    assert min(np.diff(stamps)) > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_even_as_a_background_job_of_a_shell(tmp_path, bag, environment, number):
    """A shell without job control, as in a script, starts `command &` with SIGINT ignored."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children inherit ignored signals
    try:
        options = [str(bag), "--loop", "--listeners", "0"]
        with process("bag_player", options, tmp_path / "player.log", environment) as player:
            signal.signal(signal.SIGINT, handler)
            wait_for_line(player, f"played {IMAGES} images")
            player.popen.send_signal(number)
            player.popen.send_signal(number)  # again: the cleanup must not leave a traceback
            assert player.popen.wait(10) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert "Traceback" not in (tmp_path / "player.log").read_text()


def test_damaged_messages_are_skipped_and_reported_in_one_line(tmp_path, bag, environment):
    good = messages_of(bag, CAMERA)
    with BagWriter(tmp_path / "damaged", [TopicToWrite(CAMERA, COMPRESSED_IMAGE)]) as writer:
        for index, message in enumerate(good):
            cdr = message.cdr[:-1] if index in (0, 4) else message.cdr
            writer.write(CAMERA, message.log_ns, cdr)
    with recorder(tmp_path, environment, "--topic", CAMERA, COMPRESSED_IMAGE) as recording:
        played = run_player(environment, tmp_path / "damaged")
        assert played.returncode == 0, played.stderr
        time.sleep(0.5)
        recording.stop()
    assert f"not played: 2 damaged, the first on {CAMERA}: " in played.stderr.splitlines()[-1]
    received = [m.cdr[12:] for m in messages_of(tmp_path / "out", CAMERA)]
    assert received == [good[k].cdr[12:] for k in (1, 2, 3, 5, 6, 7, 8, 9)]


def test_a_bag_whose_images_are_all_damaged_is_refused_in_one_line(tmp_path, environment):
    with BagWriter(tmp_path / "damaged", [TopicToWrite(CAMERA, COMPRESSED_IMAGE)]) as writer:
        writer.write(CAMERA, FIRST_NS, b"\0\1\0\0" + b"\xff" * 60)
    played = run_player(environment, tmp_path / "damaged", "--listeners", 0)
    assert played.returncode == 1
    (line,) = played.stderr.strip().splitlines()
    assert f"no image on {CAMERA}; 1 damaged, the first on {CAMERA}: " in line


def test_without_subscribers_the_error_says_what_to_check(bag, environment):
    played = run_player(environment, bag, "--timeout", 0.3)
    assert played.returncode == 1
    assert "0 of 1 listeners on /camera/image/compressed" in played.stderr
    assert "Traceback" not in played.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--topic", "/no"], "no images on /no"), (["--also", "/no"], "no topic /no")],
)
def test_a_topic_missing_from_the_bag_is_refused_in_one_line(bag, environment, arguments, message):
    played = run_player(environment, bag, *arguments)
    assert played.returncode == 1
    assert message in played.stderr
    assert len(played.stderr.strip().splitlines()) == 1


def interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def shut_down(*arguments: object) -> None:
    rclpy.shutdown()  # as rclpy's signal handler does
    raise RuntimeError("the given context is not valid")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("start_rclpy", interrupted),
        ("BagRecorder", interrupted),
        ("BagRecorder", shut_down),
        ("BagRecorder.print_when_ready", interrupted),
        ("BagRecorder.print_when_ready", shut_down),
    ],
)
def test_the_recorder_interrupted_before_it_records_ends_without_a_traceback(
    tmp_path, monkeypatch, name, how
):
    monkeypatch.setattr(f"sfseg_ros.nodes.bag_recorder.{name}", how)
    handler = signal.getsignal(signal.SIGINT)
    try:
        status = bag_recorder.main([str(tmp_path / "out"), "--topic", CAMERA, COMPRESSED_IMAGE])
    finally:
        signal.signal(signal.SIGINT, handler)  # the recorder leaves it ignored
    assert status in (0, 130)
    assert [t.name for t in threading.enumerate() if t.name == "bag writer"] == []


def test_the_recorder_refuses_a_folder_that_exists(tmp_path, environment):
    (tmp_path / "out").mkdir()
    with recorder(tmp_path, environment, "--topic", CAMERA, COMPRESSED_IMAGE) as recording:
        assert recording.popen.wait(20) == 1
    assert "cannot be written" in recording.last_words()
    assert "Traceback" not in (tmp_path / "recorder.log").read_text()


def test_the_recorder_refuses_a_message_type_that_is_not_installed(tmp_path, environment):
    kind = "stereo_msgs/msg/DisparityImage"
    broken = tmp_path / "packages" / "stereo_msgs"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("")  # hides an installed package
    path = f"{broken.parent}:{environment['PYTHONPATH']}"
    with recorder(tmp_path, environment | {"PYTHONPATH": path}, "--topic", "/d", kind) as recording:
        assert recording.popen.wait(20) == 1
    assert f"message type {kind} is not installed" in recording.last_words()
    assert "Traceback" not in (tmp_path / "recorder.log").read_text()


@pytest.mark.parametrize("module", ["bag_player", "bag_recorder"])
@pytest.mark.parametrize(
    ("ros_arguments", "environment_of_ros", "message"),
    [
        (["-p", "nonsense"], {}, "parameter override rule: '-p nonsense'"),
        (["--params-file", "no_such_file.yaml"], {}, "no_such_file.yaml"),
        (["--nonsense"], {}, "--nonsense"),
        ([], {"ROS_DOMAIN_ID": "robot"}, "ROS_DOMAIN_ID"),
    ],
)
def test_an_error_of_ros_at_start_is_one_line_and_status_1(
    module, environment, ros_arguments, environment_of_ros, message
):
    command = [sys.executable, "-m", f"sfseg_ros.nodes.{module}", "x", "--topic", "/x"]
    command += [IMAGE] if module == "bag_recorder" else []
    ended = subprocess.run(
        [*command, "--ros-args", *ros_arguments],
        env=environment | environment_of_ros,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 1
    (line,) = ended.stderr.strip().splitlines()
    assert line.startswith(f"{module}: ")
    assert message in line
