# SPDX-License-Identifier: Apache-2.0
"""Networks with heads that run in training only: their outputs with and without these heads."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import nn

from training.networks.bisenet import bisenet_r18, bisenet_xception39
from training.networks.icnet import ICNet
from training.networks.pspnet import pspnet
from training.networks.sfnet import sfnet_r18

# Network of 5 classes, stride of its scores, strides of the auxiliary ones.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, tuple[int, ...]]] = {
    # The two coarsest maps of the trunk feed the context path; all of its layers are on the way.
    "BiSeNet R18": (partial(bisenet_r18, 5), 8, (16, 8)),
    "BiSeNet X39": (partial(bisenet_xception39, 5), 8, (16, 8)),
    "ICNet": (partial(ICNet, 5), 4, (16, 8)),
    "PSPNet": (partial(pspnet, 5, 50), 8, (8,)),
    "SFNet": (partial(sfnet_r18, 5, 16, deep_supervision=True), 4, (4, 8, 16)),
}
WITHOUT: dict[str, Callable[[], nn.Module]] = {
    "BiSeNet X39": partial(bisenet_xception39, 5, auxiliary=False),
    "ICNet": partial(ICNet, 5, auxiliary=False),
    "PSPNet with the head of the SFNet authors": partial(pspnet, 5, 50, "sfnet"),
    "SFNet": partial(sfnet_r18, 5, 16),
}

Case = tuple[nn.Module, int, tuple[int, ...]]


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    build, stride, auxiliary_strides = NETWORKS[request.param]
    return build(), stride, auxiliary_strides


def test_evaluation_gives_scores_at_the_output_stride_and_logits_at_the_image_size(
    case: Case,
) -> None:
    network, stride, _ = case
    size = (33, 57)
    network.eval()
    with torch.inference_mode():
        scores = network.scores(torch.randn(1, 3, *size))
        output = network(torch.randn(1, 3, *size))
    assert scores.shape == (1, 5, *(-(-side // stride) for side in size))
    assert output["logits"].shape == (1, 5, *size)
    assert output["aux"] == []


def test_training_reaches_every_parameter_and_gives_the_auxiliary_scores(case: Case) -> None:
    network, _, strides = case
    output = network.train()(torch.randn(2, 3, 64, 96))
    assert [tuple(aux.shape) for aux in output["aux"]] == [
        (2, 5, 64 // s, 96 // s) for s in strides
    ]
    loss = sum(scores.square().mean() for scores in (output["logits"], *output["aux"]))
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", WITHOUT)
def test_training_without_auxiliary_heads_gives_no_auxiliary_scores(name: str) -> None:
    assert WITHOUT[name]()(torch.randn(2, 3, 64, 64))["aux"] == []
