# SPDX-License-Identifier: Apache-2.0
"""Videos that browsers play: codec, pixel format, index at the front, and frame times."""

import struct

import av
import numpy as np
import pytest

from sfseg_ros.errors import BagError
from sfseg_ros.recordings.video import VideoWriter, frames_of_video


def test_a_video_is_h264_420_with_its_index_at_the_front(tmp_path):
    with VideoWriter(tmp_path / "film") as film:
        for k in range(5):
            film.add(np.full((32, 48, 3), 40 * k, np.uint8), seconds=0.1 * k)
    assert film.path == tmp_path / "film.mp4"
    data = film.path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(film.path)) as video:
        context = video.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")


def test_frames_keep_their_times_and_values(tmp_path):
    times = [0.0, 0.1, 0.5, 0.6]  # a pause where frames were replaced
    with VideoWriter(tmp_path / "film") as film:
        for k, seconds in enumerate(times):
            film.add(np.full((32, 48, 3), 60 * k, np.uint8), seconds)
    frames = list(frames_of_video(film.path))
    assert [time_ns / 1e9 for time_ns, _ in frames] == pytest.approx(times, abs=1e-3)
    for k, (_, rgb) in enumerate(frames):
        assert rgb.shape == (32, 48, 3)
        assert rgb.mean() == pytest.approx(60 * k, abs=4)


def test_a_video_that_begins_late_is_read_from_its_first_frame(tmp_path):
    with VideoWriter(tmp_path / "film") as film:
        for seconds in (3600.0, 3600.1):
            film.add(np.zeros((32, 48, 3), np.uint8), seconds)
    times = [time_ns / 1e9 for time_ns, _ in frames_of_video(film.path)]
    assert times == pytest.approx([0.0, 0.1], abs=1e-3)


@pytest.mark.parametrize(
    ("matrix", "turned"),  # a, b, c, d of the track's display matrix; quarter turns for np.rot90
    [((0, 1, -1, 0), -1), ((0, -1, 1, 0), 1), ((-1, 0, 0, -1), 2)],
)
def test_a_video_filmed_on_its_side_is_read_upright(tmp_path, matrix, turned):
    stored = np.zeros((32, 48, 3), np.uint8)
    stored[:16, :24] = 255  # bright in the top left corner
    with VideoWriter(tmp_path / "film") as film:
        film.add(stored, 0.0)
    data = bytearray(film.path.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    begin = data.index(b"tkhd") + 44  # after version, flags, times, id, layer and volume
    assert data[begin : begin + 4] == (1 << 16).to_bytes(4, "big")
    data[begin : begin + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    film.path.write_bytes(data)
    ((_, rgb),) = frames_of_video(film.path)
    shown = np.rot90(stored, turned)
    assert rgb.shape == shown.shape
    assert np.abs(rgb.astype(int) - shown).mean() < 16


@pytest.mark.parametrize("size", [(33, 49), (20, 60), (64, 96)])
def test_a_frame_of_another_size_is_resized_to_the_first(tmp_path, size):
    with VideoWriter(tmp_path / "film") as film:
        film.add(np.zeros((33, 49, 3), np.uint8), 0.0)  # odd sides lose a row and a column
        film.add(np.full((*size, 3), 255, np.uint8), 0.1)
    shapes = {rgb.shape for _, rgb in frames_of_video(film.path)}
    assert shapes == {(32, 48, 3)}


def test_a_video_without_frames_leaves_no_file(tmp_path):
    with VideoWriter(tmp_path / "film") as film:
        pass
    assert film.path is None
    assert list(tmp_path.iterdir()) == []


def test_a_video_without_a_picture_stream_is_refused(tmp_path):
    with av.open(str(tmp_path / "sound.mkv"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(BagError, match="no video stream"):
        list(frames_of_video(tmp_path / "sound.mkv"))
