# SPDX-License-Identifier: Apache-2.0
"""ResNet-18 as SFNet uses it: feature maps at strides 4, 8, 16 and 32.

Paper: He et al., "Deep Residual Learning", table 1; the deep stem is the one of the SFNet authors'
code (three 3x3 convolutions in place of one 7x7, 128 channels into layer1).
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

Stem = Literal["deep", "plain"]

WIDTHS = (64, 128, 256, 512)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut is projected when the shape changes."""

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(
            channels, channels, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class ResNet18(nn.Module):
    """ResNet-18 trunk without classifier.

    Parameter names are torchvision's (plain stem) and the SFNet authors' (deep stem), so both
    kinds of checkpoint load by name.

    Args:
        stem: "deep" (3x3 s2 64, 3x3 64, 3x3 128) or "plain" (torchvision's 7x7 s2 64).
        dilations: dilation of the second convolution of every block of layer3 and of layer4. No
            stride is removed. (1, 1) is the papers' network; Differs: the authors' code runs (2,
            4).
    """

    channels = WIDTHS
    strides = (4, 8, 16, 32)

    def __init__(self, stem: Stem = "deep", dilations: tuple[int, int] = (1, 1)) -> None:
        super().__init__()
        self.stem = stem
        if stem == "deep":
            self.conv1: nn.Module = nn.Sequential(
                nn.Conv2d(3, 64, 3, 2, padding=1, bias=False),
                nn.BatchNorm2d(64),
                nn.ReLU(inplace=True),
                nn.Conv2d(64, 64, 3, padding=1, bias=False),
                nn.BatchNorm2d(64),
                nn.ReLU(inplace=True),
                nn.Conv2d(64, 128, 3, padding=1, bias=False),
            )
            stem_channels = 128
        elif stem == "plain":
            self.conv1 = nn.Conv2d(3, 64, 7, 2, padding=3, bias=False)
            stem_channels = 64
        else:
            raise ValueError(f"stem is {stem!r}, expected 'deep' or 'plain'")
        self.bn1 = nn.BatchNorm2d(stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        self.layer1 = self._layer(stem_channels, WIDTHS[0], stride=1, dilation=1)
        self.layer2 = self._layer(WIDTHS[0], WIDTHS[1], stride=2, dilation=1)
        self.layer3 = self._layer(WIDTHS[1], WIDTHS[2], stride=2, dilation=dilations[0])
        self.layer4 = self._layer(WIDTHS[2], WIDTHS[3], stride=2, dilation=dilations[1])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _layer(in_channels: int, channels: int, stride: int, dilation: int) -> nn.Sequential:
        return nn.Sequential(
            BasicBlock(in_channels, channels, stride, dilation),
            BasicBlock(channels, channels, 1, dilation),
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps, strides 4, 8, 16, 32, channels 64, 128, 256, 512.

        Args:
            images: float (N, 3, H, W), RGB, normalised with the ImageNet mean and deviation.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps: list[Tensor] = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps
