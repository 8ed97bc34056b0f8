# SPDX-License-Identifier: Apache-2.0
"""DF1 and DF2, found by partial order pruning.

Paper: Li et al., "Partial Order Pruning: for Best Speed/Accuracy Trade-off in Neural Architecture
Search", CVPR 2019. The layers are those of its public prototxt files.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.backbones import initialise_convolutions
from training.backbones.resnet import BasicBlock


class DFNet(nn.Module):
    """Trunk of DF1 or DF2 without classifier: a stem of stride 4, then stages of basic blocks.

    Parameter names are those of the SFNet authors' ImageNet checkpoints.

    Args:
        name: "DF1" or "DF2".
        stages: (name, channels, blocks, stride) of each stage, in the order in which they run.
        outputs: names of the stages whose maps are returned.
    """

    def __init__(
        self, name: str, stages: tuple[tuple[str, int, int, int], ...], outputs: tuple[str, ...]
    ) -> None:
        super().__init__()
        self.name = name
        self.outputs = outputs
        self.stage_names = tuple(stage for stage, *_ in stages)
        self.stage1 = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 64, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
        )
        shapes: dict[str, tuple[int, int]] = {}
        in_channels, total_stride = 64, 4
        for stage, channels, blocks, stride in stages:
            layers = [BasicBlock(in_channels, channels, stride, dilation=1)]
            layers += [BasicBlock(channels, channels, 1, dilation=1) for _ in range(blocks - 1)]
            self.add_module(stage, nn.Sequential(*layers))
            in_channels, total_stride = channels, total_stride * stride
            shapes[stage] = (channels, total_stride)
        self.channels = tuple(shapes[stage][0] for stage in outputs)
        self.strides = tuple(shapes[stage][1] for stage in outputs)
        initialise_convolutions(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Returns one map per entry of `channels` and `strides`.

        Args:
            images: float (N, 3, H, W), RGB, normalised with the ImageNet mean and deviation.
        """
        x = self.stage1(images)
        maps: list[Tensor] = []
        for stage in self.stage_names:
            x = self.get_submodule(stage)(x)
            if stage in self.outputs:
                maps.append(x)
        return maps


def df1() -> DFNet:
    """DF1 with the maps that SFNet takes: strides 16, 32, 32, channels 128, 256, 512.

    Differs: SFNet's paper does not name the maps; these are from the authors' code, which predicts
    at stride 16.
    """
    stages = (("stage2", 64, 3, 2), ("stage3", 128, 3, 2), ("stage4", 256, 3, 2))
    return DFNet("DF1", (*stages, ("stage5", 512, 1, 1)), ("stage3", "stage4", "stage5"))


def df2() -> DFNet:
    """DF2 with the maps that SFNet takes: strides 8, 16, 32, channels 128, 256, 512."""
    stages = (
        ("stage2_1", 64, 2, 2),
        ("stage2_2", 128, 1, 1),
        ("stage3_1", 128, 10, 2),
        ("stage3_2", 256, 1, 1),
        ("stage4_1", 256, 4, 2),
        ("stage4_2", 512, 2, 1),
    )
    return DFNet("DF2", stages, ("stage2_2", "stage3_2", "stage4_2"))
