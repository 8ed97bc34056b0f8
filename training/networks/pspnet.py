# SPDX-License-Identifier: Apache-2.0
"""PSPNet: a dilated ResNet and pyramid pooling.

Paper: Zhao et al., "Pyramid Scene Parsing Network", CVPR 2017, sections 3.2 and 3.3, figure 3.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from training.backbones.resnet import ResNet, Stem
from training.networks.context import PyramidPooling as SFNetPyramidPooling
from training.networks.layers import conv_bn_relu
from training.operators import adaptive_average_pools, resize
from training.weights import renamed

Head = Literal["paper", "sfnet"]


class PyramidPooling(nn.Module):
    """Concatenates the map with its averages over cells of four sizes.

    Paper: figure 3 (c): bins 1, 2, 3, 6, each reduced to a quarter of the channels, concatenated.
    """

    bins = (1, 2, 3, 6)

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            conv_bn_relu(in_channels, in_channels // 4, 1) for _ in self.bins
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, 2 * in_channels, h, w)."""
        size = (x.shape[2], x.shape[3])
        pools = adaptive_average_pools(x, self.bins)
        levels = [resize(stage(pool), size) for stage, pool in zip(self.stages, pools, strict=True)]
        return torch.cat([x, *levels], dim=1)


class PSPNet(nn.Module):
    """PSPNet on a ResNet whose layer3 and layer4 are dilated instead of strided.

    Args:
        trunk: ResNet of output stride 8.
        num_classes: width of the class scores.
        head: "paper": pyramid pooling, 3x3 to 512 channels, classifier. "sfnet": the head in the
            code of SFNet's authors, which their tables measure: no ReLU after a bin's convolution,
            1x1 to 512 channels, 3x3 to 256, a classifier without bias, no auxiliary head.
        auxiliary: whether the head "paper" has an auxiliary head on layer3 for training.
    """

    output_stride = 8
    size_multiple = 8

    def __init__(
        self, trunk: ResNet, num_classes: int, head: Head = "paper", auxiliary: bool = True
    ) -> None:
        super().__init__()
        if trunk.strides[-1] != 8:
            raise ValueError(f"trunk has output stride {trunk.strides[-1]}, expected 8")
        self.description = f"PSPNet with {trunk.name}, head of {head}"
        self.num_classes = num_classes
        self.trunk = trunk
        middle, deep = trunk.channels[-2:]
        self.auxiliary_head: nn.Module | None = None
        if head == "paper":
            self.head = nn.Sequential(
                PyramidPooling(deep),
                *_classifier(2 * deep, 512, num_classes),
            )
            if auxiliary:
                self.auxiliary_head = _classifier(middle, 256, num_classes)
        elif head == "sfnet":
            self.head = nn.Sequential(
                SFNetPyramidPooling(deep, 512),
                *conv_bn_relu(512, 256, 3),
                nn.Conv2d(256, num_classes, 1, bias=False),
            )
        else:
            raise ValueError(f"head is {head!r}, expected 'paper' or 'sfnet'")

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, H/8, W/8) of normalised images (N, 3, H, W)."""
        return self.head(self.trunk(images)[-1])  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """{"logits": (N, num_classes, H, W), "aux": scores of layer3 (stride 8) while training}."""
        *_, middle, deep = self.trunk(images)
        aux: list[Tensor] = []
        if self.training and self.auxiliary_head is not None:
            aux = [self.auxiliary_head(middle)]
        return {"logits": resize(self.head(deep), (images.shape[2], images.shape[3])), "aux": aux}


def _classifier(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(
        *conv_bn_relu(in_channels, channels, 3),
        nn.Dropout2d(0.1),
        nn.Conv2d(channels, num_classes, 1),
    )


def pspnet(
    num_classes: int,
    depth: Literal[50, 101] = 101,
    head: Head = "paper",
    auxiliary: bool = True,
    stem: Stem = "deep",
) -> PSPNet:
    """PSPNet with ResNet-50 or ResNet-101."""
    trunk = ResNet(depth, stem, dilations=(2, 4), output_stride=8)
    return PSPNet(trunk, num_classes, head, auxiliary)


def state_from_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of a SFSegNets checkpoint (PSPNet) to ours, for the head "sfnet"."""
    stages = tuple(
        # Their stage holds the pool as layer 0.
        (f"ppm.stages.{stage}.{layer + 1}.", f"head.0.stages.{stage}.{layer}.")
        for stage in range(len(SFNetPyramidPooling.bins))
        for layer in range(2)
    )
    prefixes = (
        ("layer0.0.", "trunk.conv1."),
        ("layer0.1.", "trunk.bn1."),
        ("layer", "trunk.layer"),
        ("ppm.bottleneck.", "head.0.bottleneck."),
        ("final.0.", "head.1."),
        ("final.1.", "head.2."),
        ("final.3.", "head.4."),
    )
    return renamed(state, (*stages, *prefixes))
