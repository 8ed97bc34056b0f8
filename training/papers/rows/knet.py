# SPDX-License-Identifier: Apache-2.0
"""What the papers print about the networks of networks/knet.py."""

from __future__ import annotations

from functools import partial

from training.networks.knet import CITYSCAPES_THINGS, Options, knet_stdc1, knet_stdc2
from training.papers.published import Published

_PLAIN: Options = {"aligned_levels": ()}
_TABLE = "IJCV table 15"
_NOTE = "the paper prints PQ only; masks of earlier rounds act without a gradient, by a threshold"
PUBLISHED = tuple(
    Published(_TABLE, f"{name} + K-Net head", partial(build, 19, CITYSCAPES_THINGS, o), note=_NOTE)
    for name, build, o in (
        ("STDCv1", knet_stdc1, _PLAIN),
        ("SF-STDCv1", knet_stdc1, None),
        ("STDCv2", knet_stdc2, _PLAIN),
        ("SF-STDCv2", knet_stdc2, None),
    )
)
