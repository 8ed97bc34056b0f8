# SPDX-License-Identifier: Apache-2.0
"""Pictures and video frames without labels, for distillation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfseg_ros.errors import BagError
from sfseg_ros.model.manifest import UNLABELLED
from sfseg_ros.recordings.video import VIDEO_SUFFIXES, frames_of_video
from training.data.dataset import DataError, Sample
from training.data.reading import read_bgr, rgb_and_labels

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
MAX_FRAMES = 1000
"""Maximum number of frames of all videos in a folder; they are held in memory."""


class Unlabelled:
    """The pictures of a folder and every n-th frame of its videos; all labels are 255.

    Args:
        folder: holds pictures and videos; its subfolders are not searched.
        long_side: maximum width or height; larger pictures are shrunk.
        every: n, the step between frames.

    Raises:
        FileNotFoundError: the folder holds no pictures and no videos.
        DataError: a video cannot be read.
    """

    def __init__(self, folder: Path, long_side: int = 480, every: int = 5) -> None:
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: expected a folder of pictures or videos")
        files = sorted(folder.iterdir())
        self.long_side = long_side
        self.pictures = [f for f in files if f.suffix.lower() in PICTURE_SUFFIXES]
        self.frames: list[NDArray[np.uint8]] = []
        for video in (f for f in files if f.suffix.lower() in VIDEO_SUFFIXES):
            self._add_frames(video, every)
        if not len(self):
            raise FileNotFoundError(
                f"{folder} holds no pictures and no videos: expected "
                f"{', '.join((*PICTURE_SUFFIXES, *VIDEO_SUFFIXES))}"
            )

    def _add_frames(self, video: Path, every: int) -> None:
        try:
            for number, (_, rgb) in enumerate(frames_of_video(video)):
                if len(self.frames) == MAX_FRAMES:
                    return
                if number % every == 0:
                    self.frames.append(self._sample(rgb[..., ::-1], video.stem).image)
        except BagError as error:
            raise DataError(str(error)) from error

    def __len__(self) -> int:
        return len(self.pictures) + len(self.frames)

    def expect_classes(self, num_classes: int) -> None:
        """Does nothing: 255 is allowed with any number of classes."""

    def __getitem__(self, index: int) -> Sample:
        """Image uint8 (H, W, 3) RGB and labels uint8 (H, W), all 255.

        Raises:
            DataError: the picture is unreadable.
        """
        if index >= len(self.pictures):
            frame = self.frames[index - len(self.pictures)]
            return Sample(frame, np.full(frame.shape[:2], UNLABELLED, np.uint8), "frame")
        path = self.pictures[index]
        return self._sample(read_bgr(path), path.stem)

    def _sample(self, bgr: NDArray[np.uint8], name: str) -> Sample:
        nothing = np.full(bgr.shape[:2], UNLABELLED, np.uint8)
        rgb, labels = rgb_and_labels(np.ascontiguousarray(bgr), nothing, self.long_side)
        return Sample(rgb, labels, name)
