# SPDX-License-Identifier: Apache-2.0
"""Joining played images, masks and truth by time, with gaps in each."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from sfseg_ros.errors import BagError
from sfseg_ros.evaluation.replay import Playback, last_diagnostics, read_replay, summarise
from sfseg_ros.model.manifest import Manifest, SemanticClass
from sfseg_ros.recordings.bag_writer import BagWriter, TopicToWrite
from sfseg_ros.recordings.message_bytes import COMPRESSED_IMAGE, compressed_image_cdr
from sfseg_ros.recordings.recording import Topic
from sfseg_ros.recordings.timeline import Damage, Timeline

CAMERA, TRUTH, MASK = "/camera", "/camera/ground_truth", "/mask"
FIRST_NS, START_NS = 1_000, 1_700_000_000_000_000_000
PERIOD_NS = 100_000_000


def png(value: int, shape: tuple[int, ...] = (6, 9)) -> bytes:
    return cv2.imencode(".png", np.full(shape, value, np.uint8))[1].tobytes()


def write_bag(path: Path, rows: list[tuple[str, int, int, bytes]]) -> Path:
    """Write rows of (topic, stamp, log time, PNG); a bytearray is written as the whole message."""
    topics = [TopicToWrite(name, COMPRESSED_IMAGE) for name in sorted({row[0] for row in rows})]
    with BagWriter(path, topics) as writer:
        for topic, stamp_ns, log_ns, data in rows:
            whole = compressed_image_cdr(bytes(data), "png", stamp_ns, "")
            writer.write(topic, log_ns, bytes(data) if isinstance(data, bytearray) else whole)
    return path


def playback(tmp_path: Path, images: list, truths: list, masks: list, played: int) -> Playback:
    """Build a playback from lists of (frame number, PNG); masks also have a latency in ms."""
    times = {k: FIRST_NS + k * PERIOD_NS for k in range(100)}
    timeline = Timeline(FIRST_NS, START_NS)
    inputs = [(CAMERA, times[k], times[k], data) for k, data in images]
    inputs += [(TRUTH, times[k], times[k] + 1, data) for k, data in truths]
    outputs = []
    for k, data, latency_ms in masks:
        stamp_ns = timeline.played_ns(times[k])
        outputs.append((MASK, stamp_ns, stamp_ns + round(latency_ms * 1e6), data))
    return Playback(
        input_bag=write_bag(tmp_path / "in", inputs),
        image_topic=Topic(CAMERA, COMPRESSED_IMAGE, len(images)),
        truth_topic=Topic(TRUTH, COMPRESSED_IMAGE, len(truths)) if truths else None,
        clock="header",
        timeline=timeline,
        frames_played=played,
        output_bag=write_bag(tmp_path / "out", outputs),
        mask_topic=MASK,
    )


@pytest.fixture
def manifest(tmp_path: Path, make_manifest: Callable[..., Manifest]) -> Manifest:
    classes = (SemanticClass(0, "road", (128, 64, 128)), SemanticClass(1, "sky", (0, 0, 255)))
    return make_manifest(tmp_path, classes=classes)


def rgb_png(value: int) -> bytes:
    return png(value, (6, 9, 3))


def test_each_image_gets_its_own_mask_and_truth_or_none(tmp_path):
    run = playback(
        tmp_path,
        images=[(k, rgb_png(k)) for k in range(6)],
        truths=[(0, png(0)), (1, png(1)), (4, png(1))],
        masks=[(1, png(1), 40.0), (2, png(0), 50.0), (4, png(0), 60.5)],
        played=5,
    )
    frames = list(read_replay(run, Damage()))
    assert [int(f.rgb[0, 0, 0]) for f in frames] == [0, 1, 2, 3, 4]  # the sixth was not played
    assert [f.latency_ms for f in frames] == [None, 40.0, 50.0, None, 60.5]
    assert [None if f.labels is None else int(f.labels[0, 0]) for f in frames] == (
        [None, 1, 0, None, 0]
    )
    assert [None if f.truth is None else int(f.truth[0, 0]) for f in frames] == [
        0,
        1,
        None,
        None,
        1,
    ]
    assert [f.seconds for f in frames] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_only_frames_with_mask_and_truth_count_for_miou(tmp_path, manifest):
    run = playback(
        tmp_path,
        images=[(k, rgb_png(k)) for k in range(4)],
        truths=[(0, png(0)), (1, png(1)), (3, png(1))],
        masks=[(1, png(1), 10.0), (2, png(0), 20.0), (3, png(0), 30.0)],
        played=4,
    )
    result = summarise(run, manifest, tmp_path / "report")
    assert result.confusion.matrix.tolist() == [[0, 0], [54, 54]]
    assert (result.masks, result.frames_played, result.damage.count) == (3, 4, 0)
    assert result.latency_percentile(50) == 20.0
    assert result.image_size == (6, 9)
    assert result.video.is_file()
    assert sorted(p.name for p in (tmp_path / "report" / "pictures").iterdir()) == [
        "frame_00001.jpg",
        "frame_00002.jpg",
        "frame_00003.jpg",
    ]
    assert result.samples[-1].title == "frame 3, 0.3 s, worst frame: 0% of the pixels correct"


def test_an_unreadable_image_is_counted_and_left_out(tmp_path, manifest):
    images = [(0, rgb_png(0)), (1, b"no picture"), (2, rgb_png(2))]
    masks = [(0, png(0), 1.0), (2, png(0), 1.0)]
    run = playback(tmp_path, images, [], masks, played=3)
    result = summarise(run, manifest, tmp_path / "report")
    assert (result.masks, result.damage.count, result.confusion) == (2, 1, None)


# The picture's length exceeds the message, and the stamp lies in the far future.
GARBAGE = bytearray(b"\0\1\0\0" + b"\x7f" * 30)


def test_damaged_messages_are_counted_and_the_others_are_evaluated(tmp_path, manifest):
    run = playback(
        tmp_path,
        images=[(0, rgb_png(0)), (1, GARBAGE), (2, rgb_png(2)), (3, rgb_png(3)), (4, rgb_png(4))],
        truths=[(0, png(0)), (2, bytearray(b"")), (3, b"no picture"), (4, png(1))],
        masks=[(0, png(0), 1.0), (2, GARBAGE, 1.0), (3, png(1), 1.0), (4, png(1), 1.0)],
        played=4,
    )
    result = summarise(run, manifest, tmp_path / "report")
    assert result.confusion.matrix.tolist() == [[54, 0], [0, 54]]
    assert result.masks == 3
    assert result.damage.counts == {CAMERA: 1, TRUTH: 2, MASK: 1}
    assert "4 damaged, the first on /" in str(result.damage)
    assert "\n" not in str(result.damage)


@pytest.mark.parametrize("what", ["image", "truth", "mask"])
@pytest.mark.parametrize("damaged", [GARBAGE, b"no picture"])
def test_if_damage_leaves_nothing_one_line_says_what_is_wrong(tmp_path, manifest, what, damaged):
    run = playback(
        tmp_path,
        images=[(k, damaged if what == "image" else rgb_png(k)) for k in range(2)],
        truths=[(k, damaged if what == "truth" else png(0)) for k in range(2)],
        masks=[(k, damaged if what == "mask" else png(0), 1.0) for k in range(2)],
        played=2,
    )
    with pytest.raises(BagError, match=f"no .*{what} can be read; 2 damaged, the first on /") as e:
        summarise(run, manifest, tmp_path / "report")
    assert "\n" not in str(e.value)


def test_damaged_diagnostics_are_ignored(tmp_path):
    with BagWriter(
        tmp_path / "out", [TopicToWrite("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray")]
    ) as writer:
        writer.write("/diagnostics", 1, bytes(GARBAGE))
    assert last_diagnostics(tmp_path / "out") == {}


def test_truth_with_other_classes_is_refused_and_names_the_frame(tmp_path, manifest):
    run = playback(tmp_path, [(0, rgb_png(0))], [(0, png(7))], [(0, png(0), 1.0)], played=1)
    with pytest.raises(BagError, match="frame 0 does not fit: truth holds 7"):
        summarise(run, manifest, tmp_path / "report")


def test_a_mask_of_another_size_is_refused(tmp_path, manifest):
    run = playback(tmp_path, [(0, rgb_png(0))], [], [(0, png(0, (3, 3)), 1.0)], played=1)
    with pytest.raises(BagError, match="masks have the image's size"):
        summarise(run, manifest, tmp_path / "report")


def test_without_masks_the_result_is_empty_and_has_no_video(tmp_path, manifest):
    run = playback(tmp_path, [(0, rgb_png(0))], [], [(50, png(0), 1.0)], played=1)
    result = summarise(run, manifest, tmp_path / "report")
    assert (result.masks, result.video, result.samples) == (0, None, [])
    assert np.isnan(result.latency_percentile(99))
    assert last_diagnostics(run.output_bag) == {}


@pytest.mark.parametrize("limit", [3000, 30_000])
def test_a_full_disk_leaves_no_partial_video_or_pictures(tmp_path, manifest, full_disk, limit):
    """The first limit is too small for a picture, the second only for the video."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 96, 128, 3), np.uint8)
    run = playback(
        tmp_path,
        images=[(k, cv2.imencode(".png", noise[k])[1].tobytes()) for k in range(9)],
        truths=[],
        masks=[(k, png(0, (96, 128)), 1.0) for k in range(9)],
        played=9,
    )
    with full_disk(limit), pytest.raises(OSError, match="File too large"):
        summarise(run, manifest, tmp_path / "report")
    assert list((tmp_path / "report").iterdir()) == []
