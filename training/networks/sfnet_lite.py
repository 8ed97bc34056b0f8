# SPDX-License-Identifier: Apache-2.0
"""SFNet-Lite: one gated dual flow alignment between the shallowest map and the context map.

Paper: Li et al., "SFNet: Faster and Accurate Semantic Segmentation via Semantic Flow", IJCV,
section 3.3 and figure 5. `Differs:` marks where the authors' code, which reproduces the paper's
parameter table, departs from the text.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.backbones import Backbone
from training.backbones.resnet import ResNet, Stem
from training.networks.operators import adaptive_average_pools, gated_flow_fusion, resize


class PyramidPooling(nn.Module):
    """Pyramid pooling (PSPNet) with bins 1, 2, 3, 6.

    Differs: no ReLU after the batch norm of a bin, and a 1x1 bottleneck, as in the authors' code.
    """

    bins = (1, 2, 3, 6)

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
            for _ in self.bins
        )
        self.bottleneck = nn.Sequential(
            nn.Conv2d(in_channels + len(self.bins) * channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Dropout2d(0.1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, h, w) -> (N, channels, h, w)."""
        size = (x.shape[2], x.shape[3])
        pools = adaptive_average_pools(x, self.bins)
        levels = [resize(stage(pool), size) for stage, pool in zip(self.stages, pools, strict=True)]
        return self.bottleneck(torch.cat([*levels, x], dim=1))  # type: ignore[no-any-return]


class GatedDualFlowAlignment(nn.Module):
    """GD-FAM: two flows warp the coarse and the fine map, one gate mixes them.

    Paper: equations 5 to 7. Differs: one 3x3 flow convolution after two 1x1 reductions, a 3x3 gate
    convolution (paper: 1x1), and the gate sees the reduced coarse map but the unreduced fine map.
    """

    def __init__(self, channels: int, align_corners: bool = True) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.down_h = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.down_l = nn.Conv2d(channels, channels // 2, 1, bias=False)
        self.flow_make = nn.Conv2d(channels, 4, 3, padding=1, bias=False)
        self.flow_gate = nn.Sequential(nn.Conv2d(4, 1, 3, padding=1, bias=False), nn.Sigmoid())

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (N, C, H, W), high (N, C, h, w) -> (N, C, H, W)."""
        size = (low.shape[2], low.shape[3])
        high_reduced = resize(self.down_h(high), size)
        flow = self.flow_make(torch.cat([high_reduced, self.down_l(low)], dim=1))
        statistics = [
            high_reduced.mean(dim=1, keepdim=True),
            low.mean(dim=1, keepdim=True),
            high_reduced.amax(dim=1, keepdim=True),
            low.amax(dim=1, keepdim=True),
        ]
        gate = self.flow_gate(torch.cat(statistics, dim=1))
        return gated_flow_fusion(high, low, flow, gate, self.align_corners)


class SFNetLite(nn.Module):
    """SFNet-Lite on a trunk with maps at strides 4, 8, 16, 32.

    Differs: the second input of the head is the stride-16 map (paper's text: the context map), and
    the head is 3x3 + 1x1 (text: one 1x1). The authors' unused layers (a deep-supervision head that
    is never evaluated, a third lateral) are not built: 12.08 M parameters with the deep-stem
    ResNet-18 and 19 classes, theirs 12.30 M.

    Args:
        trunk: backbone with `channels` and forward(images) -> four maps.
        num_classes: width of the class scores.
        channels: width of the head, 128 in all SFNet-Lite models.
        align_corners: convention of the warp, see networks/operators.py.
    """

    output_stride = 4
    size_multiple = 32

    def __init__(
        self, trunk: Backbone, num_classes: int, channels: int = 128, align_corners: bool = True
    ) -> None:
        super().__init__()
        self.description = f"SFNet-Lite with {trunk.name}"
        self.trunk = trunk
        self.num_classes = num_classes
        fine, _, middle, deep = trunk.channels
        self.context = PyramidPooling(deep, channels)
        self.lateral_fine = _lateral(fine, channels)
        self.lateral_middle = _lateral(middle, channels)
        self.align = GatedDualFlowAlignment(channels, align_corners)
        self.head = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, num_classes, 1),
        )

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, H/4, W/4) of normalised images (N, 3, H, W)."""
        fine, _, middle, deep = self.trunk(images)
        aligned = self.align(self.lateral_fine(fine), self.context(deep))
        size = (aligned.shape[2], aligned.shape[3])
        middle = resize(self.lateral_middle(middle), size)
        return self.head(torch.cat([aligned, middle], dim=1))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """{"logits": (N, num_classes, H, W), "aux": []}; SFNet-Lite has no auxiliary head
        (models.md 1.4)."""
        logits = resize(self.scores(images), (images.shape[2], images.shape[3]))
        return {"logits": logits, "aux": []}


def _lateral(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )


def sfnet_lite_r18(
    num_classes: int, stem: Stem = "deep", dilations: tuple[int, int] = (2, 4)
) -> SFNetLite:
    """SFNet-Lite with ResNet-18; the defaults are the network of the authors' code (see
    ResNet)."""
    return SFNetLite(ResNet(18, stem, dilations), num_classes)


def state_from_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of a SFSegNets checkpoint (SFNet-Lite, ResNet-18) to ours.

    Layers that the authors build but never run are dropped: the deep-supervision head and the
    third lateral. "module.", which their distributed training puts before each name, is dropped.
    """
    prefixes = (
        ("layer0.0.", "trunk.conv1."),
        ("layer0.1.", "trunk.bn1."),
        ("layer", "trunk.layer"),
        ("head.ppm.bottleneck.", "context.bottleneck."),
        ("head.fpn_in.0.", "lateral_fine."),
        ("head.fpn_in.1.", "lateral_middle."),
        ("head.flow_align_module.", "align."),
        ("head.conv_last.0.", "head."),
        ("head.conv_last.1.", "head.3."),
    )
    ours: dict[str, Tensor] = {}
    for full_name, value in state.items():
        name = full_name.removeprefix("module.")
        if name.startswith("head.ppm.stages."):
            stage, layer, rest = name.removeprefix("head.ppm.stages.").split(".", 2)
            # Their stage holds the pool as layer 0.
            ours[f"context.stages.{stage}.{int(layer) - 1}.{rest}"] = value
            continue
        for theirs, own in prefixes:
            if name.startswith(theirs):
                ours[own + name.removeprefix(theirs)] = value
                break
    return ours
