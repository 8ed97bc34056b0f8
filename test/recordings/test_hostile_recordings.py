# SPDX-License-Identifier: Apache-2.0
"""Hostile recordings are refused in one line and with little memory, whatever they declare."""

import os
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import lz4.frame
import numpy as np
import pytest
from backports import zstd
from rosbags import rosbag1, rosbag2
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode
from rosbags.typesys import Stores, get_typestore

from sfseg_ros.errors import BagError, one_line
from sfseg_ros.recordings import rosbag2 as rosbag2_recording
from sfseg_ros.recordings import rosbags_reader
from sfseg_ros.recordings.message_bytes import COMPRESSED_IMAGE, IMAGE, compressed_image_cdr
from sfseg_ros.recordings.opening import open_recording

MIB = 1024 * 1024
ROS2 = get_typestore(Stores.ROS2_JAZZY)
TOPIC = "/camera/image/compressed"
MESSAGE = compressed_image_cdr(b"\xff\xd8 no picture \xff\xd9", "jpeg", 5, "camera")
# Reads a recording within 1.5 GiB of memory and prints the number of its messages or the error.
CHILD = """
import resource, sys
from pathlib import Path
from sfseg_ros.errors import BagError
from sfseg_ros.recordings.opening import open_recording
resource.setrlimit(resource.RLIMIT_AS, (3 << 29, 3 << 29))
try:
    with open_recording(Path(sys.argv[1])) as recording:
        names = [topic.name for topic in recording.topics()]
        print(sum(1 for _ in recording.messages(names)), "messages")
except BagError as error:
    print(error)
"""


def refusal_of(path: Path) -> str:
    """Read every message of a recording and return the text of the BagError."""
    with pytest.raises(BagError) as refused, open_recording(path) as recording:
        list(recording.messages([topic.name for topic in recording.topics()]))
    text = str(refused.value)
    assert "\n" not in text
    assert len(text) < 1000
    assert text.startswith(str(path))
    return text


# --- MCAP ---------------------------------------------------------------------------------------


def sized(data: bytes, length: str = "<Q") -> bytes:
    return struct.pack(length, len(data)) + data


def record(opcode: int, data: bytes) -> bytes:
    return bytes([opcode]) + sized(data)


def text(value: str | bytes) -> bytes:
    return sized(value if isinstance(value, bytes) else value.encode(), "<I")


def message_record(cdr: bytes, time_ns: int = 1) -> bytes:
    return record(5, struct.pack("<HIQQ", 1, 0, time_ns, time_ns) + cdr)


def mcap_file(
    path: Path, chunk: bytes, compression: str, size: int, topic: str | bytes = TOPIC
) -> Path:
    """An MCAP file with one chunk of compressed records; the chunk declares `size` bytes."""
    start = b"\x89MCAP0\r\n" + record(1, text("ros2") + text("test"))
    data = record(6, struct.pack("<QQQI", 1, 9, size, 0) + text(compression) + sized(chunk))
    schema = record(3, struct.pack("<H", 1) + text(COMPRESSED_IMAGE) + text("ros2msg") + text(""))
    channel = record(4, struct.pack("<HH", 1, 1) + text(topic) + text("cdr") + text(""))
    message_index = record(7, struct.pack("<H", 1) + sized(struct.pack("<QQ", 1, 0), "<I"))
    place = struct.pack("<HQ", 1, len(start) + len(data))
    index = struct.pack("<QQQQ", 1, 9, len(start), len(data)) + sized(place, "<I")
    index += struct.pack("<Q", len(message_index)) + text(compression)
    index += struct.pack("<QQ", len(chunk), size)
    data += message_index
    counts = struct.pack("<I", 10) + struct.pack("<HQ", 1, 1)
    statistics = record(11, struct.pack("<QHIIIIQQ", 1, 1, 1, 0, 0, 1, 1, 9) + counts)
    summary = schema + channel + record(8, index) + statistics
    footer = record(2, struct.pack("<QQI", len(start) + len(data), 0, 0))
    path.write_bytes(start + data + summary + footer + b"\x89MCAP0\r\n")
    return path


