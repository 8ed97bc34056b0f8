# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from training.backbones.efficientnet import EfficientNet
from training.networks.deeplabv3_plus import DeepLabV3Plus, deeplabv3_plus_b1, deeplabv3_plus_r50
from training.papers.published import Published
from training.papers.rows.deeplabv3_plus import PUBLISHED
from training.papers.tables import gflops_beside_paper


def small(output_stride: int = 16) -> DeepLabV3Plus:
    torch.manual_seed(0)
    trunk = EfficientNet(0.4, 0.4, lite=True, output_stride=output_stride)
    return DeepLabV3Plus(trunk, 5, rates=(1, 2, 3))


@pytest.mark.parametrize("row", [r for r in PUBLISHED if r.gflops], ids=lambda row: row.name)
def test_multiply_adds_agree_with_the_papers(row: Published) -> None:
    difference = gflops_beside_paper(row) / row.gflops - 1
    # The one row that no reading of the paper brings beside the other three.
    expected = 0.246 if row.name == "ResNet-50, DeepLabV3+ (w/ atrous)" else -0.03
    assert difference == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("factory", [deeplabv3_plus_b1, deeplabv3_plus_r50])
def test_atrous_replaces_the_last_stride_and_nothing_else(factory: type) -> None:
    with torch.device("meta"):
        with_atrous, without = factory(7).eval(), factory(7, atrous=False).eval()
        images = torch.empty(1, 3, 64, 128)
        maps = [[tuple(x.shape[2:]) for x in n.trunk(images)] for n in (with_atrous, without)]
        assert with_atrous.scores(images).shape == without.scores(images).shape == (1, 7, 16, 32)
    assert maps[0] == [(16, 32), (8, 16), (4, 8), (4, 8)]
    assert maps[1] == [(16, 32), (8, 16), (4, 8), (2, 4)]
    shapes = [{name: p.shape for name, p in n.named_parameters()} for n in (with_atrous, without)]
    assert shapes[0] == shapes[1]
    assert (with_atrous.size_multiple, without.size_multiple) == (16, 32)
    rates = [
        [branch[0].dilation[0] for branch in n.context.branches] for n in (with_atrous, without)
    ]
    assert rates == [[1, 6, 12, 18], [1, 3, 6, 9]]


@pytest.mark.parametrize("size", [(64, 96), (90, 121)])
def test_logits_have_the_size_of_the_image(size: tuple[int, int]) -> None:
    with torch.inference_mode():
        output = small().eval()(torch.randn(1, 3, *size))
    assert output["logits"].shape == (1, 5, *size)
    assert output["aux"] == []


def test_every_parameter_gets_a_gradient() -> None:
    network = small(32).train()
    logits = network(torch.randn(2, 3, 64, 96))["logits"]
    (logits * torch.randn_like(logits)).mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []
