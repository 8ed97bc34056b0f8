# SPDX-License-Identifier: Apache-2.0
"""What the papers print about the networks of networks/deeplabv3_plus.py."""

from __future__ import annotations

from functools import partial

from training.networks.deeplabv3_plus import deeplabv3_plus_b1, deeplabv3_plus_r50
from training.papers.published import Published

_TABLE = "ESeg table 8"
_UNSETTLED = (
    "the paper says nothing of this decoder's layers; ASPP of full convolutions brings three of "
    "its four rows near, no reading that was tried all four"
)

PUBLISHED = (
    Published(
        _TABLE,
        "EfficientNet-B1, DeepLabV3+ (w/ atrous)",
        partial(deeplabv3_plus_b1, 19),
        gflops=91.8,
        note=_UNSETTLED,
    ),
    Published(
        _TABLE,
        "EfficientNet-B1, DeepLabV3+ (w/o atrous)",
        partial(deeplabv3_plus_b1, 19, atrous=False),
        gflops=49.9,
        note=_UNSETTLED,
    ),
    Published(
        _TABLE,
        "ResNet-50, DeepLabV3+ (w/ atrous)",
        partial(deeplabv3_plus_r50, 19),
        gflops=324.3,
        note=_UNSETTLED,
    ),
    Published(
        _TABLE,
        "ResNet-50, DeepLabV3+ (w/o atrous)",
        partial(deeplabv3_plus_r50, 19, atrous=False),
        gflops=230.3,
        note=_UNSETTLED,
    ),
    Published(
        "IJCV table 4",
        "Deeplabv3+",
        partial(deeplabv3_plus_r50, 19, stem="deep", separable=False),
        params_m=40.5,
        reproduced_params=True,
        note="tables 5, 6 and 7 print the same",
    ),
)
