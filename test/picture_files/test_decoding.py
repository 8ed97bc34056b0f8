# SPDX-License-Identifier: Apache-2.0
"""The guard examines every compressed picture before a decoder reads it, with bounded work."""

import ast
import json
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hostile_pictures import (
    JPEG_TABLES,
    animated_png,
    encoded,
    jpeg_frame,
    jpeg_of,
    jpeg_of_scans,
    jpeg_scan,
    jpeg_segment,
    jpeg_without_data,
    png_of,
    street,
)

from sfseg_ros.errors import BagError, ImageError
from sfseg_ros.imaging import rgb_from_file
from sfseg_ros.picture_files import jpeg_guard, png_guard
from sfseg_ros.picture_files.decoding import (
    FILE_FORMATS,
    decode_picture,
    examine_picture,
    read_picture,
)
from sfseg_ros.recordings.camera_bags import bag_from_folder
from sfseg_ros.recordings.opening import open_recording
from sfseg_ros.recordings.video import frames_of_video

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("picture_child.py")
SUFFIX_OF = {"JPEG": ".jpg", "PNG": ".png", "BMP": ".bmp", "PPM": ".ppm", "TIFF": ".tif"}
SUFFIX_OF["WebP"] = ".webp"
MEGABYTE = zlib.compress(bytes(1 << 20), 9)
WHITE_ROW = zlib.compress(b"\0" + b"\xff" * 3)


def examine(data: bytes):
    return examine_picture(np.frombuffer(data, np.uint8))


def child(*arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(CHILD), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


# --- pictures that are accepted -----------------------------------------------------------------


@pytest.mark.parametrize("name", FILE_FORMATS)
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("size", [(60, 80), (1, 1), (61, 7)])
def test_every_supported_format_is_examined_and_decoded(name, grey, size):
    pixels = street(*size)
    data = encoded(SUFFIX_OF[name], pixels[..., 0] if grey and name != "PPM" else pixels)
    assert examine(data) == (name, *size)
    assert decode_picture(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (*size, 3)


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)])
@pytest.mark.parametrize("sampling", [0x411111, 0x211111, 0x221111, 0x111111])
@pytest.mark.parametrize("size", [(1000, 1000), (17, 33), (8, 4000)])
def test_the_smallest_jpeg_that_an_encoder_writes_is_accepted(options, sampling, size):
    flags = (*options, cv2.IMWRITE_JPEG_OPTIMIZE, 1, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    data = encoded(".jpg", np.zeros((*size, 3), np.uint8), *flags)
    assert examine(data) == ("JPEG", *size)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_smallest_png_that_an_encoder_writes_is_accepted(dtype):
    data = encoded(".png", np.zeros((3000, 3000, 3), dtype), cv2.IMWRITE_PNG_COMPRESSION, 9)
    assert examine(data) == ("PNG", 3000, 3000)


def test_a_picture_file_is_read_as_rgb(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(".png", street()))
    np.testing.assert_array_equal(rgb_from_file(tmp_path / "a.png"), street()[..., ::-1])


def test_text_and_colour_profiles_in_a_picture_are_accepted():
    text = zlib.compress(b"words " * 99)
    data = png_of(
        *(1, 1, (b"iCCP", b"a\0\0" + MEGABYTE), (b"zTXt", b"a\0\0" + text)),
        *((b"iTXt", b"a\0\0\0de\0b\0words"), (b"iTXt", b"a\0\1\0de\0b\0" + text)),
        (b"IDAT", WHITE_ROW),
    )
    assert examine(data) == ("PNG", 1, 1)
    assert (decode_picture(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) == 255).all()


# --- pictures that crash or stall a decoder -----------------------------------------------------


def test_the_animated_png_crashes_an_unguarded_decoder():
    data = animated_png()
    assert len(data) == 203
    if cv2.__version__ == "5.0.0":
        assert child("raw").returncode < 0


def test_every_entry_point_refuses_the_animated_png(tmp_path):
    done = child("runtime", tmp_path)
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert len(errors) == 9
    for name, error in errors.items():
        expected = "a PNG picture, expected a video" if name == "video" else "animated PNG"
        assert expected in error, name
        assert "\n" not in error


def test_only_the_guarded_functions_call_a_decoder():
    decoders = {"imdecode", "imread", "imreadmulti", "imdecodemulti", "VideoCapture", "PIL", "av"}
    found = set()
    for top in ("sfseg_ros", "training", "benchmarks", "launch"):
        for path in (ROOT / top).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Attribute):
                    names = [node.attr]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                elif isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                found |= {(path.name, name) for name in decoders.intersection(names)}
    # Pillow reads examined bytes only; PyAV reads videos only.
    assert found == {("decoding.py", "imdecode"), ("reading.py", "PIL"), ("video.py", "av")}


