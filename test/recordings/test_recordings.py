# SPDX-License-Identifier: Apache-2.0
"""Recordings: written messages are read back, and playing changes only their stamps."""

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from rosbags import rosbag1
from rosbags.typesys import Stores, get_typestore

from sfseg_ros.errors import BagError
from sfseg_ros.recordings.bag_writer import BagWriter, TopicToWrite
from sfseg_ros.recordings.camera_bags import bag_from_folder, bag_from_video
from sfseg_ros.recordings.message_bytes import (
    COMPRESSED_IMAGE,
    IMAGE,
    NS_PER_S,
    compressed_image_cdr,
    rgb_from_cdr,
    stamp_of_cdr,
)
from sfseg_ros.recordings.opening import find_recording, open_recording
from sfseg_ros.recordings.recording import (
    Message,
    Topic,
    choose_image_topic,
    find_ground_truth_topic,
)
from sfseg_ros.recordings.timeline import Timeline, choose_clock, with_times
from sfseg_ros.recordings.video import VideoWriter

ROS2 = get_typestore(Stores.ROS2_JAZZY)
STAMP_NS = 1_700_000_000 * NS_PER_S + 123_456_789


def png_of(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def picture_cdr(stamp_ns: int, value: int = 7) -> bytes:
    pixels = np.full((4, 6, 3), value, np.uint8)
    return compressed_image_cdr(png_of(pixels), "png", stamp_ns, "camera")


def image_message(store, stamp_ns: int, encoding: str, pixels: np.ndarray, step: int, **header):
    types = store.types
    seconds, nanoseconds = divmod(stamp_ns, NS_PER_S)
    return types[IMAGE](
        header=types["std_msgs/msg/Header"](
            stamp=types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds),
            frame_id="camera",
            **header,
        ),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=step,
        data=pixels.reshape(-1),
    )


def write_bag(path: Path, stamps_ns: list[int], topic: str = "/camera/image/compressed") -> Path:
    with BagWriter(path, [TopicToWrite(topic, COMPRESSED_IMAGE)]) as writer:
        for index, stamp_ns in enumerate(stamps_ns):
            writer.write(topic, STAMP_NS + index, picture_cdr(stamp_ns, index))
    return path


# --- times -------------------------------------------------------------------------------------


def test_header_stamps_are_the_clock_if_they_increase():
    def messages(*stamps: int) -> list[Message]:
        return [Message("/c", COMPRESSED_IMAGE, k, picture_cdr(s)) for k, s in enumerate(stamps)]

    assert choose_clock(messages(5, 6, 9)) == "header"
    assert choose_clock(messages(0, 0, 0)) == "log"
    assert choose_clock(messages(5, 9, 6)) == "log"
    assert choose_clock(messages(0)) == "log"


def test_only_the_first_of_several_messages_with_one_stamp_is_played_per_topic():
    stamps = [("/a", 5), ("/b", 5), ("/a", 5), ("/a", 4), ("/a", 6)]
    messages = [Message(name, COMPRESSED_IMAGE, 0, picture_cdr(s)) for name, s in stamps]
    played = [(m.topic, time_ns) for time_ns, m in with_times(messages, "header")]
    assert played == [("/a", 5), ("/b", 5), ("/a", 6)]


def test_rate_1_shifts_all_stamps_by_the_same_number_of_nanoseconds():
    timeline = Timeline(first_ns=1_600_000_000_000_000_001, start_ns=1_700_000_000_000_000_003)
    shifts = {timeline.played_ns(t) - t for t in range(timeline.first_ns, timeline.first_ns + 9)}
    assert shifts == {100_000_000_000_000_002}
    assert Timeline(10, 100, rate=2.0).played_ns(30) == 110


# --- bags ---------------------------------------------------------------------------------------


def test_written_messages_are_read_back_in_order(tmp_path):
    bag = write_bag(tmp_path / "bag", [10, 20, 30])
    with open_recording(bag) as reader:
        assert reader.topics() == [Topic("/camera/image/compressed", COMPRESSED_IMAGE, 3)]
        messages = list(reader.messages(["/camera/image/compressed"]))
    assert [stamp_of_cdr(m.cdr) for m in messages] == [10, 20, 30]
    assert [m.log_ns - STAMP_NS for m in messages] == [0, 1, 2]
    assert (rgb_from_cdr(messages[2].cdr, COMPRESSED_IMAGE) == 2).all()


