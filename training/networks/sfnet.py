# SPDX-License-Identifier: Apache-2.0
"""SFNet: a feature pyramid whose upsampling follows a learned semantic flow.

Paper: Li et al., "Semantic Flow for Fast and Accurate Scene Parsing", ECCV 2020 (figures 3 and 4),
and its longer form, "SFNet: Faster, Accurate, and Domain Agnostic Semantic Segmentation via
Semantic Flow", IJCV (section 3.2), whose equations are cited here. `Differs:` marks where the
authors' code, which reproduces the papers' tables, departs from the text.

Of two levels, `low` is the shallow, fine map and `high` the deep, coarse one. The baselines and
ablations of the papers are arguments:

    sfnet_r18(19, aligned_levels=())                                     FPN + PPM, no FAM
    sfnet_r18(19, aligned_levels=(), context=lateral)                    FPN
    sfnet_r18(19, align=partial(FlowAlignment, kernel_size=5))
    sfnet_r18(19, align=partial(FlowAlignment, align_corners=False))     the authors' code of 2020
    sfnet_r18(19, align=DeformableAlignment)
    sfnet_r18(19, context=ASPP)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.backbones import Backbone
from training.backbones.dfnet import df1, df2
from training.backbones.resnet import ResNet, Stem
from training.backbones.shufflenet import ShuffleNetV2
from training.backbones.stdc import stdc1, stdc2
from training.networks.context import PyramidPooling
from training.networks.flow_alignment import BilinearAddition, FlowAlignment
from training.networks.heads import lateral, score_head, supervision_head
from training.networks.layers import conv_bn_relu
from training.operators import resize
from training.weights import renamed

DEEPEST = 5  # the papers' number of the last map, at stride 2^5


class SFNet(nn.Module):
    """Encoder, context module, feature pyramid with flow alignment, and a head on all its levels.

    Paper: section 3.2, figure 4(c). Differs: the head's inputs are resized to one size; ECCV's text
    uses FAM there as well, which IJCV calls an ablation.

    Args:
        trunk: backbone with any number of maps; the context module reads the last one.
        num_classes: width of the class scores.
        channels: width of the pyramid, D.
        context: builds the module on the deepest map from (its channels, D): one of
            networks/context.py, or `lateral` for none.
        align: builds the step from one level to the next finer one from (D).
        aligned_levels: the coarse levels that `align` upsamples; the others are resized. Numbered
            as in ECCV table 2 and IJCV table 8b, where the deepest map is 5. None: all.
        deep_supervision: whether each step of the pyramid gets an auxiliary head for training.
    """

    def __init__(
        self,
        trunk: Backbone,
        num_classes: int,
        channels: int,
        context: Callable[[int, int], nn.Module] = PyramidPooling,
        align: Callable[[int], nn.Module] = FlowAlignment,
        aligned_levels: Sequence[int] | None = None,
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        *shallow, deep = trunk.channels
        levels = tuple(range(DEEPEST + 1 - len(shallow), DEEPEST + 1))
        aligned = levels if aligned_levels is None else aligned_levels
        if not set(aligned) <= set(levels):
            raise ValueError(f"aligned_levels is {tuple(aligned)}, expected some of {levels}")
        self.description = f"SFNet with {trunk.name}"
        self.output_stride = trunk.strides[0]
        self.size_multiple = trunk.strides[-1]
        self.num_classes = num_classes
        self.trunk = trunk
        self.context = context(deep, channels)
        self.laterals = nn.ModuleList(lateral(c, channels) for c in shallow)
        self.alignments = nn.ModuleList(
            align(channels) if level in aligned else BilinearAddition() for level in levels
        )
        self.smoothings = nn.ModuleList(conv_bn_relu(channels, channels, 3) for _ in shallow)
        self.head = score_head(len(trunk.channels) * channels, channels, num_classes)
        self.supervision = nn.ModuleList(
            supervision_head(channels, num_classes) for _ in shallow if deep_supervision
        )

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, H / output_stride, W / output_stride) of normalised images
        (N, 3, H, W)."""
        return self._scores(self.pyramid(images))

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """{"logits": (N, num_classes, H, W), "aux": class scores of the pyramid's steps, shallow to
        deep, at their own sizes; only in training, and with deep_supervision}."""
        pyramid = self.pyramid(images)
        logits = resize(self._scores(pyramid), (images.shape[2], images.shape[3]))
        heads = zip(self.supervision, pyramid, strict=False)
        aux = [head(level) for head, level in heads] if self.training else []
        return {"logits": logits, "aux": aux}

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Returns the levels of normalised images (N, 3, H, W) before smoothing, shallow to deep, D
        channels each."""
        *shallow, deep = self.trunk(images)
        pyramid = [self.context(deep)]
        steps = list(zip(shallow, self.laterals, self.alignments, strict=True))
        for features, narrowed, align in reversed(steps):
            pyramid.insert(0, align(narrowed(features), pyramid[0]))
        return pyramid

    def _scores(self, pyramid: list[Tensor]) -> Tensor:
        *levels, deepest = pyramid
        smooth = [smoothing(x) for smoothing, x in zip(self.smoothings, levels, strict=True)]
        size = (levels[0].shape[2], levels[0].shape[3])
        others = [resize(x, size) for x in (*smooth[1:], deepest)]
        return self.head(torch.cat([smooth[0], *others], dim=1))  # type: ignore[no-any-return]


class FCN(nn.Module):
    """The baseline of the papers' first ablation: class scores from the deepest map alone.

    Paper: Long et al., "Fully Convolutional Networks", FCN-32s.
    """

    def __init__(self, trunk: Backbone, num_classes: int) -> None:
        super().__init__()
        self.description = f"FCN with {trunk.name}"
        self.output_stride = trunk.strides[-1]
        self.size_multiple = trunk.strides[-1]
        self.num_classes = num_classes
        self.trunk = trunk
        self.head = nn.Conv2d(trunk.channels[-1], num_classes, 1)

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, H / output_stride, W / output_stride) of normalised images
        (N, 3, H, W)."""
        return self.head(self.trunk(images)[-1])  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """{"logits": (N, num_classes, H, W), "aux": []}."""
        logits = resize(self.scores(images), (images.shape[2], images.shape[3]))
        return {"logits": logits, "aux": []}


