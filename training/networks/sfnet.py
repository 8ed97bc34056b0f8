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

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.backbones import Backbone
from training.backbones.dfnet import df1, df2
from training.backbones.resnet import ResNet, Stem
from training.backbones.shufflenet import ShuffleNetV2
from training.backbones.stdc import stdc1, stdc2
from training.networks.context import ASPP, DenseASPP, NonLocal, PyramidPooling
from training.networks.layers import conv_bn_relu
from training.networks.operators import flow_warp, resize
from training.published import Published
from training.weights import renamed

Upsampling = Literal["bilinear", "nearest", "deconvolution"]
Matching = Literal["concatenation", "correlation"]


class FlowAlignment(nn.Module):
    """FAM and the addition after it: low + warp(high, flow).

    Paper: equations 1 to 3. Differs: one 3x3 flow convolution after two 1x1 reductions, where the
    text has two 3x3; what is warped is the unreduced map. The names of the layers are the authors',
    whose h is `high` and l is `low`.

    Args:
        channels: of both maps.
        kernel_size: of the flow convolution, 3, 5 or 7 (IJCV table 9b).
        upsampling: of the reduced coarse map that the flow is read from (table 9a).
        matching: how the two reduced maps meet: concatenated, as in FlowNet-S, or by their
            correlation in a neighbourhood, as in FlowNet-C (table 9c).
        align_corners: convention of the warp, see operators.flow_warp.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: Literal[3, 5, 7] = 3,
        upsampling: Upsampling = "bilinear",
        matching: Matching = "concatenation",
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        _check("kernel_size", kernel_size, (3, 5, 7))
        _check("upsampling", upsampling, ("bilinear", "nearest", "deconvolution"))
        _check("matching", matching, ("concatenation", "correlation"))
        self.upsampling = upsampling
        self.matching = matching
        self.align_corners = align_corners
        half = channels // 2
        self.down_h = nn.Conv2d(channels, half, 1, bias=False)
        self.down_l = nn.Conv2d(channels, half, 1, bias=False)
        if upsampling == "deconvolution":
            self.deconvolution = nn.ConvTranspose2d(half, half, 4, 2, padding=1, bias=False)
        matched = half if matching == "concatenation" else len(DISPLACEMENTS) ** 2
        self.flow_make = nn.Conv2d(
            matched + half, 2, kernel_size, padding=kernel_size // 2, bias=False
        )

    def flow(self, low: Tensor, high: Tensor) -> Tensor:
        """Equation 1. low (N, C, H, W), high (N, C, h, w) -> (N, 2, H, W), in the units of
        operators.flow_warp."""
        low_reduced = self.down_l(low)
        high_reduced = self._upsampled(self.down_h(high), (low.shape[2], low.shape[3]))
        if self.matching == "correlation":
            high_reduced = correlation(low_reduced, high_reduced)
        return self.flow_make(torch.cat([high_reduced, low_reduced], dim=1))  # type: ignore[no-any-return]

    def _upsampled(self, high: Tensor, size: tuple[int, int]) -> Tensor:
        if self.upsampling == "nearest":
            return F.interpolate(high, size=size, mode="nearest")
        if self.upsampling == "deconvolution":  # twice the size, which an odd size is not
            high = self.deconvolution(high)
            return high if (high.shape[2], high.shape[3]) == size else resize(high, size)
        return resize(high, size)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (N, C, H, W), high (N, C, h, w) -> (N, C, H, W)."""
        return low + flow_warp(high, self.flow(low, high), self.align_corners)


DISPLACEMENTS = (-4, -2, 0, 2, 4)


def correlation(low: Tensor, high: Tensor) -> Tensor:
    """Mean product over channels of `low` with `high` displaced by -4 to 4 pixels in steps of 2.

    Paper: Dosovitskiy et al., "FlowNet", section 3. Differs: its displacements reach 20 pixels of
    a video's motion, in the same steps; SFNet's paper states none.

    Args:
        low, high: float (N, C, H, W).

    Returns:
        (N, 25, H, W), zero where the displaced position lies outside.
    """
    reach = DISPLACEMENTS[-1]
    padded = F.pad(high, (reach, reach, reach, reach))
    height, width = low.shape[2:]
    products = [
        low * padded[:, :, reach + dy : reach + dy + height, reach + dx : reach + dx + width]
        for dy in DISPLACEMENTS
        for dx in DISPLACEMENTS
    ]
    return torch.cat([product.mean(dim=1, keepdim=True) for product in products], dim=1)


