# SPDX-License-Identifier: Apache-2.0
"""What every backbone promises to the networks on it: maps of these channels at these strides."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from training.backbones.dfnet import df1, df2
from training.backbones.efficientnet import EfficientNet
from training.backbones.efficientnet_lite import EfficientNetLite
from training.backbones.resnet import ResNet
from training.backbones.shufflenet import ShuffleNetV2
from training.backbones.stdc import stdc1
from training.backbones.xception import Xception39

DF, SCALED = (128, 256, 512), (16, 16, 48, 128)
R18, R50 = partial(ResNet, 18, dilations=(2, 4)), partial(ResNet, 50, dilations=(2, 4))
SHALLOW, DEEP = (64, 128, 256, 512), (256, 512, 1024, 2048)
SMALL, LITE = partial(EfficientNet, 0.4, 0.6), partial(EfficientNet, 0.4, 0.6, lite=True)

# Backbone, its channels, its strides.
BACKBONES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "DF1": (df1, DF, (16, 32, 32)),
    "DF2": (df2, DF, (8, 16, 32)),
    "STDC1": (stdc1, (64, 256, 512, 1024), (4, 8, 16, 32)),
    "STDC1, half": (partial(stdc1, 32), (32, 128, 256, 512), (4, 8, 16, 32)),
    "STDC1, thin": (partial(stdc1, 6), (6, 24, 48, 96), (4, 8, 16, 32)),
    "ShuffleNet": (ShuffleNetV2, (24, 116, 232, 1024), (4, 8, 16, 32)),
    "Xception39": (Xception39, (64, 128, 256), (8, 16, 32)),
    "R18 at 32": (partial(R18, output_stride=32), SHALLOW, (4, 8, 16, 32)),
    "R18 at 16": (partial(R18, output_stride=16), SHALLOW, (4, 8, 16, 16)),
    "R18 at 8": (partial(R18, output_stride=8), SHALLOW, (4, 8, 8, 8)),
    "R50 at 32": (partial(R50, output_stride=32), DEEP, (4, 8, 16, 32)),
    "R50 at 16": (partial(R50, output_stride=16), DEEP, (4, 8, 16, 16)),
    "R50 at 8": (partial(R50, output_stride=8), DEEP, (4, 8, 8, 8)),
    "EfficientNet at 32": (SMALL, SCALED, (4, 8, 16, 32)),
    "EfficientNet at 16": (partial(SMALL, output_stride=16), SCALED, (4, 8, 16, 16)),
    "EfficientNet-Lite0": (partial(EfficientNetLite, 0), (24, 40, 112, 320), (4, 8, 16, 32)),
    "EfficientNet-Lite2": (partial(EfficientNetLite, 2), (24, 48, 120, 352), (4, 8, 16, 32)),
    "fused EfficientNet at 32": (LITE, SCALED, (4, 8, 16, 32)),
    "fused EfficientNet at 16": (partial(LITE, output_stride=16), SCALED, (4, 8, 16, 16)),
}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("size", [(64, 96), (70, 90)])
def test_maps_have_the_channels_and_strides_that_the_backbone_says(
    name: str, size: tuple[int, int]
) -> None:
    build, channels, strides = BACKBONES[name]
    backbone = build().eval()
    assert (backbone.channels, backbone.strides) == (channels, strides)
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, *size))
    expected = [
        (1, width, -(-size[0] // stride), -(-size[1] // stride))
        for width, stride in zip(channels, strides, strict=True)
    ]
    assert [tuple(x.shape) for x in maps] == expected
