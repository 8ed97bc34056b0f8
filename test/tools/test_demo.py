# SPDX-License-Identifier: Apache-2.0
"""The demo as a user starts it: three processes on real rclpy, with a model of known answers."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from rosbags.typesys import Stores, get_typestore

from sfseg_ros.recordings.bag_writer import BagWriter, TopicToWrite
from sfseg_ros.recordings.message_bytes import (
    COMPRESSED_IMAGE,
    IMAGE,
    NS_PER_S,
    compressed_image_cdr,
    labels_from_cdr,
    stamp_of_cdr,
)
from sfseg_ros.recordings.opening import open_recording

ROS2 = get_typestore(Stores.ROS2_JAZZY)
ROOT = Path(__file__).resolve().parents[2]
SIZE = (64, 96)
IMAGES = 12
PALETTE_RGB = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)


def bands_of(index: int) -> np.ndarray:
    """Three vertical bands of classes 0, 1 and 2, uint8 (64, 96), that move with the index."""
    return np.tile(np.roll(np.repeat(np.arange(3, dtype=np.uint8), 32), 4 * index), (SIZE[0], 1))


def truth_of(index: int) -> np.ndarray:
    """The bands, with 255 where the network's upsampling may place an edge between two bands."""
    labels = bands_of(index)
    near_an_edge = np.roll(labels, 4, axis=1) != np.roll(labels, -4, axis=1)
    near_an_edge[:, :4] = near_an_edge[:, -4:] = True
    return np.where(near_an_edge, np.uint8(255), labels)


def bgr_of(index: int) -> np.ndarray:
    return np.ascontiguousarray(PALETTE_RGB[bands_of(index)][:, :, ::-1])


