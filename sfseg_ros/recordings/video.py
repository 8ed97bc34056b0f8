# SPDX-License-Identifier: Apache-2.0
"""Reading and writing videos with PyAV (FFmpeg), imported at first use: the node needs no video."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import BagError, one_line
from sfseg_ros.picture_files.bounds import MAX_PIXELS
from sfseg_ros.picture_files.decoding import FILE_FORMATS, format_of

RgbImage = npt.NDArray[np.uint8]

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm")

# Names of FFmpeg's demuxers for these files.
_CONTAINERS = "avi,flv,h264,hevc,m4v,matroska,mov,mpeg,mpegts,mpegvideo,mxf,ogg"
_EXPECTED = "AVI, FLV, MKV, MOV, MP4, MPEG, MXF, Ogg, TS or WebM"


def frames_of_video(video: Path) -> Iterator[tuple[int, RgbImage]]:
    """Yield (nanoseconds since the first frame, uint8 (H, W, 3) RGB) for each frame of a video.

    Times rise strictly, and frames are upright. One frame is in memory at a time. Raises BagError.
    """
    av = _av()
    last_ns = -1
    first_s: float | None = None
    _refuse_pictures(video)
    try:
        # Without a whitelist FFmpeg opens playlists (which name other files and hosts), SVG and
        # text; "file:" keeps a colon in the name from being read as a protocol.
        options = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
        with av.open(f"file:{video}", options=options) as container:
            if not container.streams.video:
                raise BagError(f"{video}: no video stream in it")
            _check_stream(video, container.streams.video[0])
            container.streams.video[0].thread_type = "AUTO"
            for frame in container.decode(container.streams.video[0]):
                # A stream cut from a longer one, such as a camera's .ts, does not begin at 0.
                first_s = (frame.time or 0.0) if first_s is None else first_s
                last_ns = max(round(((frame.time or 0.0) - first_s) * 1e9), last_ns + 1)
                # A phone stores the rotation as metadata, which the decoder does not apply.
                quarter_turns = round(getattr(frame, "rotation", 0) / 90)
                rgb = np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns)
                yield last_ns, np.ascontiguousarray(rgb)
    except av.FFmpegError as error:
        raise BagError(
            f"{video}: not a video that can be read ({one_line(error)}); expected {_EXPECTED}"
        ) from error


def _refuse_pictures(video: Path) -> None:
    """Raise BagError for a picture: FFmpeg would decode it without the guard of `decoding`."""
    try:
        if video.exists() and not video.is_file():
            raise BagError(f"{video}: not a regular file, expected a video")
        with video.open("rb") as file:
            name = format_of(file.read(1024))
    except OSError as error:
        raise BagError(f"{video}: cannot be read ({error.strerror})") from error
    if name in FILE_FORMATS:
        raise BagError(f"{video}: a {name} picture, expected a video; put pictures into a folder")
    if name:
        raise BagError(
            f"{video}: a picture in the format {name}, expected a video; convert it to PNG and put "
            "it into a folder"
        )


def _check_stream(video: Path, stream: Any) -> None:
    if stream.codec_context is None:  # decoding such a stream ends the process
        raise BagError(f"{video}: this FFmpeg has no decoder for its codec; convert it to H.264")
    height, width = stream.codec_context.height, stream.codec_context.width
    if height * width > MAX_PIXELS:
        raise BagError(f"{video}: frames of {height}x{width}, expected at most {MAX_PIXELS} pixels")


class VideoWriter:
    """Writes a video that browsers play: H.264 in MP4, or VP9 in WebM if FFmpeg lacks x264.

    Frames keep their own times, so a replaced frame leaves a pause instead of a jump. Use it as a
    context manager; `path` is None until the first frame.
    """

    # (codec, suffix, options). Browsers play yuv420p but not 4:4:4, x264's default for RGB input.
    # faststart puts the index first, so that playback starts before the download ends.
    CODECS = (
        ("libx264", ".mp4", {"crf": "21", "preset": "veryfast"}),
        ("libvpx-vp9", ".webm", {"crf": "32", "b": "0", "cpu-used": "5"}),
    )
    CLOCK_HZ = 90_000

    def __init__(self, path_without_suffix: Path) -> None:
        self._stem = path_without_suffix
        self._container: Any = None
        self._stream: Any = None
        self._last_tick = -1
        self.path: Path | None = None

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._container is not None:
            self._container.mux(self._stream.encode(None))
            self._container.close()

    def add(self, rgb: RgbImage, seconds: float) -> None:
        """Append a frame, uint8 (H, W, 3) RGB, fitted to the size of the first frame."""
        if self._stream is None:
            self._open(rgb.shape[0] // 2 * 2, rgb.shape[1] // 2 * 2)
        height, width = self._stream.height, self._stream.width
        frame = _av().VideoFrame.from_ndarray(_fitted(rgb, height, width), format="rgb24")
        self._last_tick = max(round(seconds * self.CLOCK_HZ), self._last_tick + 1)
        frame.pts, frame.time_base = self._last_tick, self._stream.time_base
        self._container.mux(self._stream.encode(frame))

    def _open(self, height: int, width: int) -> None:
        av = _av()
        for codec, suffix, options in self.CODECS:
            try:
                av.codec.Codec(codec, "w")
            except ValueError:
                continue
            self.path = self._stem.with_suffix(suffix)
            movflags = {"movflags": "+faststart"} if suffix == ".mp4" else {}
            self._container = av.open(str(self.path), "w", options=movflags)
            self._stream = self._container.add_stream(codec, rate=30, options=options)
            self._stream.width, self._stream.height = width, height
            self._stream.pix_fmt = "yuv420p"
            self._stream.time_base = Fraction(1, self.CLOCK_HZ)
            self._stream.codec_context.time_base = Fraction(1, self.CLOCK_HZ)
            return
        raise BagError("this PyAV encodes neither H.264 nor VP9: pip install av")


def _fitted(rgb: RgbImage, height: int, width: int) -> RgbImage:
    """Fit the image into (height, width) with black bars, keeping its aspect ratio.

    An image that is too large only by an odd last row or column is cropped instead.
    """
    rows, columns = rgb.shape[:2]
    if (rows // 2 * 2, columns // 2 * 2) == (height, width):
        return np.ascontiguousarray(rgb[:height, :width])
    scale = min(height / rows, width / columns)
    size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
    canvas = np.zeros((height, width, 3), np.uint8)
    top, left = (height - size[1]) // 2, (width - size[0]) // 2
    canvas[top : top + size[1], left : left + size[0]] = cv2.resize(rgb, size)
    return canvas


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise BagError(f"videos need PyAV ({error}): pip install av") from error
    return av