@pytest.mark.parametrize("seed", range(4))
def test_any_damaged_file_gives_a_picture_or_an_error_in_one_line(seed):
    done = child("mutate", seed, 1500)
    assert done.returncode == 0, done.stderr[-2000:]
    outcomes = json.loads(done.stdout)
    assert sum(outcomes.values()) == 1500
    assert min(outcomes.values()) > 50


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (jpeg_without_data(), "8192x8192 has 16 bytes of picture data: expected at least 393216"),
        (jpeg_of_scans(10_000), "4096x4096 in more than 16 scans"),
        (jpeg_of_scans(13, side=8192), "8192x8192 in more than 12 scans"),
        (jpeg_of_scans(10_000, side=64), "64x64 in more than 100 scans"),
        (jpeg_of(JPEG_TABLES, jpeg_frame(16, 16)), "16x16 has no scan"),
        (jpeg_of(JPEG_TABLES, jpeg_scan(b"\0" * 9)), "a scan before its frame header"),
        (jpeg_of(jpeg_frame(16, 16), jpeg_frame(16, 16)), "two frame headers"),
        (jpeg_of(jpeg_frame(16, 16, 0xC9)), "of type SOF9: expected baseline"),
        (jpeg_of(jpeg_frame(16, 16, 0xC3)), "of type SOF3: expected baseline"),
        (jpeg_of(b"\xff\xd8"), "begins a second time"),
        (jpeg_of(jpeg_segment(0xC0, b"\x08\0\x10\0\x10\x03")), "damaged frame header"),
        (jpeg_of(b"\xff\xfe\0\1", bytes(9)), "a segment FFFE of length 1"),
        (jpeg_of(bytes(5000), jpeg_frame(16, 16)), "5000 stray bytes"),
        (png_of(26, 34, (b"fcTL", bytes(26))), r"animated PNG \(chunk fcTL\)"),
        (png_of(26, 34, (b"fdAT", bytes(26))), r"animated PNG \(chunk fdAT\)"),
        (
            png_of(1, 1, (b"IDAT", WHITE_ROW), *[(b"zTXt", b"a\0\0" + MEGABYTE)] * 5),
            "more than 4194304 bytes of text and profiles",
        ),
        (
            png_of(1, 1, (b"IDAT", WHITE_ROW), *[(b"iTXt", b"a\0\1\0de\0b\0" + MEGABYTE)] * 5),
            "more than 4194304 bytes of text and profiles",
        ),
        (
            png_of(1, 1, (b"IDAT", WHITE_ROW), (b"iCCP", b"a\0\0" + b"no stream")),
            "damaged chunk iCCP",
        ),
        (png_of(1, 1, (b"CgBI", bytes(4))), "unknown chunk 43674249"),
        (png_of(1, 1, (b"ID\xffT", bytes(4))), "unknown chunk 4944ff54"),
        (png_of(1, 1, (b"IHDR", bytes(13))), "two headers"),
        (png_of(1, 1), "0 bytes of picture data: expected at least 1"),
        (png_of(8000, 8000, (b"IDAT", bytes(999))), "999 bytes of .* expected at least 186046"),
        (png_of(2**31, 2**31), "expected 1 to 67108864 pixels"),
        (b"GIF89a" + bytes(20), "GIF of 26 bytes .*: neither JPEG"),
        (b"<?xml version='1.0'?>\n<svg></svg>", "SVG of 33 bytes"),
        (b"\0\0\0\x20ftypavif" + bytes(20), "AVIF of 32 bytes"),
        (b"\x76\x2f\x31\x01" + bytes(20), "OpenEXR of 24 bytes"),
        (b"P6 9999999 9999999 255\n", "expected 1 to 67108864 pixels"),
        (b"P6 8000 8000 255\n" + bytes(9), "PPM of 8000x8000 has 9 bytes"),
        (b"P6 " + b"#" * 2000, "damaged header"),
        (b"P6 8 8 0\n", "the maximum 0"),
        (b"BM", "BMP of 2 bytes is truncated"),
        (encoded(".bmp", street())[:-1], "BMP of 60x80 has 14399 bytes"),
        (encoded(".webp", street())[:-9], "WebP of .* is truncated"),
        (encoded(".tif", street())[:40], "TIFF of 40 bytes is truncated"),
        (b"II*\0\xff\xff\xff\xff", "TIFF of 8 bytes is truncated"),
        (b"II*\0\x08\0\0\0\xff\xff", "65535 entries"),
    ],
)
def test_a_hostile_picture_is_refused_before_it_is_decoded(data, message, monkeypatch):
    monkeypatch.delattr(cv2, "imdecode")
    with pytest.raises(ImageError, match=message) as refused:
        decode_picture(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert "\n" not in str(refused.value)


def test_an_error_names_animations_and_files_of_several_pages():
    frames = cv2.Animation()
    frames.frames, frames.durations = [street(), street()[::-1].copy()], [40, 40]
    done, webp = cv2.imencodeanimation(".webp", frames)
    assert done
    with pytest.raises(ImageError, match="animated WebP"):
        examine(webp.tobytes())
    done, pages = cv2.imencodemulti(".tif", [street(), street()])
    assert done
    with pytest.raises(ImageError, match="TIFF of several pages"):
        examine(pages.tobytes())


# --- the work of the guard ----------------------------------------------------------------------


def counted(monkeypatch, module, name):
    """Return a list to which each call of the module's function appends its arguments."""
    calls, original = [], getattr(module, name)

    def count(*arguments):
        calls.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(module, name, count)
    return calls


@pytest.mark.parametrize("where", ["before the scan", "within the scan", "before the frame"])
@pytest.mark.parametrize("marker", [b"\xff\xfe\0\2", b"\xff\xe1\0\2", b"\xff\xc4\0\2"])
def test_millions_of_empty_markers_are_refused_after_the_first_thousand(monkeypatch, where, marker):
    many = marker * 5_000_000
    frame, scan = jpeg_frame(64, 64), jpeg_scan(bytes(99))
    parts = {
        "before the scan": (JPEG_TABLES, frame, many, scan),
        "within the scan": (JPEG_TABLES, frame, scan, many),
        "before the frame": (many, JPEG_TABLES, frame, scan),
    }
    walked = counted(monkeypatch, jpeg_guard, "_next_marker")
    with pytest.raises(ImageError, match="more than 1000 segments"):
        examine(jpeg_of(*parts[where]))
    assert len(walked) == jpeg_guard.MAX_SEGMENTS + 1


def test_markers_without_a_segment_are_scanned_once(monkeypatch):
    data = jpeg_of(JPEG_TABLES, jpeg_frame(64, 64), jpeg_scan(b"\xff\xd0\xff\x01" * 1_000_000))
    walked = counted(monkeypatch, jpeg_guard, "_next_marker")
    assert examine(data) == ("JPEG", 64, 64)
    assert len(walked) == 6


def test_more_chunks_than_the_file_size_justifies_are_refused(monkeypatch):
    data = png_of(1, 1, *[(b"IDAT", b"")] * 200_000)
    walked = counted(monkeypatch, png_guard, "_chunk_at")
    with pytest.raises(ImageError, match="in more than 1585 chunks"):
        examine(data)
    assert len(walked) == 1586


def test_a_large_png_in_the_small_chunks_of_libpng_is_accepted():
    pixels = np.random.default_rng(0).integers(0, 256, (3000, 1500, 3), np.uint8)
    whole = encoded(".png", pixels)
    chunks = re.findall(rb"IDAT", whole)
    assert len(chunks) > 1000
    assert examine(whole) == ("PNG", 3000, 1500)


# --- files and folders --------------------------------------------------------------------------


def test_unreadable_pictures_of_a_folder_are_skipped(tmp_path):
    for suffix in (".bmp", ".ppm", ".tif", ".webp"):
        (tmp_path / f"bad{suffix}").write_bytes(b"\0" * 40)
        (tmp_path / f"good{suffix}").write_bytes(encoded(suffix, street()))
    said: list[str] = []
    assert bag_from_folder(tmp_path, tmp_path / "bag", 4, said.append) == 4
    assert len(said) == 1
    assert "4 damaged, the first on bad.bmp: compressed image of 40 bytes" in said[0]
    with open_recording(tmp_path / "bag") as reader:
        assert [topic.count for topic in reader.topics()] == [4]


def test_fifos_folders_and_oversized_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo.png")
    with pytest.raises(ImageError, match="not a regular file"):
        read_picture(tmp_path / "fifo.png", cv2.IMREAD_COLOR)
    with pytest.raises(ImageError, match="cannot be read"):
        read_picture(tmp_path, cv2.IMREAD_COLOR)
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageError, match="expected at most 536870912"):
        read_picture(tmp_path / "large.png", cv2.IMREAD_COLOR)


SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'
ANSI_ART = b"\x1b[31mred\x1b[0m and \x1b[44mblue\x1b[0m\r\n" * 99
PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("drawing.svg", SVG, "the format SVG, expected a video; convert it to PNG and put it into"),
        ("art.txt", ANSI_ART, "not a video .*expected AVI, FLV, MKV"),
        ("art.ans", ANSI_ART, "not a video"),
        ("art.mp4", ANSI_ART, "not a video"),
        ("moving.gif", b"GIF89a" + bytes(50), "the format GIF, expected a video; convert it"),
        ("drawing.mp4", b" " * 2000 + SVG, "not a video"),
        ("text.txt", b"some words\n" * 99, "not a video"),
        ("list.m3u8", PLAYLIST, "not a video"),
        (
            "picture.jpg",
            encoded(".jpg", street()),
            "a JPEG picture, expected a video; put pictures into a folder",
        ),
        ("fifo.mp4", None, "not a regular file"),
    ],
)
def test_a_file_that_is_not_a_video_is_refused_in_one_line(tmp_path, name, data, message):
    path = tmp_path / name
    os.mkfifo(path) if data is None else path.write_bytes(data)
    with pytest.raises(BagError, match=message) as refused:
        list(frames_of_video(path))
    assert "\n" not in str(refused.value)


