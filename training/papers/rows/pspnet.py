# SPDX-License-Identifier: Apache-2.0
"""What the papers print about the networks of networks/pspnet.py."""

from __future__ import annotations

from functools import partial

from training.networks.pspnet import pspnet
from training.papers.published import Published

_R50 = partial(pspnet, depth=50, auxiliary=False)
_R101 = partial(pspnet, depth=101, auxiliary=False)
_480 = (480, 480)
_RESIDUE = "the residue is that of SFNet's own rows on ResNets"

PUBLISHED = (
    Published(
        "IJCV table 4",
        "PSPNet",
        partial(_R50, 19, head="sfnet"),
        31.1,
        reproduced_params=True,
        note="tables 5, 6 and 7 print the same",
    ),
    Published(
        "ECCV table 7",
        "PSPNet (ResNet-101)",
        partial(_R101, 19),
        65.7,
        2128.2,
        size=(1024, 1024),
        convention="2 MAC",
        reproduced_params=True,
        note=_RESIDUE,
    ),
    Published(
        "ECCV table 8",
        "PSPNet (ResNet-101)",
        partial(_R101, 59),
        gflops=334.7,
        size=_480,
        convention="2 MAC",
        note="the figure fits ResNet-50: see table 9",
    ),
    Published(
        "ECCV table 9",
        "PSPNet (ResNet-50)",
        partial(_R50, 150),
        gflops=335.0,
        size=_480,
        convention="2 MAC",
        note=_RESIDUE,
    ),
    Published(
        "ECCV table 9",
        "PSPNet (ResNet-101)",
        partial(_R101, 150),
        gflops=476.3,
        size=_480,
        convention="2 MAC",
        note=_RESIDUE,
    ),
    Published(
        "ESeg table 4", "PSPNet (ResNet-101)", partial(_R101, 19, stem="plain"), 65.9, 2018.0
    ),
    Published(
        "DFANet table 5",
        "PSPNet",
        partial(_R101, 19),
        250.8,
        412.2,
        size=(713, 713),
        note="the printed parameters fit MiB of fp32",
    ),
)