def test_the_metadata_marks_a_latched_topic(tmp_path):
    with BagWriter(
        tmp_path / "bag", [TopicToWrite("/names", "std_msgs/msg/String", latched=True)]
    ) as writer:
        text = ROS2.types["std_msgs/msg/String"](data="{}")
        writer.write("/names", 1, bytes(ROS2.serialize_cdr(text, "std_msgs/msg/String")))
    metadata = (tmp_path / "bag" / "metadata.yaml").read_text()
    assert "storage_identifier: mcap" in metadata
    assert "durability: 1" in metadata or "durability: transient_local" in metadata


def test_an_existing_folder_is_not_overwritten(tmp_path):
    bag = write_bag(tmp_path / "bag", [1])
    with pytest.raises(BagError, match="cannot be written"):
        write_bag(bag, [1])


def test_an_mcap_file_without_metadata_is_a_recording(tmp_path):
    bag = write_bag(tmp_path / "bag", [10, 20])
    file = next(bag.glob("*.mcap"))
    (bag / "metadata.yaml").unlink()
    assert find_recording(bag) == find_recording(file) == file
    with open_recording(bag) as reader:
        assert reader.topics()[0].count == 2


def test_a_ros1_bag_is_read_as_ros2_messages(tmp_path):
    ros1 = get_typestore(Stores.ROS1_NOETIC)
    pixels = np.arange(18, dtype=np.uint8).reshape(2, 3, 3)
    message = image_message(ros1, STAMP_NS, "rgb8", pixels, step=9, seq=3)
    with rosbag1.Writer(tmp_path / "old.bag") as writer:
        connection = writer.add_connection("/camera/image_raw", IMAGE, typestore=ros1)
        writer.write(connection, STAMP_NS, ros1.serialize_ros1(message, IMAGE))
    with open_recording(tmp_path / "old.bag") as reader:
        assert choose_image_topic(reader.topics()).name == "/camera/image_raw"
        (read,) = reader.messages(["/camera/image_raw"])
    assert stamp_of_cdr(read.cdr) == STAMP_NS
    assert (rgb_from_cdr(read.cdr, IMAGE) == pixels).all()


@pytest.mark.parametrize("content", [b"", b"no bag at all, only some text" * 10])
def test_a_file_that_is_not_a_recording_is_refused_in_one_line(tmp_path, content):
    file = tmp_path / "broken.mcap"
    file.write_bytes(content)
    with pytest.raises(BagError) as refused:
        open_recording(file)
    assert "cannot be read as a recording" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_truncated_recording_is_refused_in_one_line(tmp_path):
    bag = write_bag(tmp_path / "bag", list(range(1, 50)))
    file = next(bag.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BagError, match="recording"), open_recording(file) as reader:
        list(reader.messages(["/camera/image/compressed"]))


# --- topics -------------------------------------------------------------------------------------


def test_the_only_camera_is_chosen_and_its_compressed_topic_is_preferred():
    raw, compressed = Topic("/c/image_raw", IMAGE, 5), Topic("/c/image_raw/compressed", IMAGE, 5)
    compressed = Topic("/c/image_raw/compressed", COMPRESSED_IMAGE, 5)
    truth = Topic("/c/ground_truth", COMPRESSED_IMAGE, 5)
    depth = Topic("/c/depth/image_rect", IMAGE, 5)
    silent = Topic("/rear/image_raw", IMAGE, 0)
    other = Topic("/imu", "sensor_msgs/msg/Imu", 900)
    topics = [depth, truth, raw, compressed, silent, other]
    assert choose_image_topic(topics) == compressed
    assert choose_image_topic(topics, "/c/image_raw") == raw
    assert find_ground_truth_topic(topics) == truth
    assert find_ground_truth_topic([raw, other]) is None


def test_an_error_lists_the_topics_if_there_are_several_cameras():
    topics = [Topic("/left/image", IMAGE, 5), Topic("/right/image", IMAGE, 6)]
    with pytest.raises(BagError, match=r"TOPIC=.*/left/image.*/right/image"):
        choose_image_topic(topics)
    with pytest.raises(BagError, match="no images on /top; image topics.*/left/image"):
        choose_image_topic(topics, "/top")
    with pytest.raises(BagError, match="no topic with images.*/imu"):
        choose_image_topic([Topic("/imu", "sensor_msgs/msg/Imu", 9)])


