# SPDX-License-Identifier: Apache-2.0
"""ResNet-18, 50 and 101 as SFNet uses them: feature maps at strides 4, 8, 16 and 32.

Paper: He et al., "Deep Residual Learning", table 1. Differs: the deep stem is the one of the SFNet
authors' code (three 3x3 convolutions in place of one 7x7, 128 channels into layer1), and a
bottleneck's stride is on its 3x3, as in torchvision.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from training.backbones import initialise_convolutions
from training.weights import renamed

Depth = Literal[18, 50, 101]
Stem = Literal["deep", "plain"]

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the shortcut is projected if the shape changes."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(
            channels, channels, 3, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample = _projection(in_channels, channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3 (with stride and dilation), 1x1 to four times the width, and a shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, dilation: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(
            channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False
        )
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.relu(self.bn3(self.conv3(x)) + shortcut)  # type: ignore[no-any-return]


def _projection(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class ResNet(nn.Module):
    """A ResNet without classifier.

    Parameter names are torchvision's (plain stem) and the SFNet authors' (deep stem), so both
    kinds of checkpoint load by name.

    Args:
        depth: 18 (two 3x3 convolutions per block), 50 or 101 (bottlenecks).
        stem: "deep" (3x3 s2 64, 3x3 64, 3x3 128) or "plain" (torchvision's 7x7 s2 64).
        dilations: of the convolution "conv2" in all blocks of layer3 and of layer4. They remove no
            stride. (1, 1) is the papers' network; Differs: the authors' code has (2, 4).
        output_stride: of layer4: 32, 16 (layer4 keeps the size of layer3) or 8 (both keep that of
            layer2). A dilated network is output_stride=8 with dilations=(2, 4).
        width: of layer1; each later layer doubles it. ICNet's trunk has 32.
    """

    def __init__(
        self,
        depth: Depth,
        stem: Stem = "deep",
        dilations: tuple[int, int] = (1, 1),
        output_stride: Literal[8, 16, 32] = 32,
        width: int = 64,
    ) -> None:
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"depth is {depth}, expected 18, 50 or 101")
        if stem not in ("deep", "plain"):
            raise ValueError(f"stem is {stem!r}, expected 'deep' or 'plain'")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride is {output_stride}, expected 8, 16 or 32")
        self.name = f"ResNet-{depth} ({stem} stem)"
        block = BasicBlock if depth == 18 else Bottleneck
        widths = (width, 2 * width, 4 * width, 8 * width)
        self.channels = tuple(channels * block.expansion for channels in widths)
        self.strides = (4, 8, min(16, output_stride), output_stride)
        stem_channels = 2 * width if stem == "deep" else width
        self.conv1 = (
            _deep_stem(width) if stem == "deep" else nn.Conv2d(3, width, 7, 2, 3, bias=False)
        )
        self.bn1 = nn.BatchNorm2d(stem_channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        layers = []
        in_channels, in_stride = stem_channels, 4
        for count, channels, stride, dilation in zip(
            BLOCKS[depth], widths, self.strides, (1, 1, *dilations), strict=True
        ):
            blocks: list[nn.Module] = []
            for _ in range(count):
                blocks.append(block(in_channels, channels, stride // in_stride, dilation))
                in_channels, in_stride = channels * block.expansion, stride
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps with `channels` channels at `strides`.

        Args:
            images: float (N, 3, H, W), RGB, normalised with the ImageNet mean and deviation.
        """
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps: list[Tensor] = []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
            maps.append(x)
        return maps


def state_from_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the ResNet trunk in a SFSegNets checkpoint of any network to ours."""
    stem = (("layer0.0.", "conv1."), ("layer0.1.", "bn1."))
    return renamed(state, (*stem, ("layer", "layer")))


def _deep_stem(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False),
    )
