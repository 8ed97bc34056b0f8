# SPDX-License-Identifier: Apache-2.0
"""Label an image, or each image of a folder, without ROS.

Writes OUTPUT/labels/<name>.png (class indices), OUTPUT/color/<name>.png and
OUTPUT/overlay/<name>.jpg. The last line on stdout is OUTPUT.
"""

import argparse
import re
from pathlib import Path

import cv2

from sfseg_ros.backends.choice import BACKENDS
from sfseg_ros.backends.protocol import PRECISIONS, BackendOptions
from sfseg_ros.errors import ImageError
from sfseg_ros.imaging import Uint8Array, color_mask, overlay, rgb_from_file
from sfseg_ros.installed_files import find_model
from sfseg_ros.segmenter import Segmenter, open_segmenter
from sfseg_ros.tools.terminal import check_output, complain, one_line_name, say
from sfseg_ros.whole_files import write_whole

SUFFIXES = (".jpg", ".jpeg", ".png")
OVERLAY_ALPHA = 0.55


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """MODEL, IMAGES and the options of segment."""
    parser.add_argument("model", help="model directory, or the name of one in models/")
    parser.add_argument("images", type=Path, help="a JPEG or PNG file, or a folder of them")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--backend", default="auto", choices=["auto", *BACKENDS])
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--threads", type=int, default=0, help="default 0: the library chooses")
    parser.add_argument(
        "--network-size",
        type=_size,
        metavar="HEIGHTxWIDTH",
        help="input size of the network; default: chosen for each image",
    )


def run(args: argparse.Namespace) -> int:
    """Segment every image. Returns 1 if one was refused; the others are still written."""
    check_output(args.output)
    paths = find_images(args.images)
    segmenter = open_segmenter(
        find_model(args.model),
        args.backend,
        BackendOptions(args.precision, args.threads, args.network_size, progress=say, warn=say),
    )
    print(f"{segmenter.manifest.name}: {segmenter.backend.description}")
    refused = 0
    for path in paths:
        try:
            segment_file(segmenter, path, args.output)
        except ImageError as error:
            complain(f"sfseg segment: {path}: {error}")
            refused += 1
    print(args.output)
    return 1 if refused else 0


def find_images(path: Path) -> list[Path]:
    """Return the image itself, or the images of a folder by name.

    Raises ImageError if the folder has none, or if two of them would write the same output.
    """
    if not path.is_dir():
        return [path]
    paths = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
    if not paths:
        raise ImageError(f"{path}: no image; expected files that end in {', '.join(SUFFIXES)}")
    stems = [p.stem for p in paths]
    if repeated := next((stem for stem in stems if stems.count(stem) > 1), None):
        raise ImageError(f"{path}: two images are named {repeated}; rename one")
    return paths


def segment_file(segmenter: Segmenter, path: Path, output: Path) -> None:
    """Segment one file, turned upright as a viewer shows it, and write the three results."""
    rgb = rgb_from_file(path)
    result = segmenter.segment(rgb, confidence=False)
    palette = segmenter.manifest.palette_rgb
    _write(output / "labels" / f"{path.stem}.png", result.labels)
    _write(output / "color" / f"{path.stem}.png", color_mask(result.labels, palette))
    painted = overlay(rgb, result.labels, palette, OVERLAY_ALPHA)
    _write(output / "overlay" / f"{path.stem}.jpg", painted)
    print(f"{one_line_name(path)}: {rgb.shape[0]}x{rgb.shape[1]}", flush=True)


def _write(path: Path, picture: Uint8Array) -> None:
    """Write labels (H, W) or RGB (H, W, 3), encoded by the suffix."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    _, data = cv2.imencode(path.suffix, bgr)
    write_whole(path, bytes(data))


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r}: expected HEIGHTxWIDTH, such as 352x480")
    return int(match[1]), int(match[2])
