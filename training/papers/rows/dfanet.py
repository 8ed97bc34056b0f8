# SPDX-License-Identifier: Apache-2.0
"""What the papers print about the networks of networks/dfanet.py."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from training.networks.dfanet import DFANet, dfanet_a, dfanet_b
from training.papers.published import Published

_1024 = (1024, 1024)
_NOTE = "the column Params fits megabytes of fp32, batch norm statistics included, not a count"


def _row(
    table: str,
    name: str,
    params_m: float | None,
    gflops: float,
    network: Callable[[], DFANet],
    size: tuple[int, int] = _1024,
    reproduced: bool = False,
) -> Published:
    note = "" if params_m is None else _NOTE
    return Published(
        table, name, network, params_m, gflops, size, reproduced_gflops=reproduced, note=note
    )


_A, _B = partial(DFANet, "A", 19), partial(DFANet, "B", 19)

PUBLISHED = (
    _row("DFANet table 2", "Xception A", None, 1.6, partial(_A, 1, "none", attention=False)),
    _row("DFANet table 2", "Xception B", None, 0.83, partial(_B, 1, "none", attention=False)),
    _row("DFANet table 3", "Backbone A", 2.1, 1.6, partial(_A, 1, "none")),
    _row("DFANet table 3", "Backbone A x2", 4.9, 2.4, partial(_A, 2, "none")),
    _row("DFANet table 3", "Backbone A x3", 7.6, 2.6, partial(_A, 3, "none"), reproduced=True),
    _row("DFANet table 3", "Backbone A x4", 10.2, 2.7, partial(_A, 4, "none")),
    _row("DFANet table 3", "Backbone B", 1.4, 0.83, partial(_B, 1, "none")),
    _row("DFANet table 3", "Backbone B x2", 3.1, 1.2, partial(_B, 2, "none")),
    _row("DFANet table 3", "Backbone B x3", 4.7, 1.4, partial(_B, 3, "none")),
    _row("DFANet table 3", "Backbone B x4", 6.3, 1.5, partial(_B, 4, "none")),
    _row("DFANet table 4", "Backbone A x2+HL", 5.0, 2.5, partial(_A, 2, "HL"), reproduced=True),
    _row(
        "DFANet table 4", "Backbone A x2+HL+LL", 5.1, 3.2, partial(_A, 2, "HL+LL"), reproduced=True
    ),
    _row("DFANet table 4", "Backbone A x3+HL", 7.7, 2.7, partial(_A, 3, "HL"), reproduced=True),
    _row(
        "DFANet table 4", "Backbone A x3+HL+LL", 7.8, 3.4, partial(_A, 3, "HL+LL"), reproduced=True
    ),
    _row("DFANet table 4", "Backbone B x3+HL", 4.9, 1.5, partial(_B, 3, "HL")),
    _row("DFANet table 4", "Backbone B x3+HL+LL", 4.9, 2.1, partial(_B, 3, "HL+LL")),
    _row("DFANet table 5", "DFANet A", 7.8, 3.4, partial(dfanet_a, 19), reproduced=True),
    _row("DFANet table 5", "DFANet B", 4.8, 2.1, partial(dfanet_b, 19)),
    _row(
        "DFANet table 5", "DFANet A'", 7.8, 1.7, partial(dfanet_a, 19), (512, 1024), reproduced=True
    ),
)
