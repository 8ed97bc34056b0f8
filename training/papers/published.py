# SPDX-License-Identifier: Apache-2.0
"""One printed row of a paper about a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn


@dataclass(frozen=True)
class Published:
    """One row of a paper's table, or one ablation for which the paper prints no cost.

    Each file of training/papers/rows holds the rows for one file of training/networks in
    `PUBLISHED`; training/papers/tables.py collects them.

    Args:
        table: such as "IJCV table 7".
        name: of the row in that table.
        network: builds the network with its number of classes and random weights.
        params_m: printed parameters in millions, or None.
        gflops: printed cost in thousand millions of operations, or None.
        size: (height, width) of the input for the printed cost.
        convention: unit of `gflops`: multiply-adds, or two operations per multiply-add.
        reproduced_params, reproduced_gflops: True if the printed figure follows from the layers; a
            test then keeps ours within 1 % of it.
        not_built: number of parameters that the printed figure counts and we do not build, because
            the authors' code never runs them.
        note: explains the difference.
    """

    table: str
    name: str
    network: Callable[[], nn.Module]
    params_m: float | None = None
    gflops: float | None = None
    size: tuple[int, int] = (1024, 2048)
    convention: Literal["MAC", "2 MAC"] = "MAC"
    reproduced_params: bool = False
    reproduced_gflops: bool = False
    not_built: int = 0
    note: str = ""
