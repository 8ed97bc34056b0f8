# SPDX-License-Identifier: Apache-2.0
"""ColorMask and Overlay: labels as colours, alone and over the image.

They equal `imaging.color_mask` and `imaging.overlay`, for labels on the device.
"""

import numpy as np

from sfseg_ros.errors import BackendError
from sfseg_ros.imaging import Uint8Array
from sfseg_ros.kernels.launch import BLOCK_THREADS, MAX_ELEMENTS, Launch, Shape, blocks, elements
from sfseg_ros.model.manifest import UNLABELLED

PIXELS = 16
"""Neighbouring pixels per thread: 16 bytes of labels, 48 of colours."""


def color_mask(labels: Uint8Array, palette_rgb: Uint8Array) -> Uint8Array:
    """Return the colour of each label, uint8 (N, H, W, 3) RGB. `labels` is uint8 (N, H, W),
    `palette_rgb` uint8 (256, 3)."""
    return np.asarray(palette_rgb[labels])


def overlay(
    rgb: Uint8Array, labels: Uint8Array, palette_rgb: Uint8Array, alpha: float
) -> Uint8Array:
    """Paint the classes over the image. Returns uint8 (N, H, W, 3) RGB.

    `rgb` is uint8 (N, H, W, 3), `labels` uint8 (N, H, W), `alpha` from 0 to 1. Computes rgb * (1 -
    alpha) + colour * alpha in float32, rounded half to even. Unlabelled pixels (255) keep the
    image.
    """
    share, rest = np.float32(alpha), np.float32(1.0 - alpha)
    colours = color_mask(labels, palette_rgb).astype(np.float32)
    blended = np.rint(rgb.astype(np.float32) * rest + colours * share)
    painted = np.clip(blended, 0, 255).astype(np.uint8)
    return np.where((labels == UNLABELLED)[..., None], rgb, painted)


def color_mask_launch(labels_shape: Shape) -> Launch:
    """Return the launch. Inputs: labels, palette. Output: mask. Labels are (N, H, W).

    Minimum traffic: 4 bytes per pixel. Not run on a GPU.
    """
    return _launch("sfseg_color_mask", labels_shape, (), bytes_per_pixel=4)


def overlay_launch(labels_shape: Shape, alpha: float) -> Launch:
    """Return the launch. Inputs: rgb, labels, palette. Output: overlay. Labels are (N, H, W).

    Minimum traffic: 7 bytes per pixel. Not run on a GPU.
    """
    if not 0.0 <= alpha <= 1.0:
        raise BackendError(f"alpha is {alpha}: expected 0 (image only) to 1 (colours only)")
    scalars = (float(np.float32(alpha)), float(np.float32(1.0 - alpha)))
    return _launch("sfseg_overlay", labels_shape, scalars, bytes_per_pixel=7)


def _launch(
    kernel: str, labels_shape: Shape, scalars: tuple[float, ...], bytes_per_pixel: int
) -> Launch:
    pixels = elements(labels_shape)
    if len(labels_shape) != 3 or not 1 <= pixels <= MAX_ELEMENTS // 3:
        raise BackendError(
            f"labels have shape {tuple(labels_shape)}, expected (N, H, W) of 1 to "
            f"{MAX_ELEMENTS // 3} pixels"
        )
    return Launch(
        kernel,
        (blocks(pixels, BLOCK_THREADS * PIXELS), 1, 1),
        (BLOCK_THREADS, 1, 1),
        (pixels, *scalars),
        bytes_moved=bytes_per_pixel * pixels + 3 * 256,
    )