# The named models. `options` are arguments of SFNet: context, align, aligned_levels,
# deep_supervision. Differs: the papers only name a ResNet; deep stem and dilations follow the
# authors' code.


def sfnet_r18(
    num_classes: int,
    channels: int = 128,
    stem: Stem = "deep",
    dilations: tuple[int, int] = (2, 4),
    **options: Any,
) -> SFNet:
    return SFNet(ResNet(18, stem, dilations), num_classes, channels, **options)


def sfnet_r50(
    num_classes: int,
    channels: int = 256,
    stem: Stem = "deep",
    dilations: tuple[int, int] = (2, 4),
    **options: Any,
) -> SFNet:
    return SFNet(ResNet(50, stem, dilations), num_classes, channels, **options)


def sfnet_r101(
    num_classes: int,
    channels: int = 256,
    stem: Stem = "deep",
    dilations: tuple[int, int] = (2, 4),
    **options: Any,
) -> SFNet:
    return SFNet(ResNet(101, stem, dilations), num_classes, channels, **options)


def sfnet_stdc1(num_classes: int, channels: int = 64, **options: Any) -> SFNet:
    return SFNet(stdc1(), num_classes, channels, **options)


def sfnet_stdc2(num_classes: int, channels: int = 64, **options: Any) -> SFNet:
    return SFNet(stdc2(), num_classes, channels, **options)


def sfnet_df1(num_classes: int, channels: int = 128, **options: Any) -> SFNet:
    """Differs: the authors' code has 64 channels; 128 gives the GFLOPs of the papers."""
    return SFNet(df1(), num_classes, channels, **options)


def sfnet_df2(num_classes: int, channels: int = 128, **options: Any) -> SFNet:
    """Differs: the authors' code has 64 channels; 128 gives the GFLOPs of the papers."""
    return SFNet(df2(), num_classes, channels, **options)


def sfnet_shufflenet(num_classes: int, channels: int = 64, **options: Any) -> SFNet:
    """Not in the authors' code; 64 channels fit the papers' +0.3 GFLOPs for FAM."""
    return SFNet(ShuffleNetV2(), num_classes, channels, **options)


def fcn_r18(num_classes: int, dilated: bool = False) -> FCN:
    """FCN with ResNet-18 at stride 32, or dilated at stride 8."""
    return FCN(
        ResNet(18, dilations=(2, 4), output_stride=8) if dilated else ResNet(18), num_classes
    )


# Of the authors' STDC: the ImageNet classifier, and second names of layers (backbone.x8.features).
DEAD_STDC_LAYERS = (
    *(f"backbone.{layer}." for layer in ("conv_last", "fc", "bn", "linear")),
    "backbone.x",
)
# Heads that only training runs; a network without deep supervision has none.
DEAD_LAYERS = (*DEAD_STDC_LAYERS, "head.dsn.", "supervision.")

# Names that SFNet and SFNet-Lite share in SFSegNets checkpoints, and our names.
TRUNK_AND_CONTEXT = (
    ("layer0.0.", "trunk.conv1."),
    ("layer0.1.", "trunk.bn1."),
    ("layer", "trunk.layer"),
    ("backbone.features.", "trunk.features."),
    ("backbone.stage", "trunk.stage"),
    ("head.ppm.bottleneck.", "context.bottleneck."),
    *(
        # Their stage holds the pool as layer 0.
        (f"head.ppm.stages.{stage}.{layer + 1}.", f"context.stages.{stage}.{layer}.")
        for stage in range(len(PyramidPooling.bins))
        for layer in range(2)
    ),
)


def state_from_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of a SFSegNets checkpoint of any SFNet to ours.

    `DEAD_STDC_LAYERS`, which the authors keep and never run, are dropped.
    """
    head = (
        ("head.fpn_in.", "laterals."),
        ("head.fpn_out_align.", "alignments."),
        *((f"head.fpn_out.{i}.0.", f"smoothings.{i}.") for i in range(3)),
        ("head.dsn.", "supervision."),
        ("head.conv_last.0.", "head."),
        ("head.conv_last.1.", "head.3."),
    )
    return renamed(state, (*TRUNK_AND_CONTEXT, *head))
