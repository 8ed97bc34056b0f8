# SPDX-License-Identifier: Apache-2.0
"""Random transforms of a picture together with its labels, from an explicit generator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sfseg_ros.model.manifest import UNLABELLED
from training.data.dataset import Sample

PADDING_RGB = (124, 116, 104)
"""Colour beside the picture: about ImageNet's mean, which normalisation turns into nearly 0."""


@dataclass(frozen=True)
class Augmentation:
    """Random scale, crop, flip and colour.

    Args:
        crop_size: (height, width) of the result.
        scale: range of the uniform random scale. Paper: SFNet [0.75, 2.0]; Differs: the authors'
            scripts [0.5, 2.0].
        rotation_degrees: maximum rotation in either direction.
        jitter: relative range of brightness, contrast and saturation, as in the authors' scripts
            (0.25).
        hue_degrees: maximum shift of the hue.
        blur_probability: of a Gaussian blur, sigma 0.15 to 1.3.
    """

    crop_size: tuple[int, int]
    scale: tuple[float, float] = (0.5, 2.0)
    rotation_degrees: float = 0.0
    jitter: float = 0.25
    hue_degrees: float = 8.0
    blur_probability: float = 0.2

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        image, labels = self._place(sample, rng)
        return Sample(self._recolour(image, rng), labels, sample.name)

    def _place(
        self, sample: Sample, rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | NDArray[np.uint16]]:
        """Scales, rotates, flips and crops in one affine warp, hence with one interpolation."""
        height, width = sample.labels.shape
        crop_height, crop_width = self.crop_size
        scale = float(rng.uniform(*self.scale))
        angle = np.deg2rad(rng.uniform(-self.rotation_degrees, self.rotation_degrees))
        cos, sin = scale * np.cos(angle), scale * np.sin(angle)
        flip = -1.0 if rng.random() < 0.5 else 1.0
        linear = np.array([[cos * flip, -sin], [sin * flip, cos]])
        # The crop lies anywhere in a larger picture; a smaller picture is centred.
        spare_x = max(width * scale - crop_width, 0.0) * (rng.random() - 0.5)
        spare_y = max(height * scale - crop_height, 0.0) * (rng.random() - 0.5)
        centre = np.array([(width - 1) / 2, (height - 1) / 2])
        target = np.array([(crop_width - 1) / 2 + spare_x, (crop_height - 1) / 2 + spare_y])
        matrix = np.hstack([linear, (target - linear @ centre)[:, None]])
        source = sample.image
        if scale < 0.8:  # against aliasing: bilinear sampling skips pixels
            source = np.asarray(cv2.GaussianBlur(source, (0, 0), 0.4 / scale), np.uint8)
        image = cv2.warpAffine(
            source, matrix, (crop_width, crop_height), flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT, borderValue=PADDING_RGB,
        )  # fmt: skip
        labels: Any = cv2.warpAffine(
            sample.labels, matrix, (crop_width, crop_height), flags=cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT, borderValue=UNLABELLED,
        )  # fmt: skip
        return np.asarray(image, np.uint8), labels.astype(sample.labels.dtype, copy=False)

    def _recolour(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        contrast, brightness, saturation = 1.0 + rng.uniform(-self.jitter, self.jitter, 3)
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hue = (
            hsv[..., 0].astype(np.int16) + round(rng.uniform(-1, 1) * self.hue_degrees / 2)
        ) % 180
        hsv[..., 0] = hue.astype(np.uint8)
        hsv[..., 1] = cv2.convertScaleAbs(hsv[..., 1], alpha=saturation)
        image = np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)
        mean = float(image.mean())
        table = (np.arange(256) * brightness - mean) * contrast + mean
        image = np.clip(np.round(table), 0, 255).astype(np.uint8)[image]
        if rng.random() < self.blur_probability:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.15, 1.3)), np.uint8)
        return image
