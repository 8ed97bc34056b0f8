# SPDX-License-Identifier: Apache-2.0
"""DeepLabV3+: parallel dilated convolutions on the deepest map; the decoder adds the stride-4 map.

Paper: Chen et al., "Encoder-Decoder with Atrous Separable Convolution", section 3. Variants: on the
encoders of ESeg's table 8, with and without dilation, and that of SFNet's authors (IJCV tables 4 to
7).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from training.backbones import Backbone
from training.backbones.efficientnet import EfficientNet
from training.backbones.resnet import ResNet, Stem
from training.networks.context import ASPP
from training.networks.layers import conv_bn_relu
from training.operators import resize

# Paper: section 4, "256 filters" in ASPP and decoder, and 48 channels of the low-level map.
CHANNELS = 256
FINE_CHANNELS = 48


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ on a trunk with four maps, the first at stride 4.

    Differs: full 3x3 convolutions in ASPP (paper: separable as in the decoder). They fit ESeg's
    table 8 better; no variant gives all four of its costs.

    Args:
        trunk: backbone with `channels`, `strides`, `name` and forward(images) -> four maps.
        num_classes: width of the class scores.
        rates: dilations of ASPP. Paper: (6, 12, 18) on a map of stride 16.
        separable: whether the decoder's 3x3 convolutions are separable. Differs: the code of
            SFNet's authors has full ones.
    """

    output_stride = 4

    def __init__(
        self,
        trunk: Backbone,
        num_classes: int,
        rates: tuple[int, ...] = (6, 12, 18),
        separable: bool = True,
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.num_classes = num_classes
        self.size_multiple = trunk.strides[-1]
        self.description = f"DeepLabV3+ with {trunk.name} at output stride {trunk.strides[-1]}"
        self.context = ASPP(trunk.channels[-1], CHANNELS, rates)
        self.lateral = conv_bn_relu(trunk.channels[0], FINE_CHANNELS, 1)
        convolution = _separable_convolution if separable else partial(conv_bn_relu, kernel=3)
        self.decoder = nn.Sequential(
            *convolution(CHANNELS + FINE_CHANNELS, CHANNELS),
            *convolution(CHANNELS, CHANNELS),
            nn.Conv2d(CHANNELS, num_classes, 1),
        )

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, H/4, W/4) of normalised images (N, 3, H, W)."""
        maps = self.trunk(images)
        fine = self.lateral(maps[0])
        deep = resize(self.context(maps[-1]), (fine.shape[2], fine.shape[3]))
        return self.decoder(torch.cat([deep, fine], dim=1))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """{"logits": (N, num_classes, H, W), "aux": []}."""
        logits = resize(self.scores(images), (images.shape[2], images.shape[3]))
        return {"logits": logits, "aux": []}


def _separable_convolution(in_channels: int, channels: int) -> list[nn.Module]:
    """Depthwise 3x3 and pointwise 1x1, each with batch norm and ReLU."""
    return [
        nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels, bias=False),
        nn.BatchNorm2d(in_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(in_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    ]


def deeplabv3_plus_b1(num_classes: int, atrous: bool = True) -> DeepLabV3Plus:
    """DeepLabV3+ with EfficientNet-B1. With `atrous`, dilation replaces the last stride; otherwise
    ASPP's rates are halved with the size of its map, so that it sees as far in the image."""
    if atrous:
        return DeepLabV3Plus(EfficientNet(1.0, 1.1, output_stride=16), num_classes)
    return DeepLabV3Plus(EfficientNet(1.0, 1.1), num_classes, rates=(3, 6, 9))


def deeplabv3_plus_r50(
    num_classes: int, atrous: bool = True, stem: Stem = "plain", separable: bool = True
) -> DeepLabV3Plus:
    """DeepLabV3+ with ResNet-50; `atrous` as in deeplabv3_plus_b1."""
    if atrous:
        trunk = ResNet(50, stem, dilations=(1, 2), output_stride=16)
        return DeepLabV3Plus(trunk, num_classes, separable=separable)
    return DeepLabV3Plus(ResNet(50, stem), num_classes, rates=(3, 6, 9), separable=separable)
