# SPDX-License-Identifier: Apache-2.0
"""A figure that a paper prints about a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import nn


@dataclass(frozen=True)
class Published:
    """One row of a paper's table, or one ablation for which the paper prints no cost.

    A file of training/papers/rows holds those of one file of training/networks as `PUBLISHED`;
    training/papers/tables.py finds them there.

    Args:
        table: where it is printed, such as "IJCV table 7".
        name: the row's name in that table.
        network: builds the network with random weights, class number included.
        params_m: printed parameters in millions, None where none is printed.
        gflops: printed cost in thousand millions of what `convention` counts; None where none is
            printed.
        size: (height, width) of the input that the printed cost is for.
        convention: what `gflops` counts: multiply-adds, or two operations for each.
        reproduced_params, reproduced_gflops: whether the figure is known to follow from the layers;
            a test holds ours within 1 % of it.
        not_built: parameters of layers that the authors' code builds and never runs, which ours
            leaves out and the printed figure counts.
        note: what a reader must know about the difference.
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
