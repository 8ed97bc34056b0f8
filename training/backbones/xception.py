# SPDX-License-Identifier: Apache-2.0
"""Small Xceptions: the stages that DFANet cascades, and the Xception-39 of BiSeNet.

Paper: Chollet, "Xception"; Li et al., "DFANet", table 1; Yu et al., "BiSeNet", which names
Xception-39 but prints no layers: they follow the authors' code (TorchSeg).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from training.backbones import initialise_convolutions

Projection = Literal["1x1", "separable"]


class SeparableConvolution(nn.Sequential):
    """Depthwise 3x3 and pointwise 1x1 with batch norm; ReLU unless `relu` is False."""

    def __init__(self, in_channels: int, channels: int, stride: int = 1, relu: bool = True) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(
                in_channels, in_channels, 3, stride, padding=1, groups=in_channels, bias=False
            ),
            nn.Conv2d(in_channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        ]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class Block(nn.Module):
    """Three separable convolutions (width, width, 4 * width) and a shortcut.

    The first has the stride. The shortcut is projected if the shape changes.

    Args:
        in_channels: of the input; the output has 4 * `width`.
        width: of the first two convolutions.
        stride: 1 or 2.
        projection: "1x1" (DFANet) or "separable", a separable convolution (BiSeNet's code).
    """

    def __init__(self, in_channels: int, width: int, stride: int, projection: Projection) -> None:
        super().__init__()
        channels = 4 * width
        self.residual = nn.Sequential(
            SeparableConvolution(in_channels, width, stride),
            SeparableConvolution(width, width),
            SeparableConvolution(width, channels, relu=False),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or in_channels != channels:
            self.shortcut = (
                SeparableConvolution(in_channels, channels, stride, relu=False)
                if projection == "separable"
                else nn.Sequential(
                    # The pool strides instead of the convolution, with equal results: oneDNN's
                    # backward pass of a strided 1x1 with fewer than 16 input channels,
                    # channels-last, writes outside its memory (torch 2.13, from 64x64, with AMX).
                    nn.AvgPool2d(1, stride),
                    nn.Conv2d(in_channels, channels, 1, bias=False),
                    nn.BatchNorm2d(channels),
                )
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, 4 * width, H / stride, W / stride), rounded up."""
        return self.relu(self.residual(x) + self.shortcut(x))  # type: ignore[no-any-return]


def stage(in_channels: int, width: int, blocks: int, projection: Projection) -> nn.Sequential:
    """A row of `blocks` Blocks of output width 4 * `width`; the first has stride 2."""
    first = Block(in_channels, width, 2, projection)
    rest = (Block(4 * width, width, 1, projection) for _ in range(blocks - 1))
    return nn.Sequential(first, *rest)


def stem(channels: int = 8) -> nn.Sequential:
    """The layer "conv1": a full 3x3 convolution, stride 2."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )


class Xception39(nn.Module):
    """Xception-39 trunk: (4, 8, 4) blocks at strides 8, 16 and 32, without classifier."""

    name = "Xception-39"
    channels = (64, 128, 256)
    strides = (8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = stem(8)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = stage(8, 16, 4, "separable")
        self.layer2 = stage(64, 32, 8, "separable")
        self.layer3 = stage(128, 64, 4, "separable")
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Three maps, strides 8, 16, 32, of normalised images float (N, 3, H, W)."""
        x = self.maxpool(self.conv1(images))
        maps: list[Tensor] = []
        for layer in (self.layer1, self.layer2, self.layer3):
            x = layer(x)
            maps.append(x)
        return maps