class DeformableAlignment(nn.Module):
    """In FAM's place, a 3x3 deformable convolution of the two maps; IJCV table 9d and section 4.3.

    Paper: Dai et al., "Deformable Convolutional Networks", equation 2. Written as nine warps and
    nine 1x1 convolutions, which every runtime has.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # x and y of each tap, in pixels; starts as a plain convolution.
        self.offsets = nn.Conv2d(2 * channels, 18, 3, padding=1)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)  # type: ignore[arg-type]
        self.taps = nn.ModuleList(
            nn.Conv2d(2 * channels, channels, 1, bias=False) for _ in range(9)
        )
        for tap in self.taps:  # of one 3x3 convolution, which has nine times the inputs
            nn.init.uniform_(tap.weight, -(bound := 1 / math.sqrt(18 * channels)), bound)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (N, C, H, W), high (N, C, h, w) -> (N, C, H, W)."""
        height, width = low.shape[2], low.shape[3]
        both = torch.cat([resize(high, (height, width)), low], dim=1)
        offsets = self.offsets(both)
        # flow_warp's unit is (W - 1) / (2 W) pixels of a map of its own size.
        x_unit, y_unit = 2 * width / max(width - 1, 1), 2 * height / max(height - 1, 1)
        total = low
        for i, tap in enumerate(self.taps):
            x = (offsets[:, 2 * i : 2 * i + 1] + (i % 3 - 1)) * x_unit
            y = (offsets[:, 2 * i + 1 : 2 * i + 2] + (i // 3 - 1)) * y_unit
            total = total + tap(flow_warp(both, torch.cat([x, y], dim=1)))
        return total


class BilinearAddition(nn.Module):
    """The step of a plain feature pyramid: low + high, resized."""

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (N, C, H, W), high (N, C, h, w) -> (N, C, H, W)."""
        return low + resize(high, (low.shape[2], low.shape[3]))


DEEPEST = 5  # the papers' number of the last map, at stride 2^5


class SFNet(nn.Module):
    """Encoder, context module, feature pyramid with flow alignment, and a head on all its levels.

    Paper: section 3.2, figure 4(c). Differs: the levels are brought to one size by plain resizing;
    ECCV's text has FAM there too, which IJCV calls an ablation.

    Args:
        trunk: backbone of any number of maps, whose last one gets the context module.
        num_classes: width of the class scores.
        channels: width of the pyramid, D.
        context: builds the module on the deepest map from (its channels, D): one of
            networks/context.py, or `lateral` for none.
        align: builds the step from one level to the next finer one from (D).
        aligned_levels: the coarse levels that are brought up by `align`, the others by plain
            resizing; numbered as in ECCV table 2 and IJCV table 8b, where the deepest map is 5.
            None: all.
        deep_supervision: whether every step of the pyramid gets a head that is trained as well.
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
        """The levels of normalised images (N, 3, H, W), shallow to deep, D channels each: what each
        step hands down, before smoothing."""
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


def lateral(in_channels: int, channels: int) -> nn.Sequential:
    """A map of the trunk brought to the width of the pyramid."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )


def score_head(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    """Class scores of concatenated maps."""
    return nn.Sequential(
        *conv_bn_relu(in_channels, channels, 3), nn.Conv2d(channels, num_classes, 1)
    )


def supervision_head(channels: int, num_classes: int) -> nn.Sequential:
    """Class scores of one level, for training. Paper: ECCV section 3.3, "cascaded deeply
    supervised learning". Differs: ECCV's code has one more such head, on layer3 of the trunk; the
    authors' later code, which this follows, has not."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Dropout2d(0.1),
        nn.Conv2d(channels, num_classes, 1),
    )


def _check(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}, expected one of {allowed}")


# The named models. `options` are arguments of SFNet: context, align, aligned_levels,
# deep_supervision. Differs: the deep stem and the dilations are those of the authors' code; the
# papers name a ResNet and no more.


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
    """The authors' code has none; the papers' +0.3 GFLOPs for FAM fit 64 channels."""
    return SFNet(ShuffleNetV2(), num_classes, channels, **options)


def fcn_r18(num_classes: int, dilated: bool = False) -> FCN:
    """FCN with ResNet-18 at stride 32, or dilated at stride 8."""
    return FCN(
        ResNet(18, dilations=(2, 4), output_stride=8) if dilated else ResNet(18), num_classes
    )


# Names in SFSegNets checkpoints of what SFNet and SFNet-Lite share, and ours.
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

    The ImageNet classifier that their STDC keeps and never runs is dropped.
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


_FPN: dict[str, Any] = {"aligned_levels": ()}
_ECCV: dict[str, Any] = {"size": (1024, 1024), "convention": "2 MAC"}
_IJCV: dict[str, Any] = {"size": (1024, 1024)}
_CONTEXT: dict[str, Any] = {"size": (480, 480), "convention": "2 MAC"}
# Layers that the authors build and the output does not need. A bias counts 1, a batch norm 2.
_LAYER3_HEAD = (9 * 256 + 1 + 2) * 256 + (256 + 1) * 19  # 3x3 and norm, 1x1 to the classes
_CLASSIFIER = 2 * (1024 + 2) * 1024 + 1024 * 1000  # twice 1x1 and norm, 1x1; no bias
_RESNET = "1 to 4 % of the papers' GFLOPs with ResNets are not explained"
_STDC = "the authors keep STDC's ImageNet classifier in the network"
_STDC_SIZE = "the caption's size; the other rows of this table fit 1024x1024"
_DF = "no width, level or auxiliary head was found that gives the printed parameters"
_SHUFFLENET = "the width is not stated; 64 fits what FAM adds, not the rest"
_HEADS = "the paper does not say how the module was attached"
_DF1_COST = "half of what ECCV table 4 prints fits; so do the authors' layers, whose cost is ours"

# Rows without a figure are ablations for which the papers print no cost. A figure that several
# tables print alike stands here once; IJCV's halves of ECCV's GFLOPs are not quite halves.
PUBLISHED: tuple[Published, ...] = (
    Published("ECCV table 1", "FCN", partial(fcn_r18, 19)),
    Published("ECCV table 1", "Dilated FCN", partial(fcn_r18, 19, dilated=True)),
    Published("ECCV table 1", "+FPN", partial(sfnet_r18, 19, context=lateral, **_FPN)),
    Published("ECCV table 1", "+FAM", partial(sfnet_r18, 19, context=lateral)),
    Published("ECCV table 1", "+FPN + PPM", partial(sfnet_r18, 19, **_FPN)),
    Published("ECCV table 1", "+FAM + PPM", partial(sfnet_r18, 19)),
    *(
        Published(
            "ECCV table 2",
            "FAM at " + ", ".join(f"F{level}" for level in levels),
            partial(sfnet_r18, 19, aligned_levels=levels),
        )
        for levels in ((3,), (4,), (5,), (4, 5))
    ),
    Published(
        "ECCV section 3.3", "deep supervision", partial(sfnet_r18, 19, deep_supervision=True),
        note="the heads run in training only",
    ),
    *(
        Published(
            "ECCV table 3", name, partial(sfnet_r18, 19, **context), gflops=gflops, **_ECCV,
            note=note,
        )
        for name, context, gflops, note in (
            ("+PPM", {}, 246.5, _RESNET),
            ("+NL", {"context": NonLocal}, 295.5, _HEADS),
            ("+ASPP", {"context": ASPP}, 276.6, _HEADS),
            ("+DenseASPP", {"context": DenseASPP}, 282.3, _HEADS),
        )
    ),
    *(
        Published(
            "ECCV table 4", name + with_fam, partial(build, 19, **options), gflops=gflops,
            reproduced_gflops=not note, **_ECCV, note=note,
        )
        for name, build, costs, note in (
            ("ResNet-50", sfnet_r50, (664.7, 673.1), _RESNET),
            ("ResNet-101", sfnet_r101, (824.9, 833.5), _RESNET),
            ("ShuffleNetv2", sfnet_shufflenet, (35.3, 35.9), _SHUFFLENET),
            ("DF1", sfnet_df1, (36.8, 36.9), ""),
            ("DF2", sfnet_df2, (96.0, 96.5), ""),
        )
        for with_fam, options, gflops in zip(("", " w/ FAM"), (_FPN, {}), costs, strict=True)
    ),
    Published(
        "ECCV table 6", "SFNet (DF1)", partial(sfnet_df1, 19), params_m=9.03,
        note="IJCV table 5 prints the same; " + _DF,
    ),
    Published(
        "ECCV table 6", "SFNet (DF2)", partial(sfnet_df2, 19), params_m=10.53, note=_DF
    ),
    Published(
        "ECCV table 7", "SFNet (ResNet-18)", partial(sfnet_r18, 19), params_m=13.47, gflops=246.5,
        reproduced_params=True, not_built=_LAYER3_HEAD, **_ECCV,
        note="the printed parameters hold an auxiliary head on layer3; " + _RESNET,
    ),
    Published(
        "ECCV table 7", "SFNet (ResNet-101)", partial(sfnet_r101, 19), params_m=50.32,
        gflops=833.5, reproduced_params=True, **_ECCV, note=_RESNET,
    ),
    Published(
        "ECCV table 8", "w/o FAM (ResNet-50)", partial(sfnet_r50, 59, **_FPN), gflops=148.6,
        **_CONTEXT, note=_RESNET,
    ),
    Published(
        "ECCV table 8", "SFNet (ResNet-50)", partial(sfnet_r50, 59), gflops=150.4,
        **_CONTEXT, note=_RESNET,
    ),
    Published(
        "ECCV table 8", "w/o FAM (ResNet-101)", partial(sfnet_r101, 59, **_FPN), gflops=185.0,
        **_CONTEXT, note=_RESNET,
    ),
    Published(
        "ECCV table 8", "SFNet (ResNet-101)", partial(sfnet_r101, 59), gflops=186.8,
        **_CONTEXT, note=_RESNET,
    ),
    Published(
        "ECCV table 9", "w/o FAM (ResNet-50)", partial(sfnet_r50, 150, **_FPN), gflops=149.3,
        **_CONTEXT, note=_RESNET,
    ),
    Published(
        "ECCV table 9", "SFNet (ResNet-50)", partial(sfnet_r50, 150), gflops=151.1,
        **_CONTEXT, note=_RESNET,
    ),
    Published(
        "ECCV table 9", "w/o FAM (ResNet-101)", partial(sfnet_r101, 150, **_FPN), gflops=185.7,
        **_CONTEXT, note=_RESNET,
    ),
    Published(
        "ECCV table 9", "SFNet (ResNet-101)", partial(sfnet_r101, 150), gflops=187.5,
        **_CONTEXT, note=_RESNET,
    ),
    Published(
        "IJCV table 5", "SFNet (DF2)", partial(sfnet_df2, 19), params_m=19.63, note=_DF
    ),
    Published(
        "IJCV table 5", "SFNet (ResNet-18)", partial(sfnet_r18, 19), params_m=12.87,
        reproduced_params=True,
    ),
    Published(
        "IJCV table 3", "SFNet (STDC-1)", partial(sfnet_stdc1, 19), params_m=9.1,
        reproduced_params=True, not_built=_CLASSIFIER, note=_STDC,
    ),
    Published(
        "IJCV table 3", "SFNet (STDC-2)", partial(sfnet_stdc2, 19), params_m=13.1,
        reproduced_params=True, not_built=_CLASSIFIER, note=_STDC,
    ),
    Published(
        "IJCV table 8c", "+PPM", partial(sfnet_r18, 19), gflops=123.5, **_IJCV, note=_RESNET
    ),
    Published(
        "IJCV table 8c", "+NL", partial(sfnet_r18, 19, context=NonLocal), gflops=148.0,
        **_IJCV, note=_HEADS,
    ),
    Published(
        "IJCV table 8c", "+ASPP", partial(sfnet_r18, 19, context=ASPP), gflops=138.6,
        **_IJCV, note=_HEADS,
    ),
    Published(
        "IJCV table 8c", "+DenseASPP", partial(sfnet_r18, 19, context=DenseASPP), gflops=141.5,
        **_IJCV, note=_HEADS,
    ),
    *(
        Published(
            "IJCV table 9a", name,
            partial(sfnet_r18, 19, align=partial(FlowAlignment, upsampling=name)),
        )
        for name in ("deconvolution", "nearest")
    ),
    Published(
        "IJCV table 9b", "first row", partial(sfnet_r18, 19, **_FPN), gflops=120.4,
        reproduced_gflops=True, **_IJCV,
        note="the scan lost its name; no FAM has this cost, but the mIoU beside it is not that of "
        "FPN + PPM",
    ),
    *(
        Published(
            "IJCV table 9b", f"k = {size}",
            partial(sfnet_r18, 19, align=partial(FlowAlignment, kernel_size=size)),
            gflops=gflops, **_IJCV, note="the printed steps are not those of one flow convolution",
        )
        for size, gflops in ((3, 123.5), (5, 131.6), (7, 140.5))
    ),
    Published(
        "IJCV table 9c", "correlation",
        partial(sfnet_r18, 19, align=partial(FlowAlignment, matching="correlation")),
    ),
    Published(
        "IJCV table 9d", "DCN at F5",
        partial(sfnet_r18, 19, align=DeformableAlignment, aligned_levels=(5,)),
    ),
    Published(
        "IJCV table 9d", "DCN at F3, F4, F5", partial(sfnet_r18, 19, align=DeformableAlignment)
    ),
    Published(
        "IJCV table 11", "ResNet-50", partial(sfnet_r50, 19, **_FPN), gflops=332.6,
        **_IJCV, note=_RESNET,
    ),
    Published(
        "IJCV table 11", "ResNet-50 w/ FAM", partial(sfnet_r50, 19), gflops=337.1,
        **_IJCV, note=_RESNET,
    ),
    Published(
        "IJCV table 11", "ResNet-101", partial(sfnet_r101, 19, **_FPN), gflops=412.7,
        **_IJCV, note=_RESNET,
    ),
    Published(
        "IJCV table 11", "ResNet-101 w/ FAM", partial(sfnet_r101, 19), gflops=417.5,
        **_IJCV, note=_RESNET,
    ),
    Published(
        "IJCV table 11", "ShuffleNetv2", partial(sfnet_shufflenet, 19, **_FPN), gflops=17.8,
        **_IJCV, note=_SHUFFLENET,
    ),
    Published(
        "IJCV table 11", "ShuffleNetv2 w/ FAM", partial(sfnet_shufflenet, 19), gflops=18.1,
        **_IJCV, note=_SHUFFLENET,
    ),
    Published(
        "IJCV table 11", "DF1", partial(sfnet_df1, 19, **_FPN), gflops=18.6,
        **_IJCV, note=_DF1_COST,
    ),
    Published(
        "IJCV table 11", "DF1 w/ FAM", partial(sfnet_df1, 19), gflops=18.7,
        **_IJCV, note=_DF1_COST,
    ),
    Published(
        "IJCV table 11", "DF2", partial(sfnet_df2, 19, **_FPN), gflops=48.2,
        reproduced_gflops=True, **_IJCV,
    ),
    Published(
        "IJCV table 11", "DF2 w/ FAM", partial(sfnet_df2, 19), gflops=48.5,
        reproduced_gflops=True, **_IJCV,
    ),
    Published(
        "IJCV table 11", "STDC-Net-v1", partial(sfnet_stdc1, 19, **_FPN), gflops=58.2,
        note=_STDC_SIZE,
    ),
    Published(
        "IJCV table 11", "STDC-Net-v1 w/ FAM", partial(sfnet_stdc1, 19), gflops=59.8,
        reproduced_gflops=True, note=_STDC_SIZE,
    ),
    Published(
        "IJCV table 11", "STDC-Net-v2", partial(sfnet_stdc2, 19, **_FPN), gflops=85.0,
        reproduced_gflops=True, note=_STDC_SIZE,
    ),
    Published(
        "IJCV table 11", "STDC-Net-v2 w/ FAM", partial(sfnet_stdc2, 19), gflops=86.3,
        reproduced_gflops=True, note=_STDC_SIZE,
    ),
)  # fmt: skip
