# SPDX-License-Identifier: Apache-2.0
"""What the papers print about the networks of networks/stdc_seg.py."""

from __future__ import annotations

from functools import partial

from training.networks.stdc_seg import stdc1_seg, stdc2_seg
from training.papers.published import Published

# The ImageNet classifier, and the boundary heads on the maps of strides 2, 4 and 16.
_NOT_BUILT = 3_125_248 + sum(c * 64 * 9 + 2 * 64 + 64 for c in (32, 64, 512))
_NOTE = "counts the ImageNet classifier and three boundary heads that are not trained"

PUBLISHED = (
    Published(
        "IJCV table 3",
        "STDC1-Seg75",
        partial(stdc1_seg, 19),
        params_m=12.0,
        size=(768, 1536),
        reproduced_params=True,
        not_built=_NOT_BUILT,
        note=_NOTE,
    ),
    Published(
        "IJCV table 3",
        "STDC2-Seg75",
        partial(stdc2_seg, 19),
        params_m=16.1,
        size=(768, 1536),
        reproduced_params=True,
        not_built=_NOT_BUILT,
        note=_NOTE,
    ),
)
