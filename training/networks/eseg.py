# SPDX-License-Identifier: Apache-2.0
"""ESeg: an encoder without dilation, and a BiFPN that fuses maps down to 1/512 of the image.

Paper: Meng et al., "Revisiting Multi-Scale Feature Fusion for Semantic Segmentation", section 3.
There is no public code. Where the paper is silent (weighting in the BiFPN, its pooling and
resizing, the prediction head), the layers follow EfficientDet or reproduce the paper's parameters
and costs; comments say which. P_i is a map at stride 2^i.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.backbones import Backbone
from training.backbones.efficientnet import EfficientNet
from training.backbones.efficientnet_lite import EfficientNetLite
from training.backbones.resnet import ResNet
from training.operators import resize

Pyramid = Literal["bifpn", "fpn"]
PYRAMIDS = {"bifpn": "BiFPN", "fpn": "FPN"}
Activation = Callable[[], nn.Module]

# Paper: Tan et al., "EfficientDet": the decoder's batch norms, and the constant of equation (3).
NORM_EPSILON = 1e-3
NORM_MOMENTUM = 0.01
WEIGHT_EPSILON = 1e-4


class NormalisedFusion(nn.Module):
    """Sums maps of one size, weighted by learned scalars in [0, 1].

    Paper: EfficientDet, section 3.3, fast normalised fusion. ESeg does not say how its BiFPN
    weights maps.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps (N, C, h, w) -> (N, C, h, w)."""
        positive = F.relu(self.weight)
        return weighted_sum(maps, positive / (positive.sum() + WEIGHT_EPSILON))


class SoftmaxFusion(nn.Module):
    """Sums all levels at the size of the finest, weighted by a softmax of learned scalars.

    Paper: section 3.1, Prediction.
    """

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(inputs))

    def forward(self, maps: list[Tensor]) -> Tensor:
        """Maps (N, C, h_i, w_i), finest first -> (N, C, h_0, w_0)."""
        size = (maps[0].shape[2], maps[0].shape[3])
        same_size = [maps[0], *(resize(x, size) for x in maps[1:])]
        return weighted_sum(same_size, F.softmax(self.weight, dim=0))


def weighted_sum(maps: list[Tensor], weights: Tensor) -> Tensor:
    """Sum of weights[i] * maps[i]."""
    total = maps[0] * weights[0]
    for index in range(1, len(maps)):
        total = total + maps[index] * weights[index]
    return total


class SeparableNode(nn.Module):
    """Activation, depthwise 3x3, pointwise 1x1, batch norm (EfficientDet's order)."""

    def __init__(self, channels: int, activation: Activation) -> None:
        super().__init__()
        self.activation = activation()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, channels, 1)
        self.norm = _norm(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> (N, C, h, w)."""
        y: Tensor = self.norm(self.pointwise(self.depthwise(self.activation(x))))
        return y


class BiFPN(nn.Module):
    """One top-down pass from the deepest level, then one bottom-up pass from the finest.

    Paper: EfficientDet, figure 2 (d). Coarse maps are resized by nearest neighbour, fine maps by
    3x3 max pooling, as in its code.

    Args:
        channels: of every level.
        levels: number of levels, at least two.
        activation: of the nodes.
    """

    def __init__(self, channels: int, levels: int, activation: Activation) -> None:
        super().__init__()
        node = partial(SeparableNode, channels, activation)
        # Index 0 is the finest level; it has no bottom-up node, and the deepest no top-down node.
        self.down_fusions = nn.ModuleList(NormalisedFusion(2) for _ in range(levels - 1))
        self.down_nodes = nn.ModuleList(node() for _ in range(levels - 1))
        self.up_fusions = nn.ModuleList(NormalisedFusion(3) for _ in range(levels - 2))
        self.up_fusions.append(NormalisedFusion(2))
        self.up_nodes = nn.ModuleList(node() for _ in range(levels - 1))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (N, C, h_i, w_i), finest first, each half the one before (rounded up) -> the
        same."""
        down = list(maps)
        for i in reversed(range(len(maps) - 1)):
            coarse = F.interpolate(down[i + 1], size=maps[i].shape[2:], mode="nearest")
            down[i] = self.down_nodes[i](self.down_fusions[i]([maps[i], coarse]))
        up = [down[0]]
        for i in range(1, len(maps)):
            own = [maps[i]] if i == len(maps) - 1 else [maps[i], down[i]]
            fine = F.max_pool2d(up[i - 1], 3, 2, padding=1)
            up.append(self.up_nodes[i - 1](self.up_fusions[i - 1]([*own, fine])))
        return up


class FPN(nn.Module):
    """One top-down pass: each level is added to the next finer one, then smoothed by a full 3x3
    convolution.

    Paper: Lin et al., "Feature Pyramid Networks". ESeg's table 2 compares a BiFPN with it, "filter
    sizes adjusted"; full convolutions of the same width give that table's cost within 1.5 %.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.smooth = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1, bias=False), _norm(channels))
            for _ in range(levels)
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (N, C, h_i, w_i), finest first -> the same."""
        down = list(maps)
        for i in reversed(range(len(maps) - 1)):
            coarse = F.interpolate(down[i + 1], size=maps[i].shape[2:], mode="nearest")
            down[i] = maps[i] + coarse
        return [smooth(x) for smooth, x in zip(self.smooth, down, strict=True)]


class ESeg(nn.Module):
    """ESeg on a trunk with maps at strides 4, 8, 16, 32.

    Args:
        trunk: backbone with `channels`, `name` and forward(images) -> four maps, P2 to P5.
        num_classes: width of the class scores.
        channels: width of the decoder.
        repeats: number of BiFPNs in a row; an FPN is never repeated.
        finest: level of the class scores: 2, or 3 for the Lite form.
        deepest: 5, 7 or 9; levels deeper than P5 are pooled from it. Paper: table 1.
        pyramid: "bifpn" or "fpn". Paper: table 2.
        activation: of the decoder.
    """

    size_multiple = 32

    def __init__(
        self,
        trunk: Backbone,
        num_classes: int,
        channels: int,
        repeats: int,
        finest: int = 2,
        deepest: int = 9,
        pyramid: Pyramid = "bifpn",
        activation: Activation = nn.SiLU,
    ) -> None:
        super().__init__()
        if finest not in (2, 3):
            raise ValueError(f"finest is {finest}, expected 2 or 3")
        if deepest not in (5, 7, 9):
            raise ValueError(f"deepest is {deepest}, expected 5, 7 or 9")
        if pyramid not in PYRAMIDS:
            raise ValueError(f"pyramid is {pyramid!r}, expected 'bifpn' or 'fpn'")
        self.trunk = trunk
        self.num_classes = num_classes
        self.finest = finest
        self.deepest = deepest
        self.output_stride = 2**finest
        self.description = f"ESeg with {trunk.name}, {PYRAMIDS[pyramid]} on P{finest} to P{deepest}"
        widths = [*trunk.channels, *[trunk.channels[-1]] * (deepest - 5)][finest - 2 :]
        # Each input is projected once. EfficientDet's code projects it for each node that reads it,
        # which gives more parameters than the paper's table.
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, channels, 1), _norm(channels)) for width in widths
        )
        if pyramid == "bifpn":
            self.pyramid = nn.ModuleList(
                BiFPN(channels, len(widths), activation) for _ in range(repeats)
            )
        else:
            self.pyramid = nn.ModuleList([FPN(channels, len(widths))])
        self.fusion = SoftmaxFusion(len(widths))
        # One separable convolution before the classifier gives exactly the paper's parameters.
        self.head = nn.Sequential(
            SeparableNode(channels, activation),
            activation(),
            nn.Conv2d(channels, num_classes, 1),
        )

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, H/output_stride, W/output_stride) of normalised images
        (N, 3, H, W)."""
        maps = self.trunk(images)
        for _ in range(5, self.deepest):
            # Pooling ignores padding, as in TensorFlow, in which the paper's models ran.
            maps.append(F.avg_pool2d(maps[-1], 3, 2, padding=1, count_include_pad=False))
        maps = maps[self.finest - 2 :]
        maps = [lateral(x) for lateral, x in zip(self.laterals, maps, strict=True)]
        for block in self.pyramid:
            maps = block(maps)
        return self.head(self.fusion(maps))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """{"logits": (N, num_classes, H, W), "aux": []}."""
        height, width = images.shape[2], images.shape[3]
        if self.training and images.shape[0] == 1 and max(height, width) <= 2**self.deepest:
            raise ValueError(
                f"one image of {height}x{width} leaves one value per channel for the batch norm of "
                f"P{self.deepest}: expected at least two images, or one larger than "
                f"{2**self.deepest} pixels, to train on"
            )
        logits = resize(self.scores(images), (height, width))
        return {"logits": logits, "aux": []}


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=NORM_EPSILON, momentum=NORM_MOMENTUM)


def eseg_s(num_classes: int, deepest: int = 9, pyramid: Pyramid = "bifpn") -> ESeg:
    """ESeg-S; the encoder is EfficientNet-B1. `deepest` and `pyramid` as in ESeg."""
    return ESeg(EfficientNet(1.0, 1.1), num_classes, 96, 4, deepest=deepest, pyramid=pyramid)


def eseg_s_r50(num_classes: int) -> ESeg:
    """ESeg-S's decoder on ResNet-50 (paper: table 8); the plain stem gives the paper's cost."""
    return ESeg(ResNet(50, "plain"), num_classes, 96, 4)


def eseg_m(num_classes: int) -> ESeg:
    """ESeg-M; the encoder is EfficientNet-B4."""
    return ESeg(EfficientNet(1.4, 1.8), num_classes, 192, 5)


def eseg_l(num_classes: int) -> ESeg:
    """ESeg-L; the encoder is EfficientNet-B7."""
    return ESeg(EfficientNet(2.0, 3.1, epsilon=1e-3), num_classes, 288, 6)


def _lite(num_classes: int, width: float, depth: float, channels: int, repeats: int) -> ESeg:
    trunk = EfficientNet(width, depth, lite=True)
    return ESeg(trunk, num_classes, channels, repeats, finest=3, activation=nn.ReLU)


def eseg_lite_s(num_classes: int) -> ESeg:
    """ESeg-Lite-S (paper: table 3)."""
    return _lite(num_classes, 0.4, 0.6, 64, 1)


def eseg_lite_m(num_classes: int) -> ESeg:
    """ESeg-Lite-M (paper: table 3)."""
    return _lite(num_classes, 0.6, 1.0, 80, 2)


def eseg_lite_l(num_classes: int) -> ESeg:
    """ESeg-Lite-L (paper: table 3)."""
    return _lite(num_classes, 1.0, 1.0, 96, 3)


def eseg_efficientnet_lite(
    num_classes: int, variant: int, channels: int = 80, repeats: int = 2
) -> ESeg:
    """ESeg-Lite's decoder, by default two of ESeg-Lite-M's BiFPNs, on EfficientNet-Lite `variant`.

    Not in the paper: this encoder has public ImageNet weights.
    """
    trunk = EfficientNetLite(variant)
    return ESeg(trunk, num_classes, channels, repeats, finest=3, activation=nn.ReLU)
