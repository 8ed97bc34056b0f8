# SPDX-License-Identifier: Apache-2.0
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from training.networks.sfnet_lite import sfnet_lite_r18
from training.papers import tables
from training.papers.published import Published

REPRODUCED = [
    (file, row)
    for file, rows in tables.published_rows().items()
    for row in rows
    if row.reproduced_params or row.reproduced_gflops
]


class Small(nn.Module):
    """Layers whose cost can be told by hand, and one that is built and never used."""

    size_multiple = 2

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 5, padding=2, groups=8, bias=False)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2, bias=False)
        self.scale = nn.Linear(8, 4)
        self.unused = nn.Conv2d(8, 100, 1)

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        if images.shape[2] == 480:
            raise ValueError("480 rows")
        x = self.depthwise(self.first(images))
        scale = self.scale(x.mean(dim=(2, 3)))
        return {"logits": self.up(x) * scale[:, :, None, None], "aux": []}


PARAMETERS = (3 * 9 + 1) * 8 + 25 * 8 + 4 * 8 * 4 + 9 * 4
UNUSED = 9 * 100


def multiply_adds_of_small(height: int, width: int) -> int:
    quarter = height * width // 4
    return quarter * (27 * 8 + 25 * 8 + 4 * 8 * 4) + 8 * 4


def multiply_adds_by_hooks(network: nn.Module, images: Tensor) -> int:
    """The slow twin of the counter: from the shape of each convolution's output and weight."""
    total = 0

    def add(module: nn.Conv2d, _: object, output: Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(add)
    network(images)
    return total


def test_cost_equals_the_count_by_hand() -> None:
    assert tables.parameters(Small) == PARAMETERS + UNUSED
    assert tables.live_parameters(Small) == PARAMETERS
    assert tables.multiply_adds(Small, (64, 32)) == multiply_adds_of_small(64, 32)
    assert tables.multiply_adds(Small, (480, 480)) is None


def test_two_counters_agree() -> None:
    build = partial(sfnet_lite_r18, 19)
    with torch.device("meta"):
        by_hooks = multiply_adds_by_hooks(build().eval(), torch.empty(1, 3, 96, 160))
    assert tables.multiply_adds(build, (96, 160)) == by_hooks


def test_a_row_is_compared_in_the_convention_of_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Published(
        "Table 1", "Small", Small, params_m=0.002, gflops=0.001, size=(64, 32),
        convention="2 MAC", reproduced_gflops=True, not_built=1000, note="by hand",
    )  # fmt: skip
    assert tables.parameters_beside_paper(row) == (PARAMETERS + UNUSED + 1000) / 1e6
    assert tables.gflops_beside_paper(row) == 2 * multiply_adds_of_small(64, 32) / 1e9
    monkeypatch.setattr(tables, "published_rows", lambda: {"small": (row,)})
    cells = tables.markdown().splitlines()[-1].strip("| ").split(" | ")
    assert cells[:6] == ["Table 1", "Small", "0.001 + 0.001", "0.001", "0.002", "+24.4 %"]
    assert cells[8:] == ["–", "0.001", "2 MAC, 64×32", "0.00", "-44.3 % ✔", "by hand"]


@pytest.mark.parametrize(
    "row", [pytest.param(r, id=f"{f}-{r.table}-{r.name}") for f, r in REPRODUCED]
)
def test_reproduced_figures_are_within_one_percent(row: Published) -> None:
    if row.reproduced_params:
        assert tables.parameters_beside_paper(row) == pytest.approx(row.params_m, rel=0.01)
    if row.reproduced_gflops:
        assert tables.gflops_beside_paper(row) == pytest.approx(row.gflops, rel=0.01)


@pytest.mark.parametrize("file", tables.published_rows())
def test_the_committed_page_has_every_row(file: str) -> None:
    lines = tables.TABLES.read_text(encoding="utf-8").splitlines()
    for row in tables.published_rows()[file]:
        total = f"{tables.parameters(row.network) / 1e6:.3f}"
        start, end = f"| {row.table} | {row.name} | {total} ", f"| {row.note} |"
        found = [line for line in lines if line.startswith(start) and line.endswith(end)]
        assert found, f"training/papers/TABLES.md is old, it lacks {start}: run make tables"


@pytest.mark.slow
def test_the_committed_page_is_what_the_code_says() -> None:
    committed = tables.TABLES.read_text(encoding="utf-8")
    assert committed == tables.markdown(), "training/papers/TABLES.md is old: run make tables"
