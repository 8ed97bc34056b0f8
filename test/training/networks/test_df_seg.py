# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import pytest
import torch

from training.networks.df_seg import DFSeg, df1_seg, df2_seg


@pytest.mark.parametrize(("build", "stride"), [(df1_seg, 16), (df2_seg, 8)])
@pytest.mark.parametrize("half_size", [False, True])
@pytest.mark.parametrize("size", [(64, 128), (90, 120)])
def test_scores_have_the_declared_stride(
    build: Callable[[int, bool], DFSeg], stride: int, half_size: bool, size: tuple[int, int]
) -> None:
    network = build(5, half_size).eval()
    assert network.output_stride == (2 * stride if half_size else stride)
    images = torch.randn(1, 3, *size)
    with torch.inference_mode():
        assert network(images)["logits"].shape == (1, 5, *size)
        scores = network.scores(images)
    if size == (64, 128):
        assert scores.shape[2:] == (64 // network.output_stride, 128 // network.output_stride)


def test_training_sees_the_full_size_even_if_the_scores_have_half_of_it() -> None:
    network = df1_seg(5, half_size=True).train()
    with torch.inference_mode():
        assert network.scores(torch.randn(2, 3, 64, 64)).shape[2:] == (4, 4)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    network = df1_seg(5).train()
    network(torch.randn(2, 3, 64, 64))["logits"].square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