def zstd_zeros(size: int) -> bytes:
    """A zstd frame without content size. Each block of 4 bytes expands to 128 KiB of one value."""
    blocks = size // (128 * 1024)
    block = struct.pack("<I", (128 * 1024) << 3 | 1 << 1)[:3] + b"\0"
    last = struct.pack("<I", (128 * 1024) << 3 | 1 << 1 | 1)[:3] + b"\0"
    return b"\x28\xb5\x2f\xfd\x00\x38" + (blocks - 1) * block + last


@pytest.mark.parametrize("compression", ["", "lz4", "zstd"])
def test_a_valid_chunk_is_read(tmp_path, compression):
    records = message_record(MESSAGE)
    compress = {"": bytes, "lz4": lz4.frame.compress, "zstd": zstd.compress}[compression]
    path = mcap_file(tmp_path / "a.mcap", compress(records), compression, len(records))
    with open_recording(path) as recording:
        (message,) = recording.messages([TOPIC])
    assert message.cdr == MESSAGE


@pytest.mark.parametrize(
    ("declared", "reason"),
    [
        (2048 * MIB, "a chunk of 2,147,483,648 bytes, expected at most"),
        (1000, "compressed data of more than 1,000 bytes"),
        (300 * MIB, "compressed data of more than 314,572,800 bytes"),
    ],
)
def test_a_chunk_that_expands_beyond_the_limit_is_refused_in_one_line(tmp_path, declared, reason):
    path = mcap_file(tmp_path / "bomb.mcap", zstd_zeros(2048 * MIB), "zstd", declared)
    assert path.stat().st_size < 70_000
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, timeout=120
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert reason in child.stdout
    assert child.stdout.count("\n") == 1


def test_a_chunk_of_zeros_is_refused_at_its_first_record(tmp_path):
    """rosbags would step over the zeros nine bytes at a time, which takes minutes."""
    path = mcap_file(tmp_path / "bomb.mcap", zstd_zeros(256 * MIB), "zstd", 256 * MIB)
    assert "a chunk without a valid record at byte 0" in refusal_of(path)


def test_a_chunk_with_too_many_records_is_refused(tmp_path):
    records = 1_000_001 * record(4, b"")
    path = mcap_file(tmp_path / "bomb.mcap", zstd.compress(records), "zstd", len(records))
    assert "a chunk of more than 1,000,000 records" in refusal_of(path)


@pytest.mark.parametrize(
    ("chunk", "compression", "size", "reason"),
    [
        (lz4.frame.compress(bytes(16 * MIB)), "lz4", 1000, "more than 1,000 bytes"),
        (zstd.compress(bytes(1000))[:-3], "zstd", 1000, "end too early"),
        (lz4.frame.compress(bytes(1000))[:-9], "lz4", 1000, "end too early"),
        (2 * zstd.compress(b""), "zstd", 1000, "more than one frame"),
        (message_record(MESSAGE)[:-1], "", len(message_record(MESSAGE)) - 1, "valid record"),
        (b"x", "brotli", 1, "Unsupported chunk compression"),
    ],
)
def test_a_damaged_chunk_is_refused_in_one_line(tmp_path, chunk, compression, size, reason):
    assert reason in refusal_of(mcap_file(tmp_path / "a.mcap", chunk, compression, size))


@pytest.mark.parametrize("topic", [b"/\xff\xfe", "", "/a\nb", "/a\x1b[2J", "/" + 255 * "x"])
def test_an_invalid_topic_name_is_refused_in_one_line(tmp_path, topic):
    path = mcap_file(tmp_path / "a.mcap", b"", "", 0, topic)
    refusal = refusal_of(path)
    assert "no valid name" in refusal or "utf-8" in refusal
    assert refusal.isprintable()


