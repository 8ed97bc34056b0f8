# SPDX-License-Identifier: Apache-2.0
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from training.networks.context import ASPP, DenseASPP, NonLocal, PyramidPooling
from training.networks.flow_alignment import (
    BilinearAddition,
    DeformableAlignment,
    FlowAlignment,
    correlation,
)
from training.networks.heads import lateral
from training.networks.sfnet import fcn_r18, sfnet_df1, sfnet_df2, sfnet_r18, sfnet_r50, sfnet_stdc1
from training.networks.sfnet_lite import GatedDualFlowAlignment


def test_alignment_with_zero_flow_equals_a_step_of_a_plain_pyramid() -> None:
    align = FlowAlignment(8)
    torch.nn.init.zeros_(align.flow_make.weight)
    low, high = torch.randn(2, 8, 6, 10), torch.randn(2, 8, 3, 5)
    torch.testing.assert_close(align(low, high), BilinearAddition()(low, high))


@pytest.mark.parametrize("size", [(6, 10), (5, 9), (3, 5)])
@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 5},
        {"kernel_size": 7},
        {"upsampling": "nearest"},
        {"upsampling": "deconvolution"},
        {"matching": "correlation"},
        {"align_corners": False},
    ],
)
def test_every_form_of_alignment_differs_and_keeps_the_size(
    arguments: dict[str, Any], size: tuple[int, int]
) -> None:
    torch.manual_seed(0)
    plain = FlowAlignment(8)
    torch.nn.init.normal_(plain.flow_make.weight)  # flows that leave the pixel
    torch.manual_seed(0)
    align = FlowAlignment(8, **arguments)
    torch.nn.init.normal_(align.flow_make.weight)
    low, high = torch.randn(1, 8, *size), torch.randn(1, 8, 3, 5)
    aligned = align(low, high)
    assert aligned.shape == low.shape
    assert align.flow(low, high).shape == (1, 2, *size)
    if size != (3, 5) or arguments.get("upsampling") != "nearest":  # then nothing is upsampled
        assert not torch.allclose(aligned, plain(low, high), atol=1e-4)