def film(path: Path) -> bytes:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path.read_bytes()


def test_a_video_of_an_unknown_codec_is_refused(tmp_path):
    data = film(tmp_path / "film.mp4")
    assert data.count(b"avc1") >= 1
    (tmp_path / "odd.mp4").write_bytes(data.replace(b"avc1", b"zzzz"))
    with pytest.raises(BagError, match="no decoder for its codec"):
        list(frames_of_video(tmp_path / "odd.mp4"))


def test_a_colon_in_a_relative_name_is_not_a_protocol(tmp_path, monkeypatch):
    film(tmp_path / "film.mp4")
    (tmp_path / "film.mp4").rename(tmp_path / "2024-01-01T10:20:30.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(list(frames_of_video(Path("2024-01-01T10:20:30.mp4")))) == 3


def test_the_guard_and_opencv_read_the_same_jpeg_header():
    """The guard finds the frame header that the decoder finds, whatever precedes it."""
    rng = np.random.default_rng(1)
    plain = encoded(".jpg", street())
    for _ in range(200):
        noise = bytes(rng.integers(0, 255, int(rng.integers(0, 30)), np.uint8))
        data = plain[:2] + jpeg_segment(0xFE, noise) + b"\xff" * int(rng.integers(0, 3)) + plain[2:]
        assert examine(data) == ("JPEG", 60, 80)
        assert decode_picture(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (60, 80, 3)
