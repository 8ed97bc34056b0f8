# SPDX-License-Identifier: Apache-2.0
"""The block of nearly all heads."""

from __future__ import annotations

from torch import nn


def conv_bn_relu(
    in_channels: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    """Convolution without bias that keeps the size (at stride 1), batch norm, ReLU."""
    padding = dilation * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )
