# SPDX-License-Identifier: Apache-2.0
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from training.backbones.dfnet import df2
from training.networks.heads import lateral, supervision_head
from training.networks.sfnet_lite import (
    GatedDualFlowAlignment,
    SFNetLite,
    sfnet_lite_r18,
    sfnet_lite_stdc1,
)
from training.papers.rows.sfnet_lite import PUBLISHED
from training.papers.tables import multiply_adds


@pytest.fixture(scope="module")
def network() -> SFNetLite:
    torch.manual_seed(0)
    return sfnet_lite_r18(19).eval()


def test_deep_stem_network_has_the_used_parameters_of_the_papers_table(network: SFNetLite) -> None:
    # Paper: SFNet IJCV table 7 says 12.3 M, of which 0.216 M are layers that are never run.
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(12.080e6, abs=0.0005e6)


def test_rows_count_the_layers_that_only_the_authors_build() -> None:
    classifier = 3_125_248  # of STDC: 1024 -> 1024 -> 1024 -> 1000
    head, third_lateral = (
        sum(p.numel() for p in layers.parameters())
        for layers in (supervision_head(128, 19), lateral(512, 128))
    )
    not_built = {row.name: row.not_built for row in PUBLISHED if row.table == "IJCV table 3"}
    assert not_built == {
        "SFNet-Lite (ResNet-18)": head + third_lateral,
        "SFNet-Lite (STDC-1)": head + classifier,
        "SFNet-Lite (STDC-2)": head + classifier,
    }


def test_deep_stem_network_has_the_published_multiply_adds() -> None:
    macs = multiply_adds(partial(sfnet_lite_r18, 19), (1024, 2048))
    assert macs == pytest.approx(177.95e9, rel=1e-4)


def test_every_parameter_gets_a_gradient(network: SFNetLite) -> None:
    network.zero_grad()
    network(torch.randn(2, 3, 64, 64))["logits"].square().mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("stem", ["deep", "plain"])
@pytest.mark.parametrize("size", [(64, 96), (90, 120)])
def test_logits_have_the_size_of_the_image(stem: str, size: tuple[int, int]) -> None:
    network = sfnet_lite_r18(11, stem, (1, 1)).eval()  # type: ignore[arg-type]
    with torch.inference_mode():
        output = network(torch.randn(1, 3, *size))
    assert output["logits"].shape == (1, 11, *size)
    assert output["aux"] == []


def test_unknown_stem_is_named() -> None:
    with pytest.raises(ValueError, match="'wide'.*'deep' or 'plain'"):
        sfnet_lite_r18(11, "wide")  # type: ignore[arg-type]


def test_the_half_width_variant_has_43_gmac() -> None:
    macs = multiply_adds(partial(sfnet_lite_stdc1, 19, channels=64), (1024, 2048))
    assert macs == pytest.approx(42.83e9, rel=1e-3)


def test_fusion_with_zero_flow_gates_between_resized_maps() -> None:
    align = GatedDualFlowAlignment(8)
    torch.nn.init.zeros_(align.flow_make.weight)
    torch.nn.init.zeros_(align.flow_gate[0].weight)  # a gate of one half
    low, high = torch.randn(2, 8, 8, 12), torch.randn(2, 8, 2, 3)
    expected = 0.5 * (F.interpolate(high, (8, 12), mode="bilinear", align_corners=True) + low)
    torch.testing.assert_close(align(low, high), expected, atol=1e-5, rtol=0)


def test_two_complementary_gates_equal_a_shared_gate() -> None:
    # Two gates are a shared gate if the second is the complement of the first.
    torch.manual_seed(0)
    shared = GatedDualFlowAlignment(8)
    apart = GatedDualFlowAlignment(8, shared_gate=False)
    state = shared.state_dict()
    gate = state.pop("flow_gate.0.weight")
    apart.load_state_dict(state | {"flow_gate.0.weight": torch.cat([gate, -gate])})
    low, high = torch.randn(2, 8, 8, 12), torch.randn(2, 8, 2, 3)
    torch.testing.assert_close(apart(low, high), shared(low, high), atol=1e-5, rtol=0)


@pytest.mark.parametrize("dual_flow", [False, True])
def test_without_a_gate_the_warped_maps_are_added(dual_flow: bool) -> None:
    align = GatedDualFlowAlignment(8, gate="none", dual_flow=dual_flow)
    torch.nn.init.zeros_(align.flow_make.weight)
    low, high = torch.randn(2, 8, 8, 12), torch.randn(2, 8, 2, 3)
    expected = F.interpolate(high, (8, 12), mode="bilinear", align_corners=True) + low
    torch.testing.assert_close(align(low, high), expected, atol=1e-5, rtol=0)
    assert align.flow_make.out_channels == (4 if dual_flow else 2)


def test_error_names_an_unknown_gate_or_trunk() -> None:
    with pytest.raises(ValueError, match="'max'.*'attention', 'convolution' or 'none'"):
        GatedDualFlowAlignment(8, gate="max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"DF2 has strides \(8, 16, 32\).*\(4, 8, 16, 32\)"):
        SFNetLite(df2(), 19)
