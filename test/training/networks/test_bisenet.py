# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from training.networks.bisenet import BiSeNet, bisenet_r18, bisenet_xception39


@pytest.fixture(scope="module", params=[bisenet_r18, bisenet_xception39])
def network(request: pytest.FixtureRequest) -> BiSeNet:
    torch.manual_seed(0)
    network: BiSeNet = request.param(5)
    return network


def test_scores_are_at_stride_8_and_logits_at_the_images_size(network: BiSeNet) -> None:
    size = (33, 57)
    network.eval()
    with torch.inference_mode():
        scores = network.scores(torch.randn(1, 3, *size))
        output = network(torch.randn(1, 3, *size))
    assert scores.shape == (1, 5, -(-size[0] // 8), -(-size[1] // 8))
    assert output["logits"].shape == (1, 5, *size)
    assert output["aux"] == []


def test_training_reaches_every_parameter_and_gives_two_context_scores(network: BiSeNet) -> None:
    network.train()
    output = network(torch.randn(2, 3, 64, 96))
    assert [tuple(aux.shape) for aux in output["aux"]] == [(2, 5, 4, 6), (2, 5, 8, 12)]
    loss = sum(scores.square().mean() for scores in (output["logits"], *output["aux"]))
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    # The two coarsest maps of a ResNet feed the context path; all of its layers are on the way.
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_without_auxiliary_heads_training_gives_none() -> None:
    assert bisenet_xception39(5, auxiliary=False)(torch.randn(2, 3, 64, 64))["aux"] == []