# --- folders and videos -------------------------------------------------------------------------


def test_a_folder_of_pictures_becomes_a_bag_sorted_by_name(tmp_path):
    folder = tmp_path / "pictures with spaces"
    folder.mkdir()
    for value, name in ((20, "b.bmp"), (10, "a.png"), (30, "c.JPG")):
        cv2.imwrite(str(folder / name), np.full((4, 6, 3), value, np.uint8))
    (folder / "notes.txt").write_text("not a picture")
    assert bag_from_folder(folder, tmp_path / "bag", rate_hz=4) == 3
    with open_recording(tmp_path / "bag") as reader:
        messages = list(reader.messages(["/camera/image/compressed"]))
    values = [int(rgb_from_cdr(m.cdr, m.type).mean().round()) for m in messages]
    assert values == [10, 20, 30]
    assert np.diff([stamp_of_cdr(m.cdr) for m in messages]).tolist() == [NS_PER_S // 4] * 2


def test_a_photograph_is_rotated_by_its_orientation_tag_and_otherwise_copied_byte_for_byte(
    tmp_path,
):
    bright_left = np.zeros((32, 48, 3), np.uint8)
    bright_left[:, :24] = 255
    plain = cv2.imencode(".jpg", bright_left)[1].tobytes()
    for name, orientation in (("a_turned", 6), ("b_upright", 1)):  # 6: the top is on the right
        entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
        exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)
        segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
        (tmp_path / f"{name}.jpg").write_bytes(plain[:2] + segment + plain[2:])
    (tmp_path / "c_damaged.jpg").write_bytes(plain[:2] + segment)
    assert bag_from_folder(tmp_path, tmp_path / "bag", rate_hz=4) == 3
    with open_recording(tmp_path / "bag") as reader:
        turned, upright, damaged = reader.messages(["/camera/image/compressed"])
    rgb = rgb_from_cdr(turned.cdr, COMPRESSED_IMAGE)
    assert rgb.shape == (48, 32, 3)
    assert rgb[:20].mean() > 250  # the left side is now at the top
    assert rgb[28:].mean() < 5
    assert (tmp_path / "b_upright.jpg").read_bytes() in upright.cdr
    assert (tmp_path / "c_damaged.jpg").read_bytes() in damaged.cdr


def test_a_folder_without_pictures_and_a_damaged_picture_are_refused(tmp_path):
    with pytest.raises(BagError, match="no recording and no pictures"):
        bag_from_folder(tmp_path, tmp_path / "bag", rate_hz=4)
    (tmp_path / "broken.bmp").write_bytes(b"BM")
    with pytest.raises(BagError, match=r"no picture can be read; 1 damaged, .*broken\.bmp: BMP"):
        bag_from_folder(tmp_path, tmp_path / "bag", rate_hz=4)


def test_folders_and_broken_links_named_like_pictures_are_refused_in_one_line(tmp_path):
    (tmp_path / "thumbnails.jpg").mkdir()  # a folder, not a picture
    with pytest.raises(BagError, match="no recording and no pictures"):
        bag_from_folder(tmp_path, tmp_path / "bag", rate_hz=4)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(BagError, match="no recording and no pictures"):
        bag_from_folder(tmp_path, tmp_path / "bag", rate_hz=4)


def test_a_video_becomes_a_bag_with_the_times_of_its_frames(tmp_path):
    with VideoWriter(tmp_path / "film") as film:
        for k in range(10):
            film.add(np.full((48, 64, 3), 20 * k, np.uint8), seconds=k / 5)
    assert bag_from_video(film.path, tmp_path / "bag", max_seconds=1.5) == 8
    with open_recording(tmp_path / "bag") as reader:
        messages = list(reader.messages(["/camera/image/compressed"]))
    assert [stamp_of_cdr(m.cdr) / NS_PER_S - 1 for m in messages] == pytest.approx(
        [k / 5 for k in range(8)], abs=1e-3
    )
    assert rgb_from_cdr(messages[5].cdr, COMPRESSED_IMAGE).mean() == pytest.approx(100, abs=4)


def test_a_file_that_is_not_a_video_is_refused(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(BagError, match="not a video that can be read"):
        bag_from_video(tmp_path / "text.mp4", tmp_path / "bag", max_seconds=9)
