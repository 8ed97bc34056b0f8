# SPDX-License-Identifier: Apache-2.0
"""The operations of SFNet that have their own kernels, in plain PyTorch.

During export each operation becomes one node of the ONNX domain `sfseg`, and training/export.py
adds its body in standard ONNX. Otherwise the PyTorch code below runs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# TensorRT's parser finds the plugin by these two attributes of the node.
PLUGIN_ATTRIBUTES = {"plugin_namespace": "sfseg", "plugin_version": "1"}


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes float (N, C, h, w) bilinearly to `size` (height, width), with aligned corners as the
    authors do."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


def sampling_grid(flow: Tensor) -> Tensor:
    """Returns sampling positions (N, H, W, 2), x first, in [-1, 1], of a flow (N, 2, H, W).

    They are a corner-aligned grid plus flow / (W, H).
    Paper: SFNet (IJCV) equation 2. Differs: the paper's displacement is twice as large for the same
    flow; this is the factor of the authors' code (AlignedModule.flow_warp). Training compensates.
    """
    height, width = flow.shape[2:]
    y = _corner_aligned(height, flow)
    x = _corner_aligned(width, flow)
    # Always fp32: in half precision the grid is off by an eighth of a pixel at W = 512.
    flow = flow.float()
    grid_x = x[None, None, :] + flow[:, 0] / width
    grid_y = y[None, :, None] + flow[:, 1] / height
    return torch.stack((grid_x, grid_y), dim=3)


def _corner_aligned(size: int, like: Tensor) -> Tensor:
    """Returns `size` positions from -1 to 1; a single position is -1, as in torch.linspace."""
    steps = torch.arange(size, device=like.device, dtype=torch.float32)
    return steps * (2.0 / max(size - 1, 1)) - 1.0


def flow_warp(features: Tensor, flow: Tensor, align_corners: bool = True) -> Tensor:
    """Samples `features` where `flow` points, bilinear, zeros outside.

    Paper: SFNet (IJCV) equation 3.

    Args:
        features: float (N, C, h, w) at any resolution.
        flow: float (N, 2, H, W), channel 0 = x, 1 = y, in units of (w-1)/(2W) and (h-1)/(2H)
            source pixels.
        align_corners: True in the authors' present code, False in their code of 2020.

    Returns:
        (N, C, H, W) in the dtype of `features`.
    """
    if torch.onnx.is_in_onnx_export():
        warped: Tensor = torch.onnx.ops.symbolic(
            "sfseg::FlowWarp",
            (features, flow),
            attrs={"align_corners": int(align_corners), **PLUGIN_ATTRIBUTES},
            dtype=features.dtype,
            shape=(*features.shape[:2], *flow.shape[2:]),
            version=1,
        )
        return warped
    grid = sampling_grid(flow)
    return F.grid_sample(
        features.float(), grid, padding_mode="zeros", align_corners=align_corners
    ).to(features.dtype)


def gated_flow_fusion(
    high: Tensor, low: Tensor, flow: Tensor, gate: Tensor, align_corners: bool = True
) -> Tensor:
    """gate * warp(high, flow[:, 0:2]) + (1 - gate) * warp(low, flow[:, 2:4]).

    Paper: SFNet (IJCV) equation 6 (GD-FAM). Differs: the printed equation puts the gate on `low`;
    the sentence before it and the authors' code put it on `high`.

    Args:
        high: float (N, C, h, w), the deep, coarse map.
        low: float (N, C, H, W), the shallow, fine map.
        flow: float (N, 4, H, W).
        gate: float (N, 1, H, W) in [0, 1].
        align_corners: see flow_warp.

    Returns:
        (N, C, H, W).
    """
    if torch.onnx.is_in_onnx_export():
        fused: Tensor = torch.onnx.ops.symbolic(
            "sfseg::GatedFlowFusion",
            (high, low, flow, gate),
            attrs={"align_corners": int(align_corners), **PLUGIN_ATTRIBUTES},
            dtype=low.dtype,
            shape=low.shape,
            version=1,
        )
        return fused
    high, low_input = _gradient_in_layout(high), _gradient_in_layout(low)
    warped_high = flow_warp(high, flow[:, 0:2], align_corners)
    warped_low = flow_warp(low_input, flow[:, 2:4], align_corners)
    mixed = torch.lerp(warped_low, warped_high, gate.to(low.dtype))
    return mixed.contiguous(memory_format=_memory_format(low))


def _gradient_in_layout(x: Tensor) -> Tensor:
    """Returns an alias of `x` whose gradient has the memory layout of `x`.

    The backward pass of grid_sample returns NCHW. Added to a channels-last gradient, it makes all
    earlier layers read memory with strides, which is slow on a CPU.
    """
    layout = _memory_format(x)
    alias = x.view_as(x)
    if alias.requires_grad:
        alias.register_hook(lambda gradient: gradient.contiguous(memory_format=layout))
    return alias


def _memory_format(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format


def upsample_argmax(scores: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Computes labels and confidence at full resolution from class scores at the output stride.

    Args:
        scores: float (N, C, h, w) before softmax, C <= 255.
        stride: the whole-number factor of the bilinear, corner-aligned upsampling.

    Returns:
        Labels uint8 (N, h*stride, w*stride), the lowest index among equal scores, and confidence
        uint8 of the same shape: the softmax probability of the label in 255ths, rounded.
    """
    height, width = scores.shape[2] * stride, scores.shape[3] * stride
    if torch.onnx.is_in_onnx_export():
        labels, confidence = torch.onnx.ops.symbolic_multi_out(
            "sfseg::UpsampleArgmax",
            (scores,),
            attrs={"stride": stride, **PLUGIN_ATTRIBUTES},
            dtypes=(torch.uint8, torch.uint8),
            shapes=((scores.shape[0], height, width),) * 2,
            version=1,
        )
        return labels, confidence
    full = resize(scores.float(), (height, width))
    best, labels = full.max(dim=1)
    total = torch.exp(full - best[:, None]).sum(dim=1)
    return labels.to(torch.uint8), torch.round(255.0 / total).to(torch.uint8)


def adaptive_average_pools(x: Tensor, bins: tuple[int, ...]) -> list[Tensor]:
    """Pools (N, C, H, W) adaptively to b x b averages for each b of `bins`.

    Two matrix products export all bins together. If a pool does not divide the map, the exporter's
    own form has one Gather and several Adds per cell, 823 nodes at 1024x2048, and a fixed size.
    """
    if not torch.onnx.is_in_onnx_export():
        return [F.adaptive_avg_pool2d(x, b) for b in bins]
    rows = _pooling_matrix(x.shape[2], bins)
    columns = _pooling_matrix(x.shape[3], bins)
    pooled = rows @ x @ columns.T
    ends = [sum(bins[: i + 1]) for i in range(len(bins))]
    return [pooled[:, :, end - b : end, end - b : end] for b, end in zip(bins, ends, strict=True)]


def _pooling_matrix(size: int, bins: tuple[int, ...]) -> Tensor:
    """Returns the matrix (sum of bins, size) whose row i of a block of b averages the positions
    [floor(i*size/b), ceil((i+1)*size/b)).

    The bounds are compared as integers without division, because a division in a low-precision
    graph could move a bound.
    """
    index = torch.tensor([i for b in bins for i in range(b)])[:, None]
    count = torch.tensor([b for b in bins for _ in range(b)])[:, None]
    position = torch.arange(size)[None, :]
    inside = ((position + 1) * count > index * size) & (position * count < (index + 1) * size)
    weight = inside.float()
    return weight / weight.sum(dim=1, keepdim=True)
