# SPDX-License-Identifier: Apache-2.0
from functools import partial
from typing import Any

import pytest
import torch

from training.networks.dfanet import DFANet, FullyConnectedAttention, dfanet_a, dfanet_b
from training.papers.tables import multiply_adds, parameters


@pytest.mark.parametrize(
    ("backbone", "copies", "decoder", "giga", "millions"),
    # Counted by hand for the reading that the paper's FLOPs tables led to.
    [
        ("A", 4, "none", 2.66, 2.41),
        ("A", 3, "HL+LL", 3.42, 1.82),
        ("B", 3, "HL+LL", 2.06, 1.10),
    ],
)
def test_multiply_adds_and_parameters_agree_with_the_papers_tables(
    backbone: str, copies: int, decoder: Any, giga: float, millions: float
) -> None:
    build = partial(DFANet, backbone, 19, copies, decoder)
    assert multiply_adds(build, (1024, 1024)) == pytest.approx(giga * 1e9, abs=5.1e6)
    assert parameters(build) / 1e6 == pytest.approx(millions, abs=0.007)


@pytest.mark.parametrize("copies", [1, 2, 3, 4])
def test_each_copy_halves_the_resolution_of_the_last_map(copies: int) -> None:
    network = DFANet("B", 5, copies, "none").eval()
    stride = 16 * 2 ** (copies - 1)
    assert network.output_stride == network.size_multiple == stride
    with torch.inference_mode():
        assert network.scores(torch.randn(1, 3, 128, 256)).shape[2:] == (
            128 // stride,
            256 // stride,
        )


@pytest.mark.parametrize(("copies", "decoder"), [(4, "none"), (3, "HL+LL")])
def test_every_image_size_gives_logits_of_that_size(copies: int, decoder: Any) -> None:
    network = DFANet("B", 5, copies, decoder).eval()
    with torch.inference_mode():
        output = network(torch.randn(1, 3, 33, 47))
    assert output["logits"].shape == (1, 5, 33, 47)
    assert output["aux"] == []


@pytest.mark.parametrize(
    ("copies", "decoder", "attention"),
    [(1, "none", False), (4, "none", True), (3, "HL+LL", True)],
)
def test_every_layer_runs(copies: int, decoder: Any, attention: bool) -> None:
    torch.manual_seed(0)
    # In evaluation: batch norm over the two values of a 1x1 map would swallow the gradient.
    network = DFANet("B", 5, copies, decoder, attention).eval()
    network(torch.randn(1, 3, 64, 64))["logits"].square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_attention_scales_channels_by_the_mean_of_the_map() -> None:
    attention = FullyConnectedAttention(2)
    torch.nn.init.zeros_(attention.reduce.weight)
    attention.reduce.bias.data = torch.tensor([0.0, 100.0])
    x = torch.randn(1, 2, 3, 4)
    expected = x * torch.tensor([0.5, 1.0])[None, :, None, None]
    torch.testing.assert_close(attention(x), expected)


def test_a_copy_reads_the_stages_of_the_previous_copy() -> None:
    """Sub-stage aggregation: the outputs of enc3 and enc4 of the first copy reach the second copy
    directly, in addition to the path through the attention."""
    network = DFANet("B", 5, 2, "none", attention=False).eval()
    second = network.backbones[1]
    assert second.enc3[0].residual[0][0].in_channels == 32 + 64
    before = [torch.randn(1, c, s, s) for c, s in ((32, 16), (64, 8), (128, 4), (128, 4))]
    x = torch.randn(1, 32 + 128, 16, 16)
    with torch.inference_mode():
        maps = second(x, before)
        changed = second(x, [before[0], before[1] + 1, before[2], before[3]])
    assert torch.equal(maps[0], changed[0])
    assert not torch.equal(maps[1], changed[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "C"}, "'C', expected 'A' or 'B'"),
        ({"backbones": 5}, "5, expected 1 to 4"),
        ({"decoder": "LL"}, "'LL', expected one of"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DFANet(**({"backbone": "A", "num_classes": 5} | arguments))


def test_the_named_networks_match_table_5() -> None:
    assert dfanet_a(3).description == "DFANet A x3, decoder HL+LL"
    assert dfanet_b(3).description == "DFANet B x3, decoder HL+LL"
