# SPDX-License-Identifier: Apache-2.0
"""EfficientNet, ESeg's encoder, and its form for ESeg-Lite.

Paper: Tan and Le, "EfficientNet: Rethinking Model Scaling", table 1 and section 3.3. The classifier
and the 1x1 convolution before it are not built.
Paper: Meng et al., "Revisiting Multi-Scale Feature Fusion for Semantic Segmentation" (ESeg),
section 3.3, for the Lite form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

STEM_CHANNELS = 32


@dataclass(frozen=True)
class Stage:
    """One row of the paper's table 1, before scaling."""

    expansion: int
    channels: int
    repeats: int
    stride: int
    kernel: int


STAGES = (
    Stage(expansion=1, channels=16, repeats=1, stride=1, kernel=3),
    Stage(expansion=6, channels=24, repeats=2, stride=2, kernel=3),
    Stage(expansion=6, channels=40, repeats=2, stride=2, kernel=5),
    Stage(expansion=6, channels=80, repeats=3, stride=2, kernel=3),
    Stage(expansion=6, channels=112, repeats=3, stride=1, kernel=5),
    Stage(expansion=6, channels=192, repeats=4, stride=2, kernel=5),
    Stage(expansion=6, channels=320, repeats=1, stride=1, kernel=3),
)
# The last stage at each of the strides 4, 8, 16 and 32.
MAP_STAGES = (1, 2, 4, 6)


class MBConv(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, squeeze-and-excitation, 1x1
    projection; the input is added if the shape is kept. Swish follows all but the projection."""

    def __init__(
        self, in_channels: int, channels: int, stage: Stage, stride: int, dilation: int
    ) -> None:
        super().__init__()
        middle = in_channels * stage.expansion
        self.expand = _convolution(in_channels, middle, 1) if stage.expansion > 1 else nn.Identity()
        self.depthwise = _convolution(
            middle, middle, stage.kernel, stride, dilation=dilation, groups=middle
        )
        self.excite = SqueezeExcitation(middle, max(1, in_channels // 4))
        self.project = _convolution(middle, channels, 1, activation=nn.Identity)
        self.keeps_shape = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + y if self.keeps_shape else y


class SqueezeExcitation(nn.Module):
    """Scales each channel by a gate in (0, 1), computed from the means of all channels."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.activation = nn.SiLU(inplace=True)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(self.activation(self.reduce(mean))))


class FusedMBConv(nn.Module):
    """MBConv with one full convolution for expansion and depthwise convolution, without
    squeeze-and-excitation, with ReLU.

    Paper: ESeg section 3.3. Kernels stay 5x5 where EfficientNet has them: otherwise ESeg-Lite-S
    would not cost the 17 thousand million multiply-adds of section 3.2.
    """

    def __init__(
        self, in_channels: int, channels: int, stage: Stage, stride: int, dilation: int
    ) -> None:
        super().__init__()
        # Without expansion there is no projection, as in EfficientNetV2.
        middle = in_channels * stage.expansion if stage.expansion > 1 else channels
        self.expand = _convolution(
            in_channels, middle, stage.kernel, stride, dilation, activation=nn.ReLU
        )
        self.project = (
            _convolution(middle, channels, 1, activation=nn.Identity)
            if stage.expansion > 1
            else nn.Identity()
        )
        self.keeps_shape = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.expand(x))
        return x + y if self.keeps_shape else y


