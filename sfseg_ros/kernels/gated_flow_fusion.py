# SPDX-License-Identifier: Apache-2.0
"""GatedFlowFusion: the two warps of SFNet-Lite, their gate and their sum in one pass (GD-FAM).

Paper: SFNet-Lite (IJCV) equation 6; `training/operators.py` is the same in PyTorch.
"""

import numpy as np

from sfseg_ros.errors import BackendError
from sfseg_ros.imaging import FloatArray
from sfseg_ros.kernels.flow_warp import flow_suffix, flow_warp
from sfseg_ros.kernels.launch import (
    BLOCK_THREADS,
    ITEM_BYTES,
    PIXEL_TILE,
    SUFFIXES,
    Launch,
    Shape,
    blocks,
    check_map,
    check_storage,
    elements,
)

LINEAR_PIXELS = 4
LINEAR_CHANNELS = 16
"""Pixels and channels per thread of the linear kernel. float16 also has only four pixels (8 bytes),
because the positions of eight pixels with two flows each do not fit in the registers."""


def gated_flow_fusion(
    high: FloatArray,
    low: FloatArray,
    flow: FloatArray,
    gate: FloatArray,
    align_corners: bool = True,
) -> FloatArray:
    """Compute gate * warp(high, flow[:, 0:2]) + (1 - gate) * warp(low, flow[:, 2:4]).

    Args:
        high: float32 or float16 (N, C, h, w), the deep, coarse map.
        low: like `high`, (N, C, H, W), the shallow, fine map.
        flow: float32 or float16 (N, 4, H, W); see `flow_warp.flow_warp`.
        gate: like `flow`, (N, 1, H, W), in [0, 1]; other values are not clipped.
        align_corners: as in torch.nn.functional.grid_sample.

    Returns:
        (N, C, H, W) in the dtype of `high`; arithmetic is float32, rounded once at the end.

    Positions outside the map and values that are not finite act as in `flow_warp.flow_warp`. A NaN
    in the gate makes its pixel NaN.
    """
    dtype = high.dtype
    high, low, gate = (array.astype(np.float32) for array in (high, low, gate))
    with np.errstate(invalid="ignore", over="ignore"):
        warped_high = flow_warp(high, flow[:, 0:2], align_corners)
        warped_low = flow_warp(low, flow[:, 2:4], align_corners)
        fused = gate * warped_high + (np.float32(1) - gate) * warped_low
        return np.asarray(fused.astype(dtype))


def gated_flow_fusion_launch(
    high_shape: Shape,
    low_shape: Shape,
    align_corners: bool,
    dtype: str,
    layout: str,
    flow_dtype: str = "float32",
) -> Launch:
    """Return the launch. Inputs: high, low, flow, gate. Output: fused, of the shape of low.

    Shapes are (N, C, H, W) for every layout. `layout` is that of high, low and result; flow and
    gate are always linear and of `flow_dtype`. If channels are padded in memory (layout "hwc"), C
    is the padded number. Raises BackendError if shapes and types do not fit together.

    Minimum traffic: C * (h * w + 2 * H * W) * item + 5 * H * W * flow item bytes per image. Not run
    on a GPU.
    """
    check_storage(dtype, layout, flow_dtype)
    check_map("high", high_shape)
    check_map("low", low_shape)
    n, channels, h, w = high_shape
    height, width = low_shape[2:]
    if low_shape[:2] != high_shape[:2]:
        raise BackendError(
            f"low has shape {tuple(low_shape)}, expected ({n}, {channels}, H, W) as high has "
            f"{tuple(high_shape)}"
        )
    if layout == "hwc":
        block = PIXEL_TILE
        grid = (blocks(width, block[1]), blocks(height, block[2]), n)
    else:
        block = (BLOCK_THREADS, 1, 1)
        pixels = blocks(height * width, BLOCK_THREADS * LINEAR_PIXELS)
        grid = (pixels, blocks(channels, LINEAR_CHANNELS), n)
    moved = ITEM_BYTES[dtype] * (elements(high_shape) + 2 * elements(low_shape))
    return Launch(
        f"sfseg_gated_flow_fusion_{SUFFIXES[dtype]}_{layout}{flow_suffix(dtype, flow_dtype)}",
        grid,
        block,
        (channels, h, w, height, width, int(align_corners)),
        bytes_moved=moved + ITEM_BYTES[flow_dtype] * 5 * n * height * width,
    )
