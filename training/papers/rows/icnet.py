# SPDX-License-Identifier: Apache-2.0
"""What the papers print about the networks of networks/icnet.py."""

from __future__ import annotations

from functools import partial

from training.networks.icnet import ICNet
from training.papers.published import Published

_ICNET = partial(ICNet, 19, auxiliary=False)
_MEGABYTES = "the printed parameters fit megabytes of fp32"

PUBLISHED = (
    Published("IJCV table 3", "ICNet", _ICNET, 26.5, note=_MEGABYTES),
    Published("DFANet table 5", "ICNet", _ICNET, 26.5, 28.3, note=_MEGABYTES),
)