# --- ROS 1 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["BZ2", "LZ4"])
def test_a_ros1_chunk_that_expands_beyond_the_limit_is_refused(tmp_path, monkeypatch, compression):
    ros1 = get_typestore(Stores.ROS1_NOETIC)
    pixels = np.zeros(2 * MIB, np.uint8)
    header = ros1.types["std_msgs/msg/Header"](
        seq=0, stamp=ros1.types["builtin_interfaces/msg/Time"](sec=1, nanosec=0), frame_id="camera"
    )
    message = ros1.types[IMAGE](
        header=header, height=1024, width=2048, encoding="mono8", is_bigendian=0, step=2048,
        data=pixels,
    )  # fmt: skip
    writer = rosbag1.Writer(tmp_path / "old.bag")
    writer.set_compression(getattr(writer.CompressionFormat, compression))
    with writer:
        connection = writer.add_connection("/image", IMAGE, typestore=ros1)
        writer.write(connection, 1, ros1.serialize_ros1(message, IMAGE))
    with open_recording(tmp_path / "old.bag") as recording:
        assert len(list(recording.messages(["/image"]))) == 1
    monkeypatch.setattr(rosbags_reader, "LARGEST_CHUNK_BYTES", MIB)
    assert "compressed data of more than 1,048,576 bytes" in refusal_of(tmp_path / "old.bag")


# --- rosbag2 folders and SQLite -----------------------------------------------------------------


def sqlite_bag(folder: Path, mode: str = "NONE", count: int = 1) -> Path:
    writer = rosbag2.Writer(folder, version=8, storage_plugin=rosbag2.StoragePlugin.SQLITE3)
    if mode != "NONE":
        writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(TOPIC, COMPRESSED_IMAGE, typestore=ROS2)
        for index in range(count):
            writer.write(connection, index + 1, MESSAGE)
    return folder


def changed_database(folder: Path, *statements: str) -> Path:
    (file,) = sqlite_bag(folder).glob("*.db3")
    database = sqlite3.connect(file)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()
    return file


WITHOUT_RULES = (
    "CREATE TABLE t (id INTEGER PRIMARY KEY, name, type, serialization_format,"
    " offered_qos_profiles, type_description_hash)",
    "INSERT INTO t SELECT * FROM topics",
    "DROP TABLE topics",
    "ALTER TABLE t RENAME TO topics",
)
WITHOUT_RULES_ON_MESSAGES = (
    "CREATE TABLE m (id INTEGER PRIMARY KEY, topic_id, timestamp, data)",
    "INSERT INTO m SELECT * FROM messages",
    "DROP TABLE messages",
    "ALTER TABLE m RENAME TO messages",
)
ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT count(*)"


@pytest.mark.parametrize("mode", ["NONE", "MESSAGE", "FILE"])
def test_a_valid_database_is_read(tmp_path, mode):
    with open_recording(sqlite_bag(tmp_path / "bag", mode, count=3)) as recording:
        messages = list(recording.messages([TOPIC]))
    assert [message.cdr for message in messages] == 3 * [MESSAGE]


@pytest.mark.parametrize(
    ("statements", "reason"),
    [
        ((*WITHOUT_RULES, "UPDATE topics SET name = NULL"), "topic 1 .* no valid name"),
        ((*WITHOUT_RULES, "UPDATE topics SET type = NULL"), "topic 1 .* no valid type"),
        ((*WITHOUT_RULES, "UPDATE topics SET name = 7"), "no valid name"),
        ((*WITHOUT_RULES, "UPDATE topics SET name = x'2F61'"), "no valid name"),
        (("UPDATE topics SET name = CAST(x'2FFF' AS TEXT)",), "utf-8|no valid name"),
        ((*WITHOUT_RULES_ON_MESSAGES, "UPDATE messages SET data = NULL"), "time or bytes"),
        ((*WITHOUT_RULES_ON_MESSAGES, "UPDATE messages SET data = 1e12"), "time or bytes"),
        ((*WITHOUT_RULES_ON_MESSAGES, "UPDATE messages SET data = 9000000000"), "time or bytes"),
        ((*WITHOUT_RULES_ON_MESSAGES, "UPDATE messages SET timestamp = 'x'"), "bag|time or bytes"),
        (
            ("DROP TABLE schema", f"CREATE VIEW schema AS {ENDLESS} AS schema_version FROM c"),
            "view",
        ),
        (("CREATE VIRTUAL TABLE v USING fts5(x)",), "does not write"),
        (
            ("ALTER TABLE topics ADD COLUMN big AS (hex(zeroblob(500000000)))",),
            "generated column",
        ),
        (("DROP TABLE messages",), "missing tables"),
    ],
)
def test_a_database_that_rosbag2_does_not_write_is_refused_in_one_line(
    tmp_path, statements, reason
):
    refusal = refusal_of(changed_database(tmp_path / "bag", *statements))
    assert any(part in refusal for part in reason.split("|")) or (
        reason.startswith("topic 1") and reason.split(".* ")[1] in refusal
    )


