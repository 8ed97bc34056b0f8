# SPDX-License-Identifier: Apache-2.0
"""STDC1 and STDC2, short-term dense concatenation networks.

Paper: Fan et al., "Rethinking BiSeNet For Real-time Semantic Segmentation", CVPR 2021, section 3.1,
figure 3 and table 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.backbones import initialise_convolutions


class ConvBatchNormReLU(nn.Module):
    """Convolution that keeps the size at stride 1, batch norm, ReLU.

    Unlike networks/layers.conv_bn_relu, its parts have the names of the authors' checkpoints.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, channels, kernel, stride, padding=kernel // 2, bias=False
        )
        self.bn = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.bn(self.conv(x)))  # type: ignore[no-any-return]


class ShortTermDenseConcatenation(nn.Module):
    """Concatenates the outputs of four convolutions in a row, of halving width.

    At stride 2, a depthwise convolution halves the input of the second convolution, and an average
    pool halves the first output before the concatenation. There is no shortcut.

    Args:
        channels: of the output; the convolutions give 1/2, 1/4, 1/8 and 1/8 of them.
        stride: 1 or 2.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        half, quarter, eighth = channels // 2, channels // 4, channels // 8
        self.conv_list = nn.ModuleList(
            [
                ConvBatchNormReLU(in_channels, half, 1),
                ConvBatchNormReLU(half, quarter, 3),
                ConvBatchNormReLU(quarter, eighth, 3),
                ConvBatchNormReLU(eighth, eighth, 3),
            ]
        )
        self.avd_layer: nn.Module = nn.Identity()
        self.skip: nn.Module = nn.Identity()
        if stride == 2:
            self.avd_layer = nn.Sequential(
                nn.Conv2d(half, half, 3, 2, padding=1, groups=half, bias=False),
                nn.BatchNorm2d(half),
            )
            self.skip = nn.AvgPool2d(3, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) -> (N, channels, H / stride, W / stride), rounded up."""
        first, *rest = self.conv_list
        x = first(x)
        outputs = [self.skip(x)]
        x = self.avd_layer(x)
        for conv in rest:
            x = conv(x)
            outputs.append(x)
        return torch.cat(outputs, dim=1)


class STDCNet(nn.Module):
    """STDC trunk without ImageNet classifier.

    Parameter names are those of the authors' ImageNet checkpoints (their `features`). Differs: the
    authors keep the classifier, 3.125 M parameters, in each segmentation network, where it never
    runs; it is not built here.

    Args:
        name: for descriptions.
        blocks: number of blocks at strides 8, 16 and 32.
        width: channels of the stride-4 map, a multiple of 2; the other maps are 4, 8 and 16 times
            as wide. The authors' networks have 64.
    """

    strides = (4, 8, 16, 32)

    def __init__(self, name: str, blocks: tuple[int, int, int], width: int = 64) -> None:
        super().__init__()
        if width < 2 or width % 2:
            raise ValueError(f"STDC width is {width}, expected a positive multiple of 2")
        self.name = name if width == 64 else f"{name} of width {width}"
        self.channels = (width, 4 * width, 8 * width, 16 * width)
        layers: list[nn.Module] = [
            ConvBatchNormReLU(3, width // 2, 3, stride=2),
            ConvBatchNormReLU(width // 2, width, 3, stride=2),
        ]
        ends = [len(layers)]
        in_channels = width
        for channels, count in zip(self.channels[1:], blocks, strict=True):
            for i in range(count):
                stride = 2 if i == 0 else 1
                layers.append(ShortTermDenseConcatenation(in_channels, channels, stride))
                in_channels = channels
            ends.append(len(layers))
        self.features = nn.ModuleList(layers)
        # The maps after these layers are returned.
        self.last_layers = tuple(end - 1 for end in ends)
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps, strides 4, 8, 16, 32, channels 64, 256, 512, 1024 at width 64.

        Args:
            images: float (N, 3, H, W), RGB, normalised with the ImageNet mean and deviation.
        """
        x = images
        maps: list[Tensor] = []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.last_layers:
                maps.append(x)
        return maps


def stdc1(width: int = 64) -> STDCNet:
    """STDC1, the authors' STDCNet813."""
    return STDCNet("STDC1", (2, 2, 2), width)


def stdc2(width: int = 64) -> STDCNet:
    """STDC2, the authors' STDCNet1446."""
    return STDCNet("STDC2", (4, 5, 3), width)
