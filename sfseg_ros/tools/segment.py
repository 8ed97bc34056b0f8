# SPDX-License-Identifier: Apache-2.0
"""`sfseg_segment MODEL IMAGE|FOLDER -o DIR`: the segmenter on files, without ROS.

Writes DIR/labels/<name>.png (class indices), DIR/color/<name>.png and DIR/overlay/<name>.jpg.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2

from sfseg_ros.backends.choice import BACKENDS
from sfseg_ros.backends.protocol import PRECISIONS, BackendOptions
from sfseg_ros.errors import ImageError, SfsegError
from sfseg_ros.imaging import Uint8Array, color_mask, overlay, rgb_from_file
from sfseg_ros.installed_files import find_model
from sfseg_ros.segmenter import Segmenter, open_segmenter

SUFFIXES = (".jpg", ".jpeg", ".png")
OVERLAY_ALPHA = 0.55


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. 1 where an image or the model was refused; the other images are still done."""
    args = _arguments(argv)
    try:
        paths = find_images(args.images)
        segmenter = open_segmenter(
            find_model(args.model),
            args.backend,
            BackendOptions(
                args.precision, args.threads, args.network_size, progress=_say, warn=_say
            ),
        )
        print(f"{segmenter.manifest.name}: {segmenter.backend.description}")
        refused = 0
        for path in paths:
            try:
                segment_file(segmenter, path, args.output)
            except ImageError as error:
                print(f"segment: {path}: {error}", file=sys.stderr)
                refused += 1
    except (SfsegError, OSError) as error:
        print(f"segment: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(args.output)
    return 1 if refused else 0


def find_images(path: Path) -> list[Path]:
    """The image itself, or the images of a folder by name. Raises ImageError where there is none,
    or where two would write the same output."""
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
    """Segment one file, upright as a viewer shows it, and write the three results."""
    rgb = rgb_from_file(path)
    result = segmenter.segment(rgb, confidence=False)
    palette = segmenter.manifest.palette_rgb
    _write(output / "labels" / f"{path.stem}.png", result.labels)
    _write(output / "color" / f"{path.stem}.png", color_mask(result.labels, palette))
    painted = overlay(rgb, result.labels, palette, OVERLAY_ALPHA)
    _write(output / "overlay" / f"{path.stem}.jpg", painted)
    print(f"{path.name}: {rgb.shape[0]}x{rgb.shape[1]}", flush=True)


def _write(path: Path, picture: Uint8Array) -> None:
    """Labels (H, W) or RGB (H, W, 3), encoded by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
    _, data = cv2.imencode(path.suffix, bgr)
    path.write_bytes(bytes(data))


def _say(text: str) -> None:
    if text:
        print(f"segment: {text}", file=sys.stderr)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sfseg_segment", description=__doc__.splitlines()[0])
    parser.add_argument("model", help="model directory, or the name of one in models/")
    parser.add_argument("images", type=Path, help="a JPEG or PNG file, or a folder of them")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--backend", default="auto", choices=["auto", *BACKENDS])
    parser.add_argument("--precision", default="auto", choices=PRECISIONS)
    parser.add_argument("--threads", type=int, default=0, help="0: the library chooses")
    parser.add_argument(
        "--network-size",
        type=_size,
        metavar="HEIGHTxWIDTH",
        help="input of the network; without it, it follows the size of each image",
    )
    return parser.parse_args(argv)


def _size(text: str) -> tuple[int, int]:
    height, width = (int(side) for side in text.split("x"))
    return height, width


if __name__ == "__main__":
    sys.exit(main())
