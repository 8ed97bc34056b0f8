# SPDX-License-Identifier: Apache-2.0
"""UpsampleArgmax: labels and confidence at full size from class scores at the output stride.

The scores are upsampled bilinearly with aligned corners, as in `training/operators.py`.
They never exist in memory at full size.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import BackendError
from sfseg_ros.imaging import Float32Array, FloatArray, Uint8Array
from sfseg_ros.kernels.launch import (
    BLOCK_THREADS,
    ITEM_BYTES,
    MAX_ELEMENTS,
    MAX_MAP_SIDE,
    SUFFIXES,
    Launch,
    Shape,
    blocks,
    check_map,
    check_storage,
    elements,
)
from sfseg_ros.model.manifest import UNLABELLED

IndexArray = npt.NDArray[np.int64]

TILE_WIDTH, TILE_HEIGHT = 128, 32
"""Pixels of the result per block. upsample_argmax.cu has the same constants."""


def upsample_argmax(
    scores: FloatArray, stride: int, threshold: int = 0, remap: Uint8Array | None = None
) -> tuple[Uint8Array, Uint8Array]:
    """Compute labels and confidence at `stride` times the size of `scores`.

    Args:
        scores: float32 or float16 (N, C, h, w) before softmax, C <= 255.
        stride: the factor, an integer from 1.
        threshold: labels whose confidence is below it become 255 (unlabelled).
        remap: uint8 (256,), applied to the labels last; entry 255 replaces unlabelled.

    Returns:
        labels uint8 (N, h * stride, w * stride) and confidence uint8 of the same shape: the softmax
        probability of the winning class in 255ths, rounded to nearest (half to even).

    Pixel i of n lies at i * ((m - 1) / (n - 1)) of m source pixels (at 0 if n is 1). This is
    float32, operation by operation as below, so labels have the same bits on every machine. The
    confidence may differ by 1, because the exponential may round differently.

    The winner is the class with the highest score, the lowest index among equals. If the four
    pixels of `scores` around a pixel have the same winner, it wins: bilinear interpolation cannot
    change that, and rounding must not. Only a score above -inf can win, so NaN never wins. If no
    class has such a score, the label is 255 and the confidence 0. A class whose share is NaN adds
    nothing to the sum of the softmax; the winner adds 1.
    """
    h, w = scores.shape[2:]
    height, width = h * stride, w * stride
    source = scores.astype(np.float32)
    top, bottom, fy = _places(height, h)
    left, right, fx = _places(width, w)
    gy, gx = np.float32(1) - fy, np.float32(1) - fx

    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        rows = gy[:, None] * source[:, :, top] + fy[:, None] * source[:, :, bottom]
        full = gx * rows[..., left] + fx * rows[..., right]
        winner = _winner(full)
        corner = _winner(source)
        corners = [corner[:, y][:, :, x] for y in (top, bottom) for x in (left, right)]
        agreed = np.logical_and.reduce([c == corners[0] for c in corners[1:]])

        usable = np.where(np.isnan(full), np.float32(-np.inf), full)
        best = usable.max(axis=1, keepdims=True)
        shares = np.exp(usable - best)
        shares = np.where(np.isnan(shares), np.float32(0), shares)
        index = np.where(winner == UNLABELLED, 0, winner).astype(np.int64)[:, None]
        np.put_along_axis(shares, index, np.float32(1), axis=1)
        confidence = np.rint(np.float32(255) / shares.sum(axis=1, dtype=np.float32))

    labels = np.where(agreed, corners[0], winner)
    confidence = np.where(winner == UNLABELLED, 0, confidence).astype(np.uint8)
    labels = np.where(confidence < threshold, np.uint8(UNLABELLED), labels)
    return (labels if remap is None else remap[labels]), confidence


def _places(size: int, source: int) -> tuple[IndexArray, IndexArray, Float32Array]:
    """Return (first source index, next index, weight of the next) for each pixel of an axis."""
    scale = np.float32(source - 1) / np.float32(max(size - 1, 1))
    position = np.arange(size, dtype=np.float32) * scale
    first = np.minimum(position.astype(np.int64), source - 1)
    return first, np.minimum(first + 1, source - 1), position - first.astype(np.float32)


def _winner(scores: Float32Array) -> Uint8Array:
    """Return uint8 (N, H, W): the lowest index of the highest score above -inf in (N, C, H, W), or
    255 if there is none."""
    usable = np.where(np.isnan(scores), np.float32(-np.inf), scores)
    none = np.isneginf(usable).all(axis=1)
    return np.where(none, np.uint8(UNLABELLED), usable.argmax(axis=1).astype(np.uint8))


def upsample_argmax_launch(
    scores_shape: Shape,
    stride: int,
    dtype: str,
    layout: str,
    confidence: bool,
    threshold: int = 0,
    remap: bool = False,
    padded_channels: int | None = None,
) -> Launch:
    """Return the launch. Inputs: scores[, remap table]. Outputs: labels[, confidence].

    `scores_shape` is (N, C, h, w) for every layout; C is the number of classes. `padded_channels`
    is the number of channels in memory if a pixel of layout "hwc" has more. A threshold requires
    `confidence`. Raises BackendError if the arguments do not fit together.

    Minimum traffic: C * h * w * item bytes of scores (for hwc with the padded C) and H * W bytes
    per output. Not run on a GPU.
    """
    check_storage(dtype, layout)
    check_map("scores", scores_shape)
    n, classes, h, w = scores_shape
    stored = classes if padded_channels is None else padded_channels
    if classes > UNLABELLED:
        raise BackendError(f"scores have {classes} classes, expected 1 to {UNLABELLED}")
    if stored < classes or (layout == "linear" and stored != classes):
        raise BackendError(
            f"{stored} padded channels for {classes} classes in layout {layout}: expected as many, "
            "or more in layout hwc"
        )
    check_map("scores", (n, stored, h, w))
    height, width = h * stride, w * stride
    if stride < 1 or height * width > MAX_ELEMENTS or max(height, width) > MAX_MAP_SIDE:
        raise BackendError(
            f"stride {stride} of scores of {h}x{w}: expected 1 or more, up to {MAX_ELEMENTS} "
            f"pixels and sides up to {MAX_MAP_SIDE}"
        )
    if not 0 <= threshold <= 255 or (threshold and not confidence):
        raise BackendError(
            f"threshold is {threshold}: expected 0 to 255, and confidence=True if it is not 0"
        )
    name = f"sfseg_upsample_argmax_{SUFFIXES[dtype]}_{layout}"
    moved = ITEM_BYTES[dtype] * elements((n, stored, h, w))
    return Launch(
        name + ("_confidence" if confidence else "") + ("_remap" if remap else ""),
        (blocks(width, TILE_WIDTH), blocks(height, TILE_HEIGHT), n),
        (BLOCK_THREADS, 1, 1),
        (classes, stored, h, w, stride, *((threshold,) if confidence else ())),
        bytes_moved=moved + (2 if confidence else 1) * n * height * width + 256 * remap,
    )


def launch_with_label_rules(launch: Launch, threshold: int) -> Launch:
    """Return `launch`, which has a confidence, with a threshold and a remap table added.

    The table is the input after the scores.
    """
    return replace(
        launch,
        kernel=f"{launch.kernel}_remap",
        scalars=(*launch.scalars[:-1], threshold),
        bytes_moved=launch.bytes_moved + 256,
    )
