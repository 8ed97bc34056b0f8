# SPDX-License-Identifier: Apache-2.0
"""test_decoding.py runs this script in a child process, because a picture that passes the guard may
crash the process that decodes it.

`raw`: decode the animated PNG without the guard. `runtime DIR`, `training DIR`: pass the animated
PNG to every entry point of this package. `mutate SEED COUNT`: decode damaged pictures of every
format.
"""

import json
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
from hostile_pictures import animated_png, encoded, png_chunk, street

from sfseg_ros import imaging
from sfseg_ros.errors import ImageError, SfsegError
from sfseg_ros.picture_files.decoding import decode_picture
from sfseg_ros.recordings import camera_bags, message_bytes, pictures, video

MEMORY_BYTES = 4 << 30


def raw() -> None:
    data = np.frombuffer(animated_png(), np.uint8)
    for _ in range(50):
        cv2.imdecode(data, cv2.IMREAD_COLOR)


def runtime_entries(folder: Path) -> dict[str, str]:
    """Return the error of each entry point, by name."""
    data, hostile = animated_png(), folder / "a.png"
    disguised, truth, good = folder / "disguised", folder / "truth", folder / "good"
    for sub in (disguised, truth, good):
        sub.mkdir()
    for path in (hostile, disguised / "a.bmp", truth / "a.png"):
        path.write_bytes(data)
    (good / "a.png").write_bytes(encoded(".png", street()))
    message = message_bytes.compressed_image_cdr(data, "png", 1, "camera")
    calls = {
        "message": lambda: imaging.picture_from_fields(SimpleNamespace(format="png", data=data)),
        "compressed": lambda: imaging.rgb_from_compressed(data, upright=True),
        "file": lambda: imaging.rgb_from_file(hostile),
        "bag image": lambda: message_bytes.rgb_from_cdr(message, message_bytes.COMPRESSED_IMAGE),
        "bag truth": lambda: message_bytes.labels_from_cdr(message, message_bytes.COMPRESSED_IMAGE),
        "sampled": lambda: list(pictures.sampled_pictures(hostile, 5)),
        "sampled truth": lambda: list(pictures.sampled_pictures(good, 5, truth_folder=truth)),
        "demo folder": lambda: camera_bags.bag_from_folder(disguised, folder / "bag", 1.0),
        "video": lambda: list(video.frames_of_video(hostile)),
    }
    return errors_of(calls)


def training_entries(folder: Path) -> dict[str, str]:
    """Like `runtime_entries`, for the entry points that need the requirements of training."""
    from training import panoptic_quality
    from training.data.camvid import camvid
    from training.data.reading import read_bgr
    from training.papers import flow_figures

    hostile = folder / "a.png"
    hostile.write_bytes(animated_png())
    (folder / "good.png").write_bytes(encoded(".png", street()))
    (folder / "train.txt").write_text("a.png good.png\n")
    (folder / "labels.txt").write_text("good.png a.png\n")
    calls = {
        "picture": lambda: camvid(folder, ("train.txt",))[0],
        "labels": lambda: camvid(folder, ("labels.txt",))[0],
        "panoptic picture": lambda: read_bgr(hostile),
        "panoptic ids": lambda: panoptic_quality.read_ids(hostile),
        "figure": lambda: flow_figures.read_rgb(hostile),
        "figure labels": lambda: flow_figures.read_labels(hostile),
    }
    return errors_of(calls)


def errors_of(calls: dict[str, Callable[[], object]]) -> dict[str, str]:
    errors = {}
    for name, call in calls.items():
        try:
            call()
            errors[name] = "accepted"
        except (SfsegError, ValueError, FileNotFoundError, SystemExit) as error:
            errors[name] = str(error)
    return errors


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Return the file with changed bytes, a repeated, removed or moved piece, or a cut end."""
    buffer = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        start, length = (int(v) for v in (rng.integers(0, len(buffer)), rng.integers(1, 40)))
        kind = rng.integers(0, 5)
        if kind == 0:
            buffer[start] = int(rng.choice([0, 1, 0x7F, 0x80, 0xD9, 0xDA, 0xFF]))
        elif kind == 1:
            buffer[start : start + length] = rng.bytes(length)
        elif kind == 2:
            buffer[start:start] = buffer[start : start + length]
        elif kind == 3:
            del buffer[start : start + length]
        else:
            del buffer[max(1, start) :]
        buffer = buffer or bytearray(b"\0")
    return bytes(buffer)


def with_checksums(data: bytes) -> bytes:
    """Return the PNG with correct checksums, as far as its chunks can be followed."""
    position, out = 8, data[:8]
    while position + 12 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        if position + 12 + size > len(data):
            break
        body = position + 8
        out += png_chunk(data[body - 4 : body], data[body : body + size])
        position += 12 + size
    return out + data[position:]


def mutate(seed: int, count: int) -> dict[str, int]:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    rng = np.random.default_rng(seed)
    grey, colour = street()[..., 0], street()
    seeds = [encoded(s, colour) for s in (".jpg", ".png", ".bmp", ".ppm", ".tif", ".webp")]
    seeds += [encoded(s, grey) for s in (".jpg", ".png", ".bmp", ".pgm", ".tif")]
    seeds += [encoded(".jpg", colour, cv2.IMWRITE_JPEG_PROGRESSIVE, 1), animated_png()]
    seeds += [encoded(".jpg", colour, cv2.IMWRITE_JPEG_RST_INTERVAL, 2)]
    outcomes: Counter[str] = Counter()
    for index in range(count):
        data = mutated(seeds[index % len(seeds)], rng)
        if data.startswith(b"\x89PNG"):
            data = with_checksums(data)
        try:
            pixels = decode_picture(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
            assert pixels.ndim in (2, 3)
            outcomes["picture"] += 1
        except ImageError as error:
            assert "\n" not in str(error)
            outcomes["error"] += 1
    return dict(outcomes)


if __name__ == "__main__":
    task, *arguments = sys.argv[1:]
    if task == "raw":
        raw()
    elif task == "runtime":
        print(json.dumps(runtime_entries(Path(arguments[0]))))
    elif task == "training":
        print(json.dumps(training_entries(Path(arguments[0]))))
    else:
        print(json.dumps(mutate(*map(int, arguments))))
