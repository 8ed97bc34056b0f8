# SPDX-License-Identifier: Apache-2.0
"""ShuffleNet v2 at width 1.0.

Paper: Ma et al., "ShuffleNet V2: Practical Guidelines for Efficient CNN Architecture Design", ECCV
2018, figure 3 (c, d) and table 5.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.backbones import initialise_convolutions

STAGES = ((116, 4), (232, 8), (464, 4))  # channels and number of units at strides 8, 16, 32


class ShuffleUnit(nn.Module):
    """Passes half of the channels, convolves the other half, and shuffles the halves.

    At stride 2, convolutions compute both halves from all input channels.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch1: nn.Sequential | None = None
        if stride == 2:
            self.branch1 = nn.Sequential(
                *_depthwise(in_channels, stride), *_pointwise(in_channels, half)
            )
        self.branch2 = nn.Sequential(
            *_pointwise(in_channels if stride == 2 else half, half),
            *_depthwise(half, stride),
            *_pointwise(half, half),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H / stride, W / stride), rounded up."""
        if self.branch1 is None:
            first, second = x.chunk(2, dim=1)
        else:
            first, second = self.branch1(x), x
        # Channels 0, c/2, 1, c/2 + 1, ...: both halves reach both halves of the next unit.
        return torch.stack((first, self.branch2(second)), dim=2).flatten(1, 2)


class ShuffleNetV2(nn.Module):
    """ShuffleNet v2 x1.0 without classifier; the last map has 1024 channels.

    Parameter names are torchvision's.
    """

    name = "ShuffleNet v2"
    channels = (24, STAGES[0][0], STAGES[1][0], 1024)
    strides = (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(inplace=True),
        )
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        in_channels = 24
        stages: list[nn.Sequential] = []
        for channels, units in STAGES:
            layers = [ShuffleUnit(in_channels, channels, stride=2)]
            layers += [ShuffleUnit(channels, channels, stride=1) for _ in range(units - 1)]
            stages.append(nn.Sequential(*layers))
            in_channels = channels
        self.stage2, self.stage3, self.stage4 = stages
        self.conv5 = nn.Sequential(*_pointwise(in_channels, self.channels[3]))
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps, strides 4, 8, 16, 32, channels 24, 116, 232, 1024.

        Args:
            images: float (N, 3, H, W), RGB, normalised with the ImageNet mean and deviation.
        """
        stride4 = self.maxpool(self.conv1(images))
        stride8 = self.stage2(stride4)
        stride16 = self.stage3(stride8)
        return [stride4, stride8, stride16, self.conv5(self.stage4(stride16))]


def _pointwise(in_channels: int, channels: int) -> list[nn.Module]:
    return [
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    ]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
    ]