@pytest.mark.parametrize(
    "align",
    [
        FlowAlignment(8),
        FlowAlignment(8, kernel_size=7),
        FlowAlignment(8, upsampling="deconvolution"),
        FlowAlignment(8, matching="correlation"),
        DeformableAlignment(8),
        GatedDualFlowAlignment(8),
        GatedDualFlowAlignment(8, gate="convolution", shared_gate=False),
        GatedDualFlowAlignment(8, dual_flow=False),
    ],
    ids=lambda align: type(align).__name__,
)
def test_every_parameter_of_an_alignment_learns(align: torch.nn.Module) -> None:
    align(torch.randn(2, 8, 6, 10), torch.randn(2, 8, 3, 5)).square().mean().backward()
    assert [n for n, p in align.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_correlation_finds_the_displacement() -> None:
    low = torch.randn(1, 64, 12, 16)
    high = torch.roll(low, shifts=(2, -4), dims=(2, 3))  # 2 down, 4 to the left
    best = correlation(low, high)[0, :, 4:8, 4:12].argmax(dim=0)
    assert (best == 3 * 5 + 0).all()  # dy = 2, dx = -4 of (-4, -2, 0, 2, 4)


def test_deformable_alignment_without_offsets_is_a_convolution() -> None:
    align = DeformableAlignment(4)
    low, high = torch.randn(2, 4, 6, 10), torch.randn(2, 4, 3, 5)
    weight = torch.cat([tap.weight for tap in align.taps], dim=3).unflatten(3, (3, 3)).squeeze(2)
    both = torch.cat([F.interpolate(high, (6, 10), mode="bilinear", align_corners=True), low], 1)
    expected = low + F.conv2d(both, weight, padding=1)
    torch.testing.assert_close(align(low, high), expected, atol=1e-5, rtol=0)


def test_offsets_are_pixels_x_first() -> None:
    align = DeformableAlignment(4)
    for tap in align.taps:
        torch.nn.init.zeros_(tap.weight)
    align.taps[4].weight.data[:, 4:, 0, 0] = torch.eye(4)  # the middle tap reads `low`
    align.offsets.bias.data[8:10] = torch.tensor([2.0, -1.0])
    low, high = torch.randn(1, 4, 6, 10), torch.zeros(1, 4, 3, 5)
    moved = align(low, high) - low
    torch.testing.assert_close(moved[..., 1:, :-2], low[..., :-1, 2:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("context", [PyramidPooling, NonLocal, ASPP, DenseASPP, lateral])
@pytest.mark.parametrize("size", [(1, 1), (5, 7)])
def test_every_context_module_keeps_the_size(context: Any, size: tuple[int, int]) -> None:
    module = context(16, 6).eval()
    x = torch.randn(2, 16, *size, requires_grad=True)
    y = module(x)
    assert y.shape == (2, 6, *size)


@pytest.mark.parametrize("context", [PyramidPooling, NonLocal, ASPP])
def test_a_context_module_sees_the_far_corner(context: Any) -> None:
    module = context(16, 6).eval()
    x = torch.randn(1, 16, 40, 40, requires_grad=True)
    module(x)[0, :, 0, 0].abs().sum().backward()
    assert x.grad is not None
    assert x.grad[0, :, -1, -1].abs().sum() > 0


def test_non_local_averages_by_likeness() -> None:
    # All positions alike: the gathered map is the mean, whatever the query.
    module = NonLocal(8, 8).eval()
    for conv in (module.query, module.key):
        torch.nn.init.zeros_(conv.weight)
        torch.nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    x = torch.randn(1, 8, 3, 4)
    mean = module.out(module.value(x.mean(dim=(2, 3), keepdim=True)))
    torch.testing.assert_close(module(x), module.bottleneck(x + mean))


def test_the_requested_levels_are_aligned() -> None:
    network = sfnet_r18(5, aligned_levels=(4,))
    kinds = [type(step) for step in network.alignments]  # shallow to deep: F3, F4, F5
    assert kinds == [BilinearAddition, FlowAlignment, BilinearAddition]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(sfnet_r18, 5, aligned_levels=(2,)), r"\(2,\).*\(3, 4, 5\)"),
        (partial(sfnet_df2, 5, aligned_levels=(3,)), r"\(3,\).*\(4, 5\)"),
        (partial(FlowAlignment, 8, kernel_size=4), r"4.*\(3, 5, 7\)"),
        (partial(FlowAlignment, 8, upsampling="cubic"), "cubic.*deconvolution"),
        (partial(FlowAlignment, 8, matching="sum"), "sum.*correlation"),
    ],
)
def test_error_names_an_unknown_argument_and_the_allowed_ones(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as failure:
        build()
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("build", "stride"),
    [
        (partial(sfnet_r18, 5, 16), 4),
        (partial(sfnet_stdc1, 5, 16), 4),
        (partial(sfnet_df1, 5, 16), 16),  # its maps are at 16, 32 and 32
        (partial(sfnet_df2, 5, 16), 8),
        (partial(fcn_r18, 5), 32),
        (partial(fcn_r18, 5, dilated=True), 8),
    ],
)
def test_scores_are_at_the_output_stride_and_logits_at_any_size(build: Any, stride: int) -> None:
    network = build().eval()
    assert network.output_stride == stride
    with torch.inference_mode():
        scores = network.scores(torch.randn(2, 3, 64, 96))
        output = network(torch.randn(1, 3, 51, 75))
    assert scores.shape == (2, 5, 64 // stride, 96 // stride)
    assert output["logits"].shape == (1, 5, 51, 75)
    assert output["aux"] == []


def test_the_description_names_the_trunk() -> None:
    assert sfnet_r50(5, 16).description == "SFNet with ResNet-50 (deep stem)"
