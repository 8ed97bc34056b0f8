# SPDX-License-Identifier: Apache-2.0
"""DF-Seg in the form that SFNet's authors compare with SFNet: pyramid pooling, two fusions, a head.

Paper: Li et al., "Partial Order Pruning", CVPR 2019, section 4. Differs: that paper searches for
the decoder's widths (its DF1-Seg predicts at stride 8 from other maps of DF1). This network follows
the code of SFNet's authors, who trained it for IJCV tables 4 to 7.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.backbones.dfnet import DFNet, df1, df2
from training.networks.context import PyramidPooling
from training.operators import resize
from training.weights import renamed


class Fusion(nn.Module):
    """Enlarges the deep map to the size of the shallow one and convolves both together."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Neither batch norm nor ReLU follows, as in the authors' code.
        self.conv = nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False)

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        """(N, C, h, w) and (N, C, H, W) -> (N, C, H, W)."""
        deep = resize(deep, (shallow.shape[2], shallow.shape[3]))
        return self.conv(torch.cat([deep, shallow], dim=1))  # type: ignore[no-any-return]


class DFSeg(nn.Module):
    """DF-Seg on a DF trunk.

    Args:
        trunk: gives three maps of 128, 256 and 512 channels.
        num_classes: width of the class scores.
        half_size: whether evaluation halves the image first, as the authors' code does. The
            stride of the class scores is then doubled.
    """

    def __init__(self, trunk: DFNet, num_classes: int, half_size: bool = False) -> None:
        super().__init__()
        shrink = 2 if half_size else 1
        self.output_stride = trunk.strides[0] * shrink
        self.size_multiple = trunk.strides[-1] * shrink
        self.description = f"DF-Seg with {trunk.name}" + (" at half size" if half_size else "")
        self.trunk = trunk
        self.num_classes = num_classes
        self.half_size = half_size
        shallow, middle, deep = trunk.channels
        channels = 128
        self.context = PyramidPooling(deep, channels)
        self.lateral_deep = nn.Conv2d(channels, channels, 1)
        self.lateral_middle = nn.Conv2d(middle, channels, 1)
        self.lateral_shallow = nn.Conv2d(shallow, channels, 1)
        self.fuse_middle = Fusion(channels)
        self.fuse_shallow = Fusion(channels)
        self.head = nn.Sequential(
            nn.Conv2d(channels, 256, 3, padding=1),
            nn.BatchNorm2d(256),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
            nn.Conv2d(256, num_classes, 1),
        )

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, H, W) / output_stride of normalised images (N, 3, H, W)."""
        if self.half_size and not self.training:
            images = resize(images, (images.shape[2] // 2, images.shape[3] // 2))
        shallow, middle, deep = self.trunk(images)
        x = self.lateral_deep(self.context(deep))
        x = self.fuse_middle(x, self.lateral_middle(middle))
        x = self.fuse_shallow(x, self.lateral_shallow(shallow))
        return self.head(x)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """{"logits": (N, num_classes, H, W), "aux": []}; there is no auxiliary head."""
        logits = resize(self.scores(images), (images.shape[2], images.shape[3]))
        return {"logits": logits, "aux": []}


def df1_seg(num_classes: int, half_size: bool = False) -> DFSeg:
    """DF-Seg with DF1, class scores at stride 16."""
    return DFSeg(df1(), num_classes, half_size)


def df2_seg(num_classes: int, half_size: bool = False) -> DFSeg:
    """DF-Seg with DF2, class scores at stride 8."""
    return DFSeg(df2(), num_classes, half_size)


def state_from_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of a SFSegNets checkpoint (DFSegNet) to ours."""
    prefixes = (
        ("backbone.", "trunk."),
        # Their stage holds the pool as layer 0.
        *(
            (f"ppm.stages.{i}.{j + 1}.", f"context.stages.{i}.{j}.")
            for i in range(4)
            for j in (0, 1)
        ),
        ("ppm.", "context."),
        ("cc5.", "lateral_deep."),
        ("cc4.", "lateral_middle."),
        ("cc3.", "lateral_shallow."),
        ("fn4.fusion.", "fuse_middle.conv."),
        ("fn3.fusion.", "fuse_shallow.conv."),
        ("fc.aux.", "head."),
    )
    return renamed(state, prefixes)
