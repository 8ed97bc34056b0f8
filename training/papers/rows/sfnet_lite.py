# SPDX-License-Identifier: Apache-2.0
"""What the papers print about the networks of networks/sfnet_lite.py."""

from __future__ import annotations

from functools import partial
from typing import Any

from training.networks.sfnet import sfnet_r18, sfnet_r101, sfnet_stdc1, sfnet_stdc2
from training.networks.sfnet_lite import (
    GatedDualFlowAlignment,
    sfnet_lite_efficientnet_lite,
    sfnet_lite_r18,
    sfnet_lite_r101,
    sfnet_lite_stdc1,
    sfnet_lite_stdc2,
)
from training.papers.published import Published

# Layers that the authors build and never run. A bias counts 1 per channel, a batch norm 2.
_SUPERVISION = (9 * 128 + 1 + 2) * 128 + (128 + 1) * 19  # 3x3 and norm, 1x1 to the classes
_LATERAL = (512 + 1 + 2) * 128  # 1x1 and norm, on layer4
_CLASSIFIER = 2 * (1024 + 2) * 1024 + 1024 * 1000  # twice 1x1 and norm, 1x1; no bias
_UNUSED = "the authors build a supervision head and never run it"
_ONE: dict[str, Any] = {"align": GatedDualFlowAlignment, "aligned_levels": (3,)}
_ONE_NOTE = (
    "SFNet whose last step is the one GD-FAM: that fits the printed cost, SFNet-Lite does not"
)


def _ablation(name: str, table: str = "IJCV table 10b", **arguments: Any) -> Published:
    align = partial(GatedDualFlowAlignment, **arguments)
    return Published(table, name, partial(sfnet_lite_r18, 19, align=align))


PUBLISHED: tuple[Published, ...] = (
    Published(
        "IJCV table 3", "SFNet-Lite (ResNet-18)", partial(sfnet_lite_r18, 19), params_m=12.3,
        reproduced_params=True, not_built=_SUPERVISION + _LATERAL,
        note=_UNUSED + ", and a third lateral",
    ),
    Published(
        "IJCV table 3", "SFNet-Lite (STDC-1)", partial(sfnet_lite_stdc1, 19), params_m=9.7,
        reproduced_params=True, not_built=_SUPERVISION + _CLASSIFIER,
        note=_UNUSED + ", and keep STDC's ImageNet classifier",
    ),
    Published(
        "IJCV table 3", "SFNet-Lite (STDC-2)", partial(sfnet_lite_stdc2, 19), params_m=13.7,
        reproduced_params=True, not_built=_SUPERVISION + _CLASSIFIER,
        note=_UNUSED + ", and keep STDC's ImageNet classifier",
    ),
    Published(
        "IJCV table 7", "SFNet-Lite (STDC-1)", partial(sfnet_lite_stdc1, 19), params_m=13.7,
        not_built=_SUPERVISION + _CLASSIFIER, note="the figure of STDC-2; table 3 has 9.7",
    ),
    Published("IJCV table 10b", "FPN + PPM", partial(sfnet_r18, 19, aligned_levels=())),
    _ablation("DF", gate="convolution", shared_gate=False),
    _ablation("DF, Atten", shared_gate=False),
    _ablation("DF, Atten, G"),
    Published(
        "IJCV table 11", "ResNet-101 w/ GD-FAM", partial(sfnet_r101, 19, **_ONE), gflops=415.3,
        size=(1024, 1024),
        note=_ONE_NOTE + "; 1 to 4 % of the papers' GFLOPs with ResNets are not explained",
    ),
    Published(
        "IJCV table 11", "STDC-Net-v1 w/ GD-FAM", partial(sfnet_stdc1, 19, **_ONE), gflops=59.0,
        reproduced_gflops=True, note=_ONE_NOTE,
    ),
    Published(
        "IJCV table 11", "STDC-Net-v2 w/ GD-FAM", partial(sfnet_stdc2, 19, **_ONE), gflops=86.2,
        reproduced_gflops=True, note=_ONE_NOTE,
    ),
    Published(
        "IJCV table 12", "with GD-FAM", partial(sfnet_lite_r101, 19),
        note="no cost is printed and the mIoU is not table 11's, so this is read as SFNet-Lite "
        "with ResNet-101; the authors' code cannot build it",
    ),
    _ablation("GD-FAM without the second flow", "ours", dual_flow=False),
    _ablation("GD-FAM without a gate", "ours", gate="none"),
    Published(
        "ours", "SFNet-Lite (STDC-1), half width", partial(sfnet_lite_stdc1, 19, channels=64),
        note="not of the papers: their SFNet-Lite with STDC is twice as wide as SFNet, and dearer",
    ),
    Published(
        "ours", "SFNet-Lite (STDC-2), half width", partial(sfnet_lite_stdc2, 19, channels=64)
    ),
    Published(
        "ours", "SFNet-Lite (EfficientNet-Lite2), 96 channels",
        partial(sfnet_lite_efficientnet_lite, 19, 2),
    ),
    Published(
        "ours", "SFNet-Lite (EfficientNet-Lite2), 64 channels",
        partial(sfnet_lite_efficientnet_lite, 19, 2, channels=64),
    ),
)  # fmt: skip