@pytest.mark.parametrize("name", ["take #2", "50%25", "a?vfs=none", "caf\udce9", "a&b c"])
def test_a_database_whose_path_looks_like_a_uri_is_read(tmp_path, name):
    folder = sqlite_bag(tmp_path / "bag", count=3).rename(tmp_path / name)
    (file,) = folder.glob("*.db3")
    odd = file.with_name(f"{name}.db3")
    odd.write_bytes(file.read_bytes())
    for path in (folder, odd):
        with open_recording(path) as recording:
            assert len(list(recording.messages([TOPIC]))) == 3


def test_the_checked_database_is_the_one_that_is_opened(tmp_path):
    """SQLite reads `bag.db3?.db3` in a URI as `bag.db3`."""
    view = ("ALTER TABLE schema RENAME TO s", f"CREATE VIEW schema AS {ENDLESS} AS v FROM c")
    hidden = changed_database(tmp_path / "bag", *view)
    honest = sqlite_bag(tmp_path / "honest", count=2) / "honest.db3"
    shown = hidden.with_name(f"{hidden.name}?.db3")
    shown.write_bytes(honest.read_bytes())
    with open_recording(shown) as recording:
        assert len(list(recording.messages([TOPIC]))) == 2


def test_a_view_in_a_compressed_database_is_refused(tmp_path):
    file = changed_database(tmp_path / "bag", "CREATE VIEW v AS SELECT 1")
    folder = sqlite_bag(tmp_path / "packed", "FILE")
    (packed,) = folder.glob("*.zstd")
    packed.write_bytes(zstd.compress(file.read_bytes()))
    assert "view that rosbag2 does not write" in refusal_of(folder)


@pytest.mark.parametrize("column", ["messages SET data", "topics SET name"])
def test_a_row_of_a_database_is_bounded(tmp_path, monkeypatch, column):
    """A sparse file holds 900 MB of zeros in a few kilobytes."""
    monkeypatch.setattr(rosbag2_recording, "LARGEST_MESSAGE_BYTES", MIB)
    file = changed_database(tmp_path / "bag", f"UPDATE {column} = zeroblob({2 * MIB})")
    assert "too big" in refusal_of(file)


def test_a_record_outside_of_a_chunk_is_bounded(tmp_path, monkeypatch):
    data = b"\x89MCAP0\r\n" + record(1, text("ros2") + text("test"))
    data += record(3, struct.pack("<H", 1) + text(COMPRESSED_IMAGE) + text("ros2msg") + text(""))
    data += record(4, struct.pack("<HH", 1, 1) + text(TOPIC) + text("cdr") + text(""))
    data += message_record(bytes(3 * MIB)) + record(2, bytes(20)) + b"\x89MCAP0\r\n"
    (tmp_path / "plain.mcap").write_bytes(data)
    with open_recording(tmp_path / "plain.mcap") as recording:
        assert len(list(recording.messages([TOPIC]))) == 1
    monkeypatch.setattr(rosbags_reader, "LARGEST_CHUNK_BYTES", MIB)
    assert "a record of 3,145,728 bytes" in refusal_of(tmp_path / "plain.mcap")