class EfficientNet(nn.Module):
    """EfficientNet trunk: feature maps at strides 4, 8, 16 and 32.

    Args:
        width, depth: compound scaling of channels and repeats: 1.0 and 1.0 is B0, 1.0 and 1.1 B1,
            1.4 and 1.8 B4, 2.0 and 3.1 B7.
        lite: fused blocks without squeeze-and-excitation, ReLU.
        output_stride: 32 or 16; for 16, dilation 2 in the last blocks replaces the last stride.
        epsilon: of the batch norms; public weights of B0 to B4 expect 1e-5, of B5 to B7 1e-3.
    """

    def __init__(
        self,
        width: float = 1.0,
        depth: float = 1.0,
        lite: bool = False,
        output_stride: int = 32,
        epsilon: float = 1e-5,
    ) -> None:
        super().__init__()
        if output_stride not in (16, 32):
            raise ValueError(f"output_stride is {output_stride}, expected 16 or 32")
        self.name = f"{'fused ' if lite else ''}EfficientNet (width {width}, depth {depth})"
        self.strides = (4, 8, 16, output_stride)
        widths = [scaled_channels(stage.channels, width) for stage in STAGES]
        self.channels = tuple(widths[i] for i in MAP_STAGES)
        block = FusedMBConv if lite else MBConv
        channels = scaled_channels(STEM_CHANNELS, width)
        self.stem = _convolution(3, channels, 3, 2, activation=nn.ReLU if lite else nn.SiLU)
        self.stages = nn.ModuleList()
        stride, dilation = 2, 1
        for stage, out_channels in zip(STAGES, widths, strict=True):
            step = stage.stride if stride * stage.stride <= output_stride else 1
            blocks: list[nn.Module] = [block(channels, out_channels, stage, step, dilation)]
            stride *= step
            dilation *= stage.stride // step
            for _ in range(1, math.ceil(depth * stage.repeats)):
                blocks.append(block(out_channels, out_channels, stage, 1, dilation))
            channels = out_channels
            self.stages.append(nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.eps = epsilon

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps, strides 4, 8, 16 and `output_stride`.

        Args:
            images: float (N, 3, H, W), RGB, normalised with the ImageNet mean and deviation.
        """
        return maps_of_stages(self.stages, self.stem(images))


def maps_of_stages(stages: Iterable[nn.Module], x: Tensor) -> list[Tensor]:
    """Run the stages one after another and return the outputs of MAP_STAGES."""
    maps: list[Tensor] = []
    for index, stage in enumerate(stages):
        x = stage(x)
        if index in MAP_STAGES:
            maps.append(x)
    return maps


def scaled_channels(channels: int, width: float) -> int:
    """Returns the multiple of 8 nearest to width * channels and at most 10 % below it."""
    wanted = width * channels
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * wanted else rounded + 8


def _convolution(
    in_channels: int,
    channels: int,
    kernel: int,
    stride: int = 1,
    dilation: int = 1,
    groups: int = 1,
    activation: type[nn.Module] = nn.SiLU,
) -> nn.Sequential:
    """Convolution, batch norm and activation; as large as the input at stride 1."""
    return nn.Sequential(
        nn.Conv2d(
            in_channels,
            channels,
            kernel,
            stride,
            padding=kernel // 2 * dilation,
            dilation=dilation,
            groups=groups,
            bias=False,
        ),
        nn.BatchNorm2d(channels),
        activation() if activation is nn.Identity else activation(inplace=True),
    )


def state_from_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of a torchvision `efficientnet_b*` to ours.

    Drops the classifier and the 1x1 convolution before it.
    """
    layers = ("expand", "depthwise", "excite", "project")
    gate = {"fc1": "reduce", "fc2": "expand"}
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := re.fullmatch(r"features\.0\.([01]\.\w+)", name):
            ours[f"stem.{match[1]}"] = value
        elif match := re.fullmatch(r"features\.([1-7])\.(\d+)\.block\.([0-3])\.(\w+)\.(\w+)", name):
            stage, block, layer, part, tensor = match.groups()
            # Without expansion, their block starts with the depthwise convolution.
            kind = layers[int(layer) + (1 if stage == "1" else 0)]
            part = gate.get(part, part)
            ours[f"stages.{int(stage) - 1}.{block}.{kind}.{part}.{tensor}"] = value
    return ours


def state_from_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of a timm `efficientnet_b*` to ours, without the classifier and the 1x1
    convolution before it.

    A `tf_efficientnet_b*` has the same names but does not fit: it pads only at the right and
    bottom, so here its weights would see each map shifted by half a pixel.
    """
    stem = {"conv_stem": "stem.0", "bn1": "stem.1"}
    gate = {"se.conv_reduce": "excite.reduce", "se.conv_expand": "excite.expand"}
    expanded = gate | {
        "conv_pw": "expand.0",
        "bn1": "expand.1",
        "conv_dw": "depthwise.0",
        "bn2": "depthwise.1",
        "conv_pwl": "project.0",
        "bn3": "project.1",
    }
    # The first stage has no expansion, which shifts the numbers of its layers.
    unexpanded = gate | {
        "conv_dw": "depthwise.0",
        "bn1": "depthwise.1",
        "conv_pw": "project.0",
        "bn2": "project.1",
    }
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        layer, _, tensor = name.rpartition(".")
        if layer in stem:
            ours[f"{stem[layer]}.{tensor}"] = value
        elif match := re.fullmatch(r"blocks\.([0-6])\.(\d+)\.(.+)", layer):
            stage, block, layer = match.groups()
            names = unexpanded if stage == "0" else expanded
            if layer in names:
                ours[f"stages.{stage}.{block}.{names[layer]}.{tensor}"] = value
    return ours
