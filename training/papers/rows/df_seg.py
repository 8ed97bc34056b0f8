# SPDX-License-Identifier: Apache-2.0
"""What the papers print about the networks of networks/df_seg.py."""

from __future__ import annotations

from functools import partial

from training.networks.df_seg import df1_seg, df2_seg
from training.papers.published import Published

_NOTE = "DF-Seg has several decoders; this is the one of SFNet's authors"

PUBLISHED = (
    Published("IJCV table 5", "DF1-Seg", partial(df1_seg, 19), params_m=8.55, note=_NOTE),
    Published("IJCV table 5", "DF2-Seg", partial(df2_seg, 19), params_m=18.88, note=_NOTE),
    Published(
        "ECCV table 6",
        "DF2-Seg",
        partial(df2_seg, 19),
        params_m=8.55,
        note="the figure of DF1-Seg; the IJCV paper prints another",
    ),
)
