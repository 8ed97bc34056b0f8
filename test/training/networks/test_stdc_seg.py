# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from training.networks.stdc_seg import (
    STDCSeg,
    detail_loss,
    detail_target,
    state_from_authors,
    stdc1_seg,
    stdc2_seg,
    stdc_seg_loss,
)


@pytest.fixture(scope="module")
def network() -> STDCSeg:
    torch.manual_seed(0)
    return stdc1_seg(19)


@pytest.mark.parametrize(("build", "millions"), [(stdc1_seg, 8.275), (stdc2_seg, 12.306)])
def test_used_parameters_match_those_of_the_authors(
    build: Callable[[int], STDCSeg], millions: float
) -> None:
    # Of the authors' code, what is left when the heads of training and the classifier are taken out
    with torch.device("meta"):
        network = build(19)
    live = sum(
        p.numel()
        for n, p in network.named_parameters()
        if not n.startswith(("aux_head", "detail_head"))
    )
    assert live == pytest.approx(millions * 1e6, abs=600)


@pytest.mark.parametrize("size", [(64, 96), (90, 120)])
def test_training_adds_two_scores_and_the_detail(network: STDCSeg, size: tuple[int, int]) -> None:
    images = torch.randn(2, 3, *size)
    network.eval()
    output = network(images)
    assert set(output) == {"logits", "aux"}
    assert output["logits"].shape == (2, 19, *size)
    assert output["aux"] == []
    assert network.scores(images).shape == (2, 19, -(-size[0] // 8), -(-size[1] // 8))
    output = network.train()(images)
    strides = (8, 16)
    expected = [(2, 19, -(-size[0] // s), -(-size[1] // s)) for s in strides]
    assert [tuple(scores.shape) for scores in output["aux"]] == expected
    assert output["detail"].shape == (2, 1, *expected[0][2:])


def test_every_parameter_gets_a_gradient(network: STDCSeg) -> None:
    network.train().zero_grad()
    labels = torch.randint(0, 19, (2, 64, 64), dtype=torch.uint8)  # as the data sets give them
    stdc_seg_loss(network(torch.randn(2, 3, 64, 64)), labels).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_auxiliary_heads_are_named_after_the_stride_of_their_map() -> None:
    # Equal shapes, and no part of the scores: only the name tells them apart.
    theirs = {
        "conv_out16.conv_out.weight": torch.ones(1),
        "conv_out32.conv_out.weight": torch.ones(1),
    }
    assert list(state_from_authors(theirs)) == ["aux_head8.1.weight", "aux_head16.1.weight"]


def test_detail_is_on_the_greater_side_of_an_edge_and_stride_two_widens_it() -> None:
    labels = torch.zeros(1, 8, 12, dtype=torch.long)
    labels[:, :, 6:] = 3
    target = detail_target(labels)[0, 0]
    # The last one, because the map borders on zeros outside of the picture.
    assert target[3].tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 1]
    labels[:] = 0
    assert not detail_target(labels).any()


def authors_example() -> tuple[Tensor, Tensor]:
    """Logits (1, 1, 4, 6) and labels (1, 32, 48) with every value written out."""
    logits = torch.linspace(-3, 3, 24).view(1, 1, 4, 6)
    rows, columns = torch.meshgrid(torch.arange(32) // 7, torch.arange(48) // 11, indexing="ij")
    labels = (3 * rows + 5 * columns) % 7
    labels[:3] = 255
    return logits, labels[None]


def test_detail_loss_equals_that_of_the_authors() -> None:
    # MichaelFan01/STDC-Seg 59ff37f, DetailAggregateLoss, for the same numbers
    logits, labels = authors_example()
    assert float(detail_loss(logits, labels)) == pytest.approx(1.5818417, rel=1e-5)
