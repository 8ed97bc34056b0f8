# SPDX-License-Identifier: Apache-2.0
"""Context modules for the deepest feature map: the four of SFNet's ablation (ECCV table 3, IJCV
table 8c).

Each is built from (in_channels, channels) and maps float (N, in_channels, h, w) to (N, channels, h,
w).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.networks.layers import conv_bn_relu
from training.operators import adaptive_average_pools, resize


class PyramidPooling(nn.Module):
    """Concatenates the map with its averages over 1, 2x2, 3x3 and 6x6 regions.

    Paper: Zhao et al., "Pyramid Scene Parsing Network", section 3.2. Differs: no ReLU after the
    batch norm of a bin, and a 1x1 bottleneck, as in the SFNet authors' code.
    """

    bins = (1, 2, 3, 6)

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
            for _ in self.bins
        )
        self.bottleneck = _bottleneck(in_channels + len(self.bins) * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[2], x.shape[3])
        pools = adaptive_average_pools(x, self.bins)
        levels = [resize(stage(pool), size) for stage, pool in zip(self.stages, pools, strict=True)]
        return self.bottleneck(torch.cat([*levels, x], dim=1))  # type: ignore[no-any-return]


class NonLocal(nn.Module):
    """Adds to each position a mean of all positions, weighted by similarity.

    Paper: Wang et al., "Non-local Neural Networks", section 3.2, embedded Gaussian form. Differs:
    a bottleneck to the width of the decoder follows; SFNet's paper does not show the connection.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        embedded = in_channels // 2
        self.query = nn.Conv2d(in_channels, embedded, 1)
        self.key = nn.Conv2d(in_channels, embedded, 1)
        self.value = nn.Conv2d(in_channels, embedded, 1)
        self.out = nn.Conv2d(embedded, in_channels, 1)
        self.bottleneck = _bottleneck(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (f(x).flatten(2) for f in (self.query, self.key, self.value))
        likeness = torch.softmax(query.transpose(1, 2) @ key, dim=2)  # (N, h*w, h*w)
        gathered = (value @ likeness.transpose(1, 2)).unflatten(2, (x.shape[2], x.shape[3]))
        return self.bottleneck(x + self.out(gathered))  # type: ignore[no-any-return]


class ASPP(nn.Module):
    """Parallel dilated convolutions and the mean of the whole map.

    Paper: Chen et al., "Rethinking Atrous Convolution", section 3.3 (rates for output stride 16).
    """

    def __init__(
        self, in_channels: int, channels: int, rates: tuple[int, ...] = (6, 12, 18)
    ) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                conv_bn_relu(in_channels, channels, 1),
                *(conv_bn_relu(in_channels, channels, 3, dilation=rate) for rate in rates),
            ]
        )
        self.image = conv_bn_relu(in_channels, channels, 1)
        self.bottleneck = _bottleneck((len(self.branches) + 1) * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        image = self.image(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])
        branches = [branch(x) for branch in self.branches]
        return self.bottleneck(torch.cat([*branches, image], dim=1))  # type: ignore[no-any-return]


class DenseASPP(nn.Module):
    """Dilated convolutions in a row, each reading all previous maps.

    Paper: Yang et al., "DenseASPP for Semantic Segmentation in Street Scenes", section 3: rates 3
    to 24; each convolution reads a 1x1 reduction to half of the input's channels and adds an
    eighth.
    """

    rates = (3, 6, 12, 18, 24)

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        half, growth = in_channels // 2, in_channels // 8
        self.layers = nn.ModuleList(
            nn.Sequential(
                conv_bn_relu(in_channels + i * growth, half, 1),
                conv_bn_relu(half, growth, 3, dilation=rate),
            )
            for i, rate in enumerate(self.rates)
        )
        self.bottleneck = _bottleneck(in_channels + len(self.rates) * growth, channels)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return self.bottleneck(x)  # type: ignore[no-any-return]


def _bottleneck(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(*conv_bn_relu(in_channels, channels, 1), nn.Dropout2d(0.1))
