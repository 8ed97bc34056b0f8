# SPDX-License-Identifier: Apache-2.0
"""What the papers print about the networks of networks/bisenet.py."""

from __future__ import annotations

from functools import partial

from training.networks.bisenet import bisenet_r18, bisenet_r101, bisenet_xception39
from training.papers.published import Published

_R18 = partial(bisenet_r18, 19, auxiliary=False)
_R101 = partial(bisenet_r101, 19, auxiliary=False)
_XCEPTION39 = partial(bisenet_xception39, 19, auxiliary=False)
_MEBIBYTES = "the printed parameters fit MiB of fp32"

PUBLISHED = (
    Published("IJCV table 3", "BiSeNet (ResNet-18)", _R18, 12.9, reproduced_params=True),
    Published("IJCV table 3", "BiSeNet (Xception-39)", _XCEPTION39, 5.8, note=_MEBIBYTES),
    Published(
        "DFANet table 5", "BiSeNet1", _XCEPTION39, 5.8, 14.8, size=(768, 1536), note=_MEBIBYTES
    ),
    Published("DFANet table 5", "BiSeNet2", _R18, 49, 55.3, size=(768, 1536), note=_MEBIBYTES),
    Published(
        "ECCV table 7",
        "BiSeNet (ResNet-18)",
        _R18,
        12.3,
        note="table 6 prints 12.9 M for the same network",
    ),
    Published(
        "ECCV table 7",
        "BiSeNet (ResNet-101)",
        _R101,
        51.0,
        437.4,
        size=(1024, 1024),
        convention="2 MAC",
        reproduced_gflops=True,
    ),
)