def test_a_message_that_expands_beyond_the_limit_is_refused(tmp_path):
    folder = sqlite_bag(tmp_path / "bag", "MESSAGE")
    (file,) = folder.glob("*.db3")
    database = sqlite3.connect(file)
    database.execute("UPDATE messages SET data = ?", [zstd_zeros(2048 * MIB)])
    database.commit()
    database.close()
    child = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder)], capture_output=True, text=True, timeout=120
    )
    assert "compressed data of more than 268,435,456 bytes" in child.stdout, child.stderr


def test_a_compressed_file_is_refused_before_it_fills_the_disk(tmp_path):
    folder = sqlite_bag(tmp_path / "bag", "FILE")
    (file,) = folder.glob("*.zstd")
    file.write_bytes(zstd_zeros(2048 * MIB))
    assert "decompresses to more than 1,073,741,824 bytes" in refusal_of(folder)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("  version: 8", "  version: [&a 8, *a]", "anchor or alias at line"),
        ("  version: 8", f"  version: {200 * '['}{200 * ']'}", "nested over"),
        ("  version: 8", f"  version: 8\n  x: '{1_000_000 * 'x'}'", "more than 1,000,000 bytes"),
        ("  version: 8", "  version: {}", "Invalid bag metadata"),
        ("  version: 8", "  version: 10", "version 10 not supported"),
        ("rosbag2_bagfile_information", "something_else", "lacks what rosbag2 writes"),
        ("bag.db3", "other.db3", "names 'other.db3': expected a file beside it"),
        ("bag.db3", "..", "expected a file beside it"),
        ("message_count: 1", "message_count: many", "no valid number"),
        ("message_count: 1", "message_count: -5", "no valid number"),
        (f"name: {TOPIC}", "name: ~", "no valid name"),
        (f"name: {TOPIC}", 'name: "/a\\nb"', "no valid name"),
        (f"name: {TOPIC}", 'name: "\\uD800"', "metadata"),
        (f"name: {TOPIC}", "name: caf\udce9", "is not UTF-8"),
        (f"type: {COMPRESSED_IMAGE}", "type: [1, 2]", "no valid type"),
        ("storage_identifier: sqlite3", "storage_identifier: []", "metadata|unhashable"),
    ],
)
def test_invalid_metadata_is_refused_in_one_line(tmp_path, old, new, reason):
    folder = sqlite_bag(tmp_path / "bag")
    metadata = folder / "metadata.yaml"
    content = metadata.read_text()
    assert old in content
    metadata.write_bytes(content.replace(old, new).encode(errors="surrogateescape"))
    assert any(part in refusal_of(folder) for part in reason.split("|"))


def test_metadata_of_many_publishers_is_read(tmp_path):
    """One string holds the QoS profiles of all publishers of a topic, 250 characters each."""
    folder = sqlite_bag(tmp_path / "bag")
    metadata = folder / "metadata.yaml"
    lines = metadata.read_text().splitlines()
    (place,) = (i for i, line in enumerate(lines) if "offered_qos_profiles" in line)
    indent = lines[place][: -len(lines[place].lstrip())]
    profile = "- history: 1\\n  depth: 10\\n  reliability: 1\\n" + 20 * "  x: 123\\n"
    lines[place] = f'{indent}offered_qos_profiles: "{200 * profile}"'
    metadata.write_text("\n".join(lines))
    with open_recording(folder) as recording:
        assert recording.topics()[0].count == 1


@pytest.mark.parametrize("name", ["bag.mcap", "bag.db3"])
def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path, name):
    os.mkfifo(tmp_path / name)
    with pytest.raises(BagError, match="not a recording"):
        open_recording(tmp_path / name)
    with pytest.raises(BagError, match="not a recording"):
        open_recording(tmp_path)


@pytest.mark.parametrize("name", [300 * "x", "a\0b"])
def test_a_path_that_cannot_exist_is_refused_in_one_line(tmp_path, name):
    with pytest.raises(BagError) as refused:
        open_recording(tmp_path / name)
    assert one_line(refused.value).isprintable()
