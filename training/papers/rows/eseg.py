# SPDX-License-Identifier: Apache-2.0
"""What the papers print about the networks of networks/eseg.py."""

from __future__ import annotations

from functools import partial

from training.networks.eseg import (
    eseg_efficientnet_lite,
    eseg_l,
    eseg_lite_l,
    eseg_lite_m,
    eseg_lite_s,
    eseg_m,
    eseg_s,
    eseg_s_r50,
)
from training.papers.published import Published

_ELEMENTWISE = (
    "the rest grows with the decoder's width times its repeats and not with the encoder: work "
    "between the convolutions that the paper's counter seems to count"
)
_FPN = "the paper does not say how wide its FPN is; here full 3x3 convolutions, 96 channels"

PUBLISHED = (
    Published(
        "ESeg table 1",
        "P2-P5",
        partial(eseg_s, 19, deepest=5),
        params_m=6.4,
        gflops=34.3,
        reproduced_params=True,
        note=_ELEMENTWISE,
    ),
    Published(
        "ESeg table 1",
        "P2-P7",
        partial(eseg_s, 19, deepest=7),
        params_m=6.6,
        gflops=34.5,
        reproduced_params=True,
        note=_ELEMENTWISE,
    ),
    Published("ESeg table 2", "P2-P5, FPN", partial(eseg_s, 19, 5, "fpn"), gflops=39.8, note=_FPN),
    Published("ESeg table 2", "P2-P9, FPN", partial(eseg_s, 19, 9, "fpn"), gflops=40.0, note=_FPN),
    Published(
        "ESeg table 3",
        "ESeg-Lite-S",
        partial(eseg_lite_s, 19),
        gflops=17.0,
        reproduced_gflops=True,
        note="the cost is printed in section 3.2",
    ),
    Published("ESeg table 3", "ESeg-Lite-M", partial(eseg_lite_m, 19)),
    Published("ESeg table 3", "ESeg-Lite-L", partial(eseg_lite_l, 19)),
    Published(
        "ESeg table 4",
        "ESeg-S",
        partial(eseg_s, 19),
        params_m=6.9,
        gflops=34.5,
        reproduced_params=True,
        note=f"also the last rows of tables 1 and 2 and the first of table 8; {_ELEMENTWISE}",
    ),
    Published(
        "ESeg table 4",
        "ESeg-M",
        partial(eseg_m, 19),
        params_m=20.0,
        gflops=112.0,
        reproduced_params=True,
        note=_ELEMENTWISE,
    ),
    Published(
        "ESeg table 4",
        "ESeg-L",
        partial(eseg_l, 19),
        params_m=70.5,
        gflops=343.0,
        reproduced_params=True,
        note=f"section 3.2 prints 342; {_ELEMENTWISE}",
    ),
    Published(
        "ESeg table 8",
        "ResNet-50, BiFPN (w/o atrous)",
        partial(eseg_s_r50, 19),
        gflops=188.0,
        reproduced_gflops=True,
    ),
    Published("ours", "EfficientNet-Lite0, BiFPN", partial(eseg_efficientnet_lite, 19, 0)),
    Published("ours", "EfficientNet-Lite2, BiFPN", partial(eseg_efficientnet_lite, 19, 2)),
)
