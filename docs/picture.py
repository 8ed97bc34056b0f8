# SPDX-License-Identifier: Apache-2.0
"""Paint docs/images/drive.webp, the README's picture: the recorded drive, camera beside overlay.

    make picture

Every second image of test/data/town_drive goes through the committed model, as `sfseg segment` does
it, and both halves are shrunk to WIDTH pixels.
"""

import sys
from pathlib import Path

import cv2
import numpy as np

from sfseg_ros.imaging import Uint8Array, overlay
from sfseg_ros.installed_files import DEFAULT_MODEL, DEMO_DRIVE, find_model
from sfseg_ros.recordings.pictures import sampled_pictures
from sfseg_ros.segmenter import Segmenter, open_segmenter

ROOT = Path(__file__).resolve().parent.parent
DRIVE = ROOT / DEMO_DRIVE
PICTURE = ROOT / "docs" / "images" / "drive.webp"
FRAMES = 55
FRAME_MS = 200
WIDTH = 400
OVERLAY_ALPHA = 0.55
QUALITY = 65
LIMIT_BYTES = 2_000_000


def main() -> int:
    """Write the picture; its path is the last line. 1 if it is larger than LIMIT_BYTES."""
    segmenter = open_segmenter(find_model(DEFAULT_MODEL))
    frames = [beside(segmenter, rgb.rgb) for rgb in sampled_pictures(DRIVE, FRAMES)]
    animation = cv2.Animation()
    animation.frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2BGR) for frame in frames]
    animation.durations = np.full(len(frames), FRAME_MS, np.int32)
    PICTURE.parent.mkdir(exist_ok=True)
    cv2.imwriteanimation(str(PICTURE), animation, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])
    size = PICTURE.stat().st_size
    print(f"{len(frames)} frames, {size / 1e6:.2f} MB\n{PICTURE}")
    return int(size > LIMIT_BYTES)


def beside(segmenter: Segmenter, rgb: Uint8Array) -> Uint8Array:
    """uint8 (H, 2 WIDTH + 4, 3) RGB: the image on the left, its overlay on the right."""
    labels = segmenter.segment(rgb, confidence=False).labels
    painted = overlay(rgb, labels, segmenter.manifest.palette_rgb, OVERLAY_ALPHA)
    size = (WIDTH, round(WIDTH * rgb.shape[0] / rgb.shape[1]))
    halves = [cv2.resize(half, size, interpolation=cv2.INTER_AREA) for half in (rgb, painted)]
    gap = np.full((size[1], 4, 3), 255, np.uint8)
    return np.ascontiguousarray(np.hstack([halves[0], gap, halves[1]]))


if __name__ == "__main__":
    sys.exit(main())