def png_of(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def run_demo(tmp_path: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sfseg_ros.tools", "demo"]
    command += ["--output", str(tmp_path / "out dir")]
    return subprocess.run(
        [*command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "ROS_DOMAIN_ID": "0"},
    )


@pytest.fixture
def truth_bag(tmp_path: Path) -> Path:
    topics = [
        TopicToWrite("/camera/image/compressed", COMPRESSED_IMAGE),
        TopicToWrite("/camera/ground_truth", COMPRESSED_IMAGE),
    ]
    with BagWriter(tmp_path / "drive", topics) as writer:
        for index in range(IMAGES):
            stamp_ns = NS_PER_S + index * NS_PER_S // 5
            for topic, pixels in zip(topics, (bgr_of(index), truth_of(index)), strict=True):
                cdr = compressed_image_cdr(png_of(pixels), "png", stamp_ns, "camera")
                writer.write(topic.name, stamp_ns, cdr)
    return tmp_path / "drive"


def test_a_drive_with_ground_truth_gives_a_bag_a_video_pictures_and_a_report(
    tmp_path, truth_bag, tiny_model
):
    done = run_demo(tmp_path, "--input", truth_bag, "--model", tiny_model)
    assert done.returncode == 0, done.stderr
    report = Path(done.stdout.splitlines()[-1])
    folder = report.parent
    assert folder.parent == (tmp_path / "out dir").resolve()

    assert "mIoU      100.0 % on 12 frames" in done.stderr
    assert "in 12, out 12, replaced 0, rejected 0, lost 0" in done.stderr
    page = report.read_text()
    for text in ("100.0 %", "overlay.mp4", "green", "ground truth", "latency p99", "OpenVINO"):
        assert text in page
    assert page.count("data:image/jpeg;base64,") == 3 * 7
    assert "http://" not in page.replace("http://www.w3.org", "")

    with open_recording(folder / "output_bag") as bag:
        counts = {topic.name: topic.count for topic in bag.topics()}
        masks = list(bag.messages(["/segmentation/mask"]))
    assert counts["/segmentation/mask"] == counts["/segmentation/confidence"] == IMAGES
    assert counts["/camera/image/compressed"] == counts["/camera/ground_truth"] == IMAGES
    assert counts["/segmentation/label_map"] == 1
    certain = truth_of(3) != 255
    assert (labels_from_cdr(masks[3].cdr, IMAGE) == truth_of(3))[certain].all()
    assert all(0 < m.log_ns - stamp_of_cdr(m.cdr) < NS_PER_S for m in masks)

    with av.open(str(folder / "overlay.mp4")) as video:
        assert video.streams.video[0].codec_context.name == "h264"
        assert video.streams.video[0].codec_context.pix_fmt == "yuv420p"
        assert len(list(video.decode(video=0))) == IMAGES
    assert len(list((folder / "pictures").glob("*.jpg"))) == IMAGES
    for log in (folder / "logs").glob("*.log"):
        assert "Traceback" not in log.read_text()


def test_every_picture_of_a_folder_is_segmented_and_no_miou_is_reported(tmp_path, tiny_model):
    folder = tmp_path / "my pictures"
    folder.mkdir()
    for index in range(4):
        cv2.imwrite(str(folder / f"{index}.png"), bgr_of(index))
    (folder / "9.jpg").write_bytes(b"\xff\xd8 no picture")
    done = run_demo(tmp_path, "--input", folder, "--model", tiny_model, "--picture-rate", 5)
    assert done.returncode == 0, done.stderr
    assert "in 5, out 4, replaced 0, rejected 1, lost 0" in done.stderr
    page = Path(done.stdout.splitlines()[-1]).read_text()
    assert "mIoU" not in page
    assert "1 damaged, the first on /camera/image/compressed: JPEG" in done.stderr
    assert "no ground truth" in page


def write_video(path: Path) -> None:
    with av.open("file:" + os.fspath(path.with_name("video.mp4")), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(4):
            frame = av.VideoFrame.from_ndarray(bgr_of(index), format="bgr24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    path.with_name("video.mp4").rename(path)


@pytest.mark.parametrize(
    "name", ["n" * 240 + ".mp4", "caf\udce9.mp4", "line\nbreak.mp4", "2024-01-01T10:20:30.mp4"]
)
def test_a_video_with_an_odd_name_is_played_and_the_last_line_is_the_report(
    tmp_path, tiny_model, monkeypatch, name
):
    """Names of great length, not in UTF-8, with a line break, and like a URL (given relative)."""
    write_video(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = run_demo(tmp_path, "--input", name, "--model", tiny_model)
    assert done.returncode == 0, done.stderr
    assert "in 4, out 4" in done.stderr
    report = Path(done.stdout.splitlines()[-1])
    assert report.is_file()
    assert report.parent.name.isascii()


ODD_FOLDERS = ["a #b: 'c' \"d\"", "x:=y", "caf\udce9", "line\nbreak"]


@pytest.mark.parametrize("name", ODD_FOLDERS)
def test_a_model_in_an_oddly_named_folder_is_found_or_refused_in_one_line(
    tmp_path, truth_bag, tiny_model, name
):
    """ROS reads parameters as YAML, in which `#` begins a comment."""
    model = tmp_path / name / "model"
    shutil.copytree(tiny_model, model)
    done = run_demo(tmp_path, "--input", truth_bag, "--model", model, "--max-seconds", 1)
    assert "Traceback" not in done.stderr
    if name == "caf\udce9":
        assert done.returncode == 1
        assert "not UTF-8, as ROS needs" in done.stderr.splitlines()[-1]
    else:
        assert done.returncode == 0, done.stderr


def test_an_output_with_a_line_break_is_refused(tmp_path, truth_bag, tiny_model):
    arguments = ["--input", truth_bag, "--model", tiny_model, "--output", tmp_path / "two\nlines"]
    done = run_demo(tmp_path, *arguments)
    assert done.returncode == 1
    assert "may not have a line break" in done.stderr
    assert done.stderr.count("\n") == 1


def write_raw_bag(path: Path, names: list[str]) -> Path:
    types = ROS2.types
    with BagWriter(path, [TopicToWrite(name, IMAGE) for name in names]) as writer:
        for index in range(4):
            time = types["builtin_interfaces/msg/Time"](sec=0, nanosec=0)  # stamps never set
            header = types["std_msgs/msg/Header"](stamp=time, frame_id="camera")
            pixels = bgr_of(index)
            message = types[IMAGE](header, *SIZE, "bgr8", 0, SIZE[1] * 3, pixels.reshape(-1))
            for name in names:
                cdr = bytes(ROS2.serialize_cdr(message, IMAGE))
                writer.write(name, NS_PER_S * 9 + index * NS_PER_S // 5, cdr)
    return path


def test_a_bag_of_two_raw_cameras_without_stamps_needs_a_topic_and_then_plays(tmp_path, tiny_model):
    bag = write_raw_bag(tmp_path / "two", ["/left/image", "/right/image"])
    asked = run_demo(tmp_path, "--input", bag, "--model", tiny_model)
    assert asked.returncode == 1
    assert "choose one with TOPIC=: /left/image" in asked.stderr.splitlines()[-1]
    done = run_demo(tmp_path, "--input", bag, "--model", tiny_model, "--topic", "/right/image")
    assert done.returncode == 0, done.stderr
    assert "in 4, out 4, replaced 0, rejected 0, lost 0" in done.stderr


FULL_DISK = """
mount -t tmpfs -o size=400k none "$1" && disk=$1 && shift && head -c "$1" /dev/zero > "$disk/used"
shift && "$@"; status=$?; find "$disk" -empty; exit $status
"""


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"]).returncode != 0,
    reason="needs user namespaces to mount a small disk",
)
@pytest.mark.parametrize("used", [1024, 395 * 1024])
def test_a_full_disk_is_one_line_and_leaves_no_empty_file(tmp_path, tiny_model, used):
    """With space for the logs and part of the bag, and with space for nothing."""
    (tmp_path / "disk").mkdir()
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (12, 160, 240, 3), np.uint8)
    for index in range(12):
        cv2.imwrite(str(pictures / f"{index}.png"), noise[index])
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL_DISK, "sh"]
    command += [str(tmp_path / "disk"), str(used), sys.executable, "-m", "sfseg_ros.tools", "demo"]
    command += ["--output", str(tmp_path / "disk"), "--picture-rate", "5"]
    command += ["--input", str(pictures), "--model", str(tiny_model)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""  # no empty file, no empty folder
    assert "Traceback" not in done.stderr
    assert re.search("disk of .* is full|No space left on device", done.stderr.splitlines()[-1])


def is_running(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_demo_leaves_no_process_behind(tmp_path, truth_bag, tiny_model):
    command = [sys.executable, "-m", "sfseg_ros.tools", "demo", "--output", str(tmp_path / "out")]
    command += ["--input", str(truth_bag), "--model", str(tiny_model)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as demo:
        children: set[str] = set()
        end = time.monotonic() + 60
        while len(children) < 3 and time.monotonic() < end:  # recorder, node, player
            children |= set(Path(f"/proc/{demo.pid}/task/{demo.pid}/children").read_text().split())
            time.sleep(0.05)
        assert len(children) == 3
        demo.kill()
    end = time.monotonic() + 60
    while any(map(is_running, children)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in children if is_running(pid)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "no_such_model"], "model 'no_such_model': no such folder"),
        (["--input", "no/such/bag"], "no/such/bag: no such file or folder"),
        (["--input", "~no_such_user/bag"], "~no_such_user/bag: no such file or folder"),
        (
            ["--backend", "abacus"],
            "segmentation_node ended with status 1; segmentation_node said: ",
        ),
    ],
)
def test_an_error_is_one_line(tmp_path, truth_bag, tiny_model, arguments, message):
    standard = ["--input", truth_bag, "--model", tiny_model]
    done = run_demo(tmp_path, *standard, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
