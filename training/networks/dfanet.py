# SPDX-License-Identifier: Apache-2.0
"""DFANet: several copies of a light backbone in a row, each on the output of the one before.

Paper: Li et al., "DFANet: Deep Feature Aggregation for Real-Time Semantic Segmentation", section 3,
table 1 and figure 3. The authors published no code, and the paper leaves layers open. These layers
reproduce its FLOPs tables best (A within 5 %, B within 12 %), see training/papers/TABLES.md.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from training.backbones import initialise_convolutions
from training.backbones.xception import stage, stem
from training.networks.layers import conv_bn_relu
from training.operators import resize

Decoder = Literal["none", "HL", "HL+LL"]

WIDTHS = {"A": (12, 24, 48), "B": (8, 16, 32)}
BLOCKS = (4, 6, 4)
IMAGENET_CLASSES = 1000
# Not in the paper. 32 channels cost the 0.7 GFLOPs that table 4 prints for "LL".
DECODER_CHANNELS = 32


class FullyConnectedAttention(nn.Module):
    """FC attention: one factor per channel, computed from the whole map.

    Paper: section 3.3: global pooling, the fully-connected layer of the ImageNet classifier, a 1x1
    convolution back to the map's channels, a channel-wise product. Differs: a sigmoid bounds the
    factors; the paper names none, and three unbounded products in a row diverge at its learning
    rate.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(channels, IMAGENET_CLASSES)
        self.reduce = nn.Linear(IMAGENET_CLASSES, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        factors = torch.sigmoid(self.reduce(self.classifier(x.mean(dim=(2, 3)))))
        return x * factors[:, :, None, None]


class SubNetwork(nn.Module):
    """Stages enc2, enc3 and enc4 of the modified Xception, followed by the attention.

    Args:
        inputs: input channels of enc2, enc3 and enc4.
        widths: of the three stages; the output of each has four times as many channels.
        attention: False omits the FC attention (table 2, "Xception").
    """

    def __init__(
        self, inputs: tuple[int, int, int], widths: tuple[int, int, int], attention: bool
    ) -> None:
        super().__init__()
        self.enc2, self.enc3, self.enc4 = (
            stage(channels, width, blocks, "1x1")
            for channels, width, blocks in zip(inputs, widths, BLOCKS, strict=True)
        )
        self.attention = FullyConnectedAttention(4 * widths[2]) if attention else nn.Identity()

    def forward(self, x: Tensor, before: list[Tensor]) -> list[Tensor]:
        """Returns the maps of enc2, enc3, enc4 and the attention, at 2, 4, 8 and 8 times the stride
        of `x`.

        Args:
            x: float (N, C, H, W).
            before: result of this method of the previous copy, [] for the first copy (sub-stage
                aggregation, equation 1).
        """
        enc2 = self.enc2(x)
        enc3 = self.enc3(torch.cat([enc2, *before[1:2]], dim=1))
        enc4 = self.enc4(torch.cat([enc3, *before[2:3]], dim=1))
        return [enc2, enc3, enc4, self.attention(enc4)]


class DFANet(nn.Module):
    """Several copies of one backbone, each at half the resolution of the one before, and a decoder.

    Differs: "initialised with the same pretrained weight" (section 3.3) is possible only where
    shapes agree: from the second copy on, the first block of a stage has more input channels.

    Args:
        backbone: "A" or "B" (table 1).
        num_classes: width of the class scores.
        backbones: number of copies, 1 to 4; the paper's networks have 3.
        decoder: "HL+LL" adds the copies' deep and shallow maps (figure 3), "HL" the deep ones only,
            "none" classifies the last map and upsamples bilinearly (table 4).
        attention: whether FC attention follows each copy (table 2).
    """

    def __init__(
        self,
        backbone: str,
        num_classes: int,
        backbones: int = 3,
        decoder: Decoder = "HL+LL",
        attention: bool = True,
    ) -> None:
        super().__init__()
        if backbone not in WIDTHS:
            raise ValueError(f"backbone is {backbone!r}, expected {' or '.join(map(repr, WIDTHS))}")
        if not 1 <= backbones <= 4:
            raise ValueError(f"backbones is {backbones}, expected 1 to 4")
        if decoder not in get_args(Decoder):
            raise ValueError(f"decoder is {decoder!r}, expected one of {get_args(Decoder)}")
        self.description = f"DFANet {backbone} x{backbones}, decoder {decoder}"
        self.num_classes = num_classes
        widths = WIDTHS[backbone]
        shallow, middle, deep = (4 * width for width in widths)
        first = (8, shallow, middle)
        later = (shallow + deep, shallow + middle, middle + deep)
        self.conv1 = stem(8)
        self.backbones = nn.ModuleList(
            SubNetwork(later if copy else first, widths, attention) for copy in range(backbones)
        )
        if decoder == "none":
            self.output_stride = 16 * 2 ** (backbones - 1)
            self.size_multiple = self.output_stride
            self.head = nn.Conv2d(deep, num_classes, 1)
        else:
            self.output_stride = 4
            # Any size works; multiples of 16 keep the first copy's map, the largest, uncropped.
            self.size_multiple = 16
            self.high = _projections(deep, backbones)
            self.head = nn.Conv2d(DECODER_CHANNELS, num_classes, 1)
        if decoder == "HL+LL":
            self.low = _projections(shallow, backbones)
            self.smooth = conv_bn_relu(DECODER_CHANNELS, DECODER_CHANNELS, 3)
        self.decoder = decoder
        initialise_convolutions(self.conv1)
        initialise_convolutions(self.backbones)

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, H/output_stride, W/output_stride) of normalised images (N,
        3, H, W); sizes are rounded up."""
        x = self.conv1(images)
        maps: list[Tensor] = []
        low: list[Tensor] = []
        high: list[Tensor] = []
        for backbone in self.backbones:
            maps = backbone(x, maps)
            low.append(maps[0])
            high.append(maps[3])
            # Sub-network aggregation: the next copy starts from the deep map at enc2's size.
            x = torch.cat([maps[0], resize(maps[3], _size(maps[0]))], dim=1)
        if self.decoder == "none":
            return self.head(high[-1])  # type: ignore[no-any-return]
        size = _size(low[0])
        fused = _sum(self.high, high, size)
        if self.decoder == "HL+LL":
            fused = fused + self.smooth(_sum(self.low, low, size))
        return self.head(fused)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """{"logits": (N, num_classes, H, W), "aux": []}: the paper has no auxiliary head."""
        logits = resize(self.scores(images), (images.shape[2], images.shape[3]))
        return {"logits": logits, "aux": []}


def _size(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


def _projections(in_channels: int, copies: int) -> nn.ModuleList:
    return nn.ModuleList(conv_bn_relu(in_channels, DECODER_CHANNELS, 1) for _ in range(copies))


def _sum(projections: nn.ModuleList, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
    """Projects the copies' maps, resizes them to one size and adds them."""
    levels = [resize(p(x), size) for p, x in zip(projections, maps, strict=True)]
    return sum(levels[1:], start=levels[0])


def dfanet_a(num_classes: int) -> DFANet:
    """DFANet A; A' is the same network on images of half the height (table 5)."""
    return DFANet("A", num_classes)


def dfanet_b(num_classes: int) -> DFANet:
    """DFANet B: two thirds of A's channels."""
    return DFANet("B", num_classes)
