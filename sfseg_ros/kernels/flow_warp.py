# SPDX-License-Identifier: Apache-2.0
"""FlowWarp: sample a feature map where a flow points.

Paper: SFNet (ECCV 2020) equation 3; `training/operators.py` is the same in PyTorch.
"""

import numpy as np
import numpy.typing as npt

from sfseg_ros.errors import BackendError
from sfseg_ros.imaging import Float32Array, FloatArray
from sfseg_ros.kernels.launch import (
    BLOCK_THREADS,
    ITEM_BYTES,
    PIXEL_TILE,
    SUFFIXES,
    VECTOR_BYTES,
    Launch,
    Shape,
    blocks,
    check_map,
    check_storage,
    elements,
)

LINEAR_CHANNELS = 16
"""Channels per thread of the linear kernel. They are many enough to amortise the position, and few
enough to fill a large GPU with a map of 1/4 of 1024x2048."""


def flow_warp(features: FloatArray, flow: FloatArray, align_corners: bool = True) -> FloatArray:
    """Sample `features` where `flow` points, bilinearly, with zeros outside.

    Args:
        features: float32 or float16 (N, C, h, w) at any resolution.
        flow: float32 or float16 (N, 2, H, W), channel 0 = x, 1 = y. Pixel i of n along an axis
            reads the source at g = i * (2 / max(n - 1, 1)) - 1 + flow / n, where -1 and 1 are
            centres of the outermost source pixels if `align_corners`, else their outer edges.
        align_corners: as in torch.nn.functional.grid_sample.

    Returns:
        (N, C, H, W) in the dtype of `features`; arithmetic is float32.

    The position is computed in float32, operation by operation as in `positions`, so it has the
    same bits on every machine. The weighted sum of four pixels may differ in the last bits. If the
    flow is NaN, infinite or points outside the map, the result is 0. NaN and infinity in `features`
    act as in grid_sample: each of the four pixels inside the map contributes, even with weight 0.
    """
    height, width = flow.shape[2:]
    x, y = positions(flow, features.shape[2:], align_corners)
    batch = np.arange(features.shape[0])[:, None, None]
    source = features.astype(np.float32).transpose(0, 2, 3, 1)
    warped = np.zeros((features.shape[0], height, width, features.shape[1]), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        for column, row, weight in taps(x, y, features.shape[2:]):
            pixels = source[batch, np.maximum(row, 0), np.maximum(column, 0)]
            inside = (row >= 0)[..., None] & (column >= 0)[..., None]
            warped += np.where(inside, pixels * weight[..., None], np.float32(0))
        return np.ascontiguousarray(warped.transpose(0, 3, 1, 2).astype(features.dtype))


def positions(
    flow: FloatArray, source_size: Shape, align_corners: bool
) -> tuple[Float32Array, Float32Array]:
    """Return where a flow (N, 2, H, W) points, in pixels of a source of (height, width).

    Returns x and y, float32 (N, H, W): NaN outside the source or if the flow is not finite.
    """
    return tuple(  # type: ignore[return-value]
        _position(flow[:, channel], source_size[dimension], dimension, align_corners)
        for channel, dimension in ((0, 1), (1, 0))
    )


def _position(flow: FloatArray, source: int, dimension: int, align_corners: bool) -> Float32Array:
    """Return one coordinate, along axis 1 + `dimension` of `flow` (N, H, W)."""
    one, two = np.float32(1), np.float32(2)
    n = np.float32(flow.shape[1 + dimension])
    index = np.arange(flow.shape[1 + dimension], dtype=np.float32)
    base = index * (two / np.maximum(n - one, one)) - one
    if dimension == 0:
        base = base[:, None]
    with np.errstate(invalid="ignore", over="ignore"):
        g = base + flow.astype(np.float32) / n
        if align_corners:
            position = (g + one) * (np.float32(source - 1) / two)
        else:
            position = ((g + one) * np.float32(source) - one) / two
        inside = (position >= -1) & (position < source)
    return np.where(inside, position, np.float32(np.nan))


def taps(
    x: Float32Array, y: Float32Array, source_size: Shape
) -> "list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Float32Array]]":
    """Return four (column, row, weight) for the results of `positions`. Column or row is -1 for a
    pixel outside the source."""
    nowhere = np.isnan(x) | np.isnan(y)
    x, y = np.where(nowhere, np.float32(-1), x), np.where(nowhere, np.float32(-1), y)
    left, top = np.floor(x), np.floor(y)
    result = []
    for down in (0, 1):
        for right in (0, 1):
            column, row = left.astype(np.int64) + right, top.astype(np.int64) + down
            wx = x - left if right else np.float32(1) - (x - left)
            wy = y - top if down else np.float32(1) - (y - top)
            column = np.where(nowhere | (column >= source_size[1]), -1, column)
            row = np.where(nowhere | (row >= source_size[0]), -1, row)
            result.append((column, row, wx * wy))
    return result


def flow_warp_launch(
    features_shape: Shape,
    flow_shape: Shape,
    align_corners: bool,
    dtype: str,
    layout: str,
    flow_dtype: str = "float32",
) -> Launch:
    """Return the launch. Inputs: features, flow. Output: warped.

    Shapes are (N, C, H, W) for every layout. `layout` is that of features and result; the flow is
    always linear. If channels are padded in memory (layout "hwc"), C is the padded number. Raises
    BackendError if shapes and types do not fit together.

    Minimum traffic: C * (h * w + H * W) * item + 2 * H * W * flow item bytes per image. Not run on
    a GPU.
    """
    check_storage(dtype, layout, flow_dtype)
    check_map("features", features_shape)
    check_map("flow", flow_shape, channels=2)
    n, channels, h, w = features_shape
    height, width = flow_shape[2:]
    if flow_shape[0] != n:
        raise BackendError(f"flow has {flow_shape[0]} images, expected {n} as the features")
    check_map("the warped map", (n, channels, height, width))
    if layout == "hwc":
        block = PIXEL_TILE
        grid = (blocks(width, block[1]), blocks(height, block[2]), n)
    else:
        block = (BLOCK_THREADS, 1, 1)
        pixels = blocks(height * width, BLOCK_THREADS * VECTOR_BYTES // ITEM_BYTES[dtype])
        grid = (pixels, blocks(channels, LINEAR_CHANNELS), n)
    moved = ITEM_BYTES[dtype] * n * channels * (h * w + height * width)
    return Launch(
        f"sfseg_flow_warp_{SUFFIXES[dtype]}_{layout}{flow_suffix(dtype, flow_dtype)}",
        grid,
        block,
        (channels, h, w, height, width, int(align_corners)),
        bytes_moved=moved + ITEM_BYTES[flow_dtype] * elements(flow_shape),
    )


def flow_suffix(dtype: str, flow_dtype: str) -> str:
    """Return the suffix of a kernel's name: empty if flow (and gate) are float32."""
    return "" if flow_dtype == "float32" else f"_flow_{SUFFIXES[dtype]}"
