# SPDX-License-Identifier: Apache-2.0
"""SFNet-Lite: one gated dual flow alignment between the shallowest map and the context map.

Paper: Li et al., "SFNet: Faster, Accurate, and Domain Agnostic Semantic Segmentation via Semantic
Flow", IJCV, section 3.3 and figure 5. `Differs:` marks where the authors' code, which reproduces
the paper's parameter table, departs from the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from training.backbones import Backbone
from training.backbones.efficientnet_lite import EfficientNetLite
from training.backbones.resnet import ResNet, Stem
from training.backbones.stdc import stdc1, stdc2
from training.networks.context import PyramidPooling
from training.networks.heads import lateral, score_head
from training.networks.sfnet import DEAD_STDC_LAYERS, TRUNK_AND_CONTEXT
from training.operators import flow_warp, gated_flow_fusion, resize
from training.weights import renamed

Gate = Literal["attention", "convolution", "none"]


class GatedDualFlowAlignment(nn.Module):
    """GD-FAM: two flows warp the coarse and the fine map, one gate mixes them.

    Paper: equations 4 to 6. Differs: one 3x3 flow convolution after two 1x1 reductions (text: two
    3x3), a 3x3 gate convolution (text: 1x1), and the gate reads the reduced coarse map but the
    unreduced fine map. Differs: the printed equation 6 puts the gate on the fine map; this module
    follows the sentence before it and the authors' code, and puts it on the coarse map.

    Args:
        channels: of both maps.
        gate: computed from the channels' mean and maximum ("attention") or from the reduced maps
            ("convolution"), both in table 10b. "none" adds the maps; not in the paper.
        shared_gate: True: the fine map gets 1 - gate (G in table 10b). False: its own gate.
        dual_flow: whether the fine map is warped as well. False with a gate is not in the paper.
        align_corners: convention of the warp, see operators.flow_warp.
    """

    def __init__(
        self,
        channels: int,
        gate: Gate = "attention",
        shared_gate: bool = True,
        dual_flow: bool = True,
        align_corners: bool = True,
    ) -> None:
        super().__init__()
        if gate not in ("attention", "convolution", "none"):
            raise ValueError(f"gate is {gate!r}, expected 'attention', 'convolution' or 'none'")
        self.gate = gate
        self.shared_gate = shared_gate
        self.dual_flow = dual_flow
        self.align_corners = align_corners
        half = channels // 2
        self.down_h = nn.Conv2d(channels, half, 1, bias=False)
        self.down_l = nn.Conv2d(channels, half, 1, bias=False)
        self.flow_make = nn.Conv2d(2 * half, 4 if dual_flow else 2, 3, padding=1, bias=False)
        if gate != "none":
            seen = 4 if gate == "attention" else 2 * half
            gates = 1 if shared_gate else 2
            self.flow_gate = nn.Sequential(
                nn.Conv2d(seen, gates, 3, padding=1, bias=False), nn.Sigmoid()
            )

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        """low (N, C, H, W), high (N, C, h, w) -> (N, C, H, W)."""
        high_reduced = resize(self.down_h(high), (low.shape[2], low.shape[3]))
        reduced = torch.cat([high_reduced, self.down_l(low)], dim=1)
        flow = self.flow_make(reduced)  # equation 4
        if self.gate == "none":
            return self._warped_high(high, flow) + self._warped_low(low, flow)
        seen = statistics(high_reduced, low) if self.gate == "attention" else reduced
        gate = self.flow_gate(seen)  # equation 5
        if self.dual_flow and self.shared_gate:
            return gated_flow_fusion(high, low, flow, gate, self.align_corners)  # equation 6
        gate_low: Tensor = 1 - gate if self.shared_gate else gate[:, 1:2]
        gate_high: Tensor = gate[:, 0:1]
        return gate_high * self._warped_high(high, flow) + gate_low * self._warped_low(low, flow)

    def _warped_high(self, high: Tensor, flow: Tensor) -> Tensor:
        return flow_warp(high, flow[:, 0:2], self.align_corners)

    def _warped_low(self, low: Tensor, flow: Tensor) -> Tensor:
        return flow_warp(low, flow[:, 2:4], self.align_corners) if self.dual_flow else low


def statistics(high: Tensor, low: Tensor) -> Tensor:
    """Returns mean and maximum over the channels of `high` (N, C, H, W) and `low` (N, D, H, W).

    The result is (N, 4, H, W), the pooling of equation 5. In GD-FAM, C is D / 2.
    """
    maps = (high, low)
    means = [x.mean(dim=1, keepdim=True) for x in maps]
    maxima = [x.amax(dim=1, keepdim=True) for x in maps]
    return torch.cat([*means, *maxima], dim=1)


class SFNetLite(nn.Module):
    """SFNet-Lite on a trunk with maps at strides 4, 8, 16, 32.

    Differs: the second input of the head is the stride-16 map (paper's text: the context map), and
    the head is 3x3 + 1x1 (text: one 1x1). The authors' unused layers (`DEAD_LAYERS`) are not built:
    12.08 M parameters with the deep-stem ResNet-18 and 19 classes, theirs 12.30 M.

    Args:
        trunk: backbone; all its maps except the second are read.
        num_classes: width of the class scores.
        channels: width of the head, D.
        context: builds the module on the deepest map from (its channels, D), see
            networks/context.py.
        align: builds the module that fuses the finest map and the context map from (D).
    """

    output_stride = 4
    size_multiple = 32

    def __init__(
        self,
        trunk: Backbone,
        num_classes: int,
        channels: int = 128,
        context: Callable[[int, int], nn.Module] = PyramidPooling,
        align: Callable[[int], nn.Module] = GatedDualFlowAlignment,
    ) -> None:
        super().__init__()
        if trunk.strides != (4, 8, 16, 32):
            raise ValueError(
                f"{trunk.name} has strides {trunk.strides}, SFNet-Lite needs (4, 8, 16, 32)"
            )
        self.description = f"SFNet-Lite with {trunk.name}"
        self.num_classes = num_classes
        self.trunk = trunk
        fine, _, middle, deep = trunk.channels
        self.context = context(deep, channels)
        self.lateral_fine = lateral(fine, channels)
        self.lateral_middle = lateral(middle, channels)
        self.align = align(channels)
        self.head = score_head(2 * channels, channels, num_classes)

    def scores(self, images: Tensor) -> Tensor:
        """Class scores (N, num_classes, H/4, W/4) of normalised images (N, 3, H, W)."""
        fine, _, middle, deep = self.trunk(images)
        aligned = self.align(self.lateral_fine(fine), self.context(deep))
        size = (aligned.shape[2], aligned.shape[3])
        middle = resize(self.lateral_middle(middle), size)
        return self.head(torch.cat([aligned, middle], dim=1))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        """{"logits": (N, num_classes, H, W), "aux": []}; SFNet-Lite trains no auxiliary head."""
        logits = resize(self.scores(images), (images.shape[2], images.shape[3]))
        return {"logits": logits, "aux": []}


# The named models. `options` are arguments of SFNetLite: context, align. Differs: the paper only
# names a ResNet; deep stem and dilations follow the authors' code.


def sfnet_lite_r18(
    num_classes: int,
    stem: Stem = "deep",
    dilations: tuple[int, int] = (2, 4),
    channels: int = 128,
    **options: Any,
) -> SFNetLite:
    return SFNetLite(ResNet(18, stem, dilations), num_classes, channels, **options)


def sfnet_lite_r101(
    num_classes: int,
    stem: Stem = "deep",
    dilations: tuple[int, int] = (2, 4),
    channels: int = 256,
    **options: Any,
) -> SFNetLite:
    """The authors' code cannot build this network; the width is that of their SFNet-R101."""
    return SFNetLite(ResNet(101, stem, dilations), num_classes, channels, **options)


def sfnet_lite_stdc1(num_classes: int, channels: int = 128, **options: Any) -> SFNetLite:
    """64 channels need 43 GMAC at 1024x2048, 128 channels 74."""
    return SFNetLite(stdc1(), num_classes, channels, **options)


def sfnet_lite_stdc2(num_classes: int, channels: int = 128, **options: Any) -> SFNetLite:
    return SFNetLite(stdc2(), num_classes, channels, **options)


def sfnet_lite_efficientnet_lite(
    num_classes: int, variant: int, channels: int = 96, **options: Any
) -> SFNetLite:
    """On EfficientNet-Lite `variant`, which has public ImageNet weights; not in the paper."""
    return SFNetLite(EfficientNetLite(variant), num_classes, channels, **options)


# Layers that the authors build but never run: STDC's, the deep-supervision head and, with
# ResNet-18, the third lateral.
DEAD_LAYERS = (*DEAD_STDC_LAYERS, "head.dsn.", "head.fpn_in.2.")


def state_from_authors(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames the tensors of a SFSegNets checkpoint of any SFNet-Lite to ours; `DEAD_LAYERS` are
    dropped."""
    head = (
        ("head.fpn_in.0.", "lateral_fine."),
        ("head.fpn_in.1.", "lateral_middle."),
        ("head.flow_align_module.", "align."),
        ("head.conv_last.0.", "head."),
        ("head.conv_last.1.", "head.3."),
    )
    return renamed(state, (*TRUNK_AND_CONTEXT, *head))
