# SPDX-License-Identifier: Apache-2.0
"""BiSeNet: a shallow path for detail beside a deep path for context.

Paper: Yu et al., "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation",
ECCV 2018, figure 2. It does not print widths, kernels and auxiliary heads: they follow the authors'
code (TorchSeg).
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn

from training.backbones import Backbone
from training.backbones.resnet import ResNet
from training.backbones.xception import Xception39
from training.networks.heads import score_head
from training.networks.layers import conv_bn_relu
from training.operators import resize

CHANNELS = 128


class AttentionRefinement(nn.Module):
    """ARM: a 3x3 convolution whose channels are scaled by a gate on the mean of the map.

    Paper: figure 2 (b).
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.convolution = conv_bn_relu(in_channels, channels, 3)
        self.attention = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, channels, h, w)."""
        x = self.convolution(x)
        return x * self.attention(x.mean(dim=(2, 3), keepdim=True))  # type: ignore[no-any-return]


class FeatureFusion(nn.Module):
    """FFM: convolves detail and context together, and adds the result weighted by channel.

    Paper: figure 2 (c).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = conv_bn_relu(channels, channels, 1)
        self.attention = nn.Sequential(
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Two maps (N, channels / 2, h, w) -> (N, channels, h, w)."""
        x = self.convolution(torch.cat([detail, context], dim=1))
        return x + x * self.attention(x.mean(dim=(2, 3), keepdim=True))  # type: ignore[no-any-return]


class BiSeNet(nn.Module):
    """BiSeNet on a trunk whose last two maps have strides 16 and 32.

    Args:
        trunk: the context path's backbone.
        num_classes: width of the class scores.
        head_channels: channels between the last 3x3 convolution and the classifier.
        auxiliary_channels: the same for the two auxiliary heads of training; 0 omits them, as the
            papers' parameter counts do.
    """

    output_stride = 8
    size_multiple = 32

    def __init__(
        self,
        trunk: Backbone,
        num_classes: int,
        head_channels: int = 64,
        auxiliary_channels: int = 256,
    ) -> None:
        super().__init__()
        self.description = f"BiSeNet with {trunk.name}"
        self.num_classes = num_classes
        self.trunk = trunk
        self.spatial_path = nn.Sequential(
            conv_bn_relu(3, 64, 7, stride=2),
            conv_bn_relu(64, 64, 3, stride=2),
            conv_bn_relu(64, 64, 3, stride=2),
            conv_bn_relu(64, CHANNELS, 1),
        )
        middle, deep = trunk.channels[-2:]
        self.global_context = conv_bn_relu(deep, CHANNELS, 1)
        self.attention_deep = AttentionRefinement(deep, CHANNELS)
        self.attention_middle = AttentionRefinement(middle, CHANNELS)
        self.refine_deep = conv_bn_relu(CHANNELS, CHANNELS, 3)
        self.refine_middle = conv_bn_relu(CHANNELS, CHANNELS, 3)
        self.fusion = FeatureFusion(2 * CHANNELS)
        self.head = score_head(2 * CHANNELS, head_channels, num_classes)
        self.auxiliary_heads = nn.ModuleList(
            score_head(CHANNELS, auxiliary_channels, num_classes)
            for _ in range(2 if auxiliary_channels else 0)
        )

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, H/8, W/8) of normalised images (N, 3, H, W)."""
        return self._scores_and_context(images)[0]

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """{"logits": (N, num_classes, H, W), "aux": scores at strides 16 and 8 while training}."""
        scores, context = self._scores_and_context(images)
        aux: list[Tensor] = []
        if self.training and len(self.auxiliary_heads):
            aux = [head(x) for head, x in zip(self.auxiliary_heads, context, strict=True)]
        return {"logits": resize(scores, (images.shape[2], images.shape[3])), "aux": aux}

    def _scores_and_context(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Scores, and the context path's two refined maps at strides 16 and 8."""
        detail = self.spatial_path(images)
        middle, deep = self.trunk(images)[-2:]
        tail = self.global_context(deep.mean(dim=(2, 3), keepdim=True))
        context = resize(self.attention_deep(deep) + tail, (middle.shape[2], middle.shape[3]))
        context_middle = self.refine_deep(context)
        context = resize(
            self.attention_middle(middle) + context_middle, (detail.shape[2], detail.shape[3])
        )
        context_fine = self.refine_middle(context)
        scores = self.head(self.fusion(detail, context_fine))
        return scores, [context_middle, context_fine]


def bisenet_r18(num_classes: int, auxiliary: bool = True) -> BiSeNet:
    """BiSeNet with ResNet-18, "BiSeNet2" in DFANet's table."""
    return BiSeNet(ResNet(18, "plain"), num_classes, 64, 256 if auxiliary else 0)


def bisenet_r101(num_classes: int, auxiliary: bool = True) -> BiSeNet:
    """BiSeNet with ResNet-101: deep stem and a wider head."""
    return BiSeNet(ResNet(101, "deep"), num_classes, 256, 256 if auxiliary else 0)


def bisenet_xception39(num_classes: int, auxiliary: bool = True) -> BiSeNet:
    """BiSeNet with Xception-39, "BiSeNet1" in DFANet's table."""
    return BiSeNet(Xception39(), num_classes, 64, 128 if auxiliary else 0)


# Pattern of their name of a layer, and our name; all replacements are applied in this order.
_NAMES = (
    (r"^context_path\.", "trunk."),
    (r"\.residual_branch\.", ".residual."),
    (r"\.proj\.", ".shortcut."),
    (r"\.(residual\.\d|shortcut)\.conv1\.", r".\1.0."),
    (r"\.point_wise_cbr\.conv\.", ".1."),
    (r"\.point_wise_cbr\.bn\.", ".2."),
    (r"^spatial_path\.conv_7x7\.", "spatial_path.0."),
    (r"^spatial_path\.conv_3x3_(\d)\.", r"spatial_path.\1."),
    (r"^spatial_path\.conv_1x1\.", "spatial_path.3."),
    (r"^global_context\.1\.", "global_context."),
    (r"^arms\.0\.", "attention_deep."),
    (r"^arms\.1\.", "attention_middle."),
    (r"^(attention_\w+)\.conv_3x3\.", r"\1.convolution."),
    (r"^(attention_\w+)\.channel_attention\.1\.", r"\1.attention."),
    (r"^refines\.0\.", "refine_deep."),
    (r"^refines\.1\.", "refine_middle."),
    (r"^ffm\.conv_1x1\.", "fusion.convolution."),
    (r"^ffm\.channel_attention\.1\.conv\.", "fusion.attention.0."),
    (r"^ffm\.channel_attention\.2\.conv\.", "fusion.attention.2."),
    (r"^heads\.([01])\.", r"auxiliary_heads.\1."),
    (r"^heads\.2\.", "head."),
    (r"^(head|auxiliary_heads\.\d)\.conv_3x3\.", r"\1."),
    (r"^(head|auxiliary_heads\.\d)\.conv_1x1\.", r"\1.3."),
    (r"\.conv\.", ".0."),
    (r"\.bn\.", ".1."),
)


def state_from_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of a TorchSeg checkpoint (BiSeNet) to ours."""
    ours: dict[str, Tensor] = {}
    for full_name, value in state.items():
        name = full_name.removeprefix("module.")
        for theirs, own in _NAMES:
            name = re.sub(theirs, own, name)
        ours[name] = value
    return ours
