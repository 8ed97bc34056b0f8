# SPDX-License-Identifier: Apache-2.0
"""Compares the cost of every network with the papers: python -m training.papers.tables

Writes TABLES.md from the `PUBLISHED` of the files in training/papers/rows. A network runs on
PyTorch's meta device, where tensors have shapes but no values: all networks together take no memory
and a minute or two.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from training.papers import rows
from training.papers.published import Published

TABLES = Path(__file__).with_name("TABLES.md")
SIZES = ((1024, 2048), (1024, 1024), (480, 480))

INTRODUCTION = """# Parameters and multiply-adds

`make tables` writes this file from the code; a test compares the two.

- **Parameters**, in millions: all parameters of our network; after `+` those that the paper counts
  although the authors' code never runs them, and that we do not build. *Live*: those on which the
  output depends; the others are heads that only training runs.
- **GMAC**: thousand millions of multiply-adds of convolutions and matrix products for one image,
  counted by PyTorch. Bias, batch norm, activation, pooling, resizing and warping are not counted.
  `–`: the network does not take this size.
- **Printed** is the paper's figure; **its convention** is the unit and the input size of that
  figure, which can differ from the paper's statement. **Ours** is our figure in this convention,
  followed by its difference from the printed figure.
- ✔ marks a figure that follows from the layers: a test keeps ours within 1 % of it. The note
  explains other differences as far as possible.
- A figure that several tables print for the same network appears once.
"""

HEADER = [
    *("Table", "Row", "Parameters, M", "live", "printed M", "difference"),
    *("GMAC 1024×2048", "1024×1024", "480×480"),
    *("printed G", "its convention", "ours", "difference", "Note"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=TABLES)
    path = parser.parse_args().output
    text = markdown()
    path.write_text(text, encoding="utf-8")
    print(text)


def published_rows() -> dict[str, tuple[Published, ...]]:
    """Returns the rows of each file in training/papers/rows, by the name of the network's file."""
    names = [module.name for module in pkgutil.iter_modules(rows.__path__)]
    return {name: importlib.import_module(f"{rows.__name__}.{name}").PUBLISHED for name in names}


@cache
def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Builds the network in evaluation mode without memory for its weights."""
    with torch.device("meta"):
        return build().eval()


def parameters(build: Callable[[], nn.Module]) -> int:
    """Returns the number of parameters of the network."""
    return sum(p.numel() for p in on_meta(build).parameters())


@cache
def live_parameters(build: Callable[[], nn.Module]) -> int:
    """Returns the number of parameters on which the output in evaluation depends."""
    network = on_meta(build)
    side = 2 * int(network.size_multiple)  # type: ignore[arg-type]
    with torch.device("meta"):
        output = network(torch.empty(1, 3, side, side))
    sums = [x.sum() for x in _tensors(output) if x.requires_grad]
    weights = list(network.parameters())
    gradients = torch.autograd.grad(sums, weights, allow_unused=True)
    return sum(w.numel() for w, g in zip(weights, gradients, strict=True) if g is not None)


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yields all tensors of a nested output."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict | list | tuple):
        for value in output.values() if isinstance(output, dict) else output:
            yield from _tensors(value)


@cache
def multiply_adds(build: Callable[[], nn.Module], size: tuple[int, int]) -> int | None:
    """Returns the multiply-adds of convolutions and matrix products for one image, or None if the
    network does not take its `size` (height, width)."""
    network = on_meta(build)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        try:
            network(torch.empty(1, 3, *size))
        except ValueError:
            return None
    return int(counter.get_total_flops()) // 2


def parameters_beside_paper(row: Published) -> float:
    """Returns millions of parameters, including those that only the authors' code builds."""
    return (parameters(row.network) + row.not_built) / 1e6


def gflops_beside_paper(row: Published) -> float:
    """Returns the cost at the row's size, in the row's convention.

    Raises:
        ValueError: the network does not take the row's size.
    """
    macs = multiply_adds(row.network, row.size)
    if macs is None:
        raise ValueError(f"{row.table} {row.name}: the network does not take the size {row.size}")
    return macs * {"MAC": 1, "2 MAC": 2}[row.convention] / 1e9


def markdown() -> str:
    """Returns the page: one table per file of training/networks."""
    return "\n".join([INTRODUCTION, *_sections()])


def _sections() -> Iterator[str]:
    for file, published in published_rows().items():
        yield f"## {file}\n\nNetworks of [networks/{file}.py](../networks/{file}.py).\n"
        lines = [HEADER, ["---"] * len(HEADER), *(_cells(row) for row in published)]
        yield "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cells(row: Published) -> list[str]:
    total = f"{parameters(row.network) / 1e6:.3f}"
    if row.not_built:
        total += f" + {row.not_built / 1e6:.3f}"
    return [
        row.table,
        row.name,
        total,
        f"{live_parameters(row.network) / 1e6:.3f}",
        *_comparison(row.params_m, parameters_beside_paper(row), row.reproduced_params),
        *(_giga(multiply_adds(row.network, size)) for size in SIZES),
        *_cost_cells(row),
        row.note,
    ]


def _cost_cells(row: Published) -> list[str]:
    """Returns the printed cost, its convention, our cost and the difference."""
    if row.gflops is None:
        return ["", "", "", ""]
    ours = gflops_beside_paper(row)
    printed, difference = _comparison(row.gflops, ours, row.reproduced_gflops)
    height, width = row.size
    return [printed, f"{row.convention}, {height}×{width}", f"{ours:.2f}", difference]


def _comparison(printed: float | None, ours: float, reproduced: bool) -> list[str]:
    if printed is None:
        return ["", ""]
    # Adding zero turns a rounded -0.0 into +0.0.
    difference = f"{round(100 * (ours / printed - 1), 1) + 0.0:+.1f} %"
    return [f"{printed:g}", f"{difference} ✔" if reproduced else difference]


def _giga(macs: int | None) -> str:
    return "–" if macs is None else f"{macs / 1e9:.2f}"


if __name__ == "__main__":
    main()
