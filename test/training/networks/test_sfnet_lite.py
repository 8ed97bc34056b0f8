# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from training.networks.sfnet_lite import SFNetLite, sfnet_lite_r18, state_from_authors


@pytest.fixture(scope="module")
def network() -> SFNetLite:
    torch.manual_seed(0)
    return sfnet_lite_r18(19).eval()


def test_deep_stem_network_has_the_live_parameters_of_the_papers_table(network: SFNetLite) -> None:
    # Paper: SFNet IJCV table 7 says 12.3 M, of which 0.216 M are layers that are never run
    # (models.md section 2).
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(12.080e6, abs=0.0005e6)


def test_deep_stem_network_has_the_published_multiply_adds() -> None:
    with torch.device("meta"):
        network = sfnet_lite_r18(19).eval()
        images = torch.empty(1, 3, 1024, 2048)
    with FlopCounterMode(display=False) as counter:
        network(images)
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution]
    assert convolutions / 2 == pytest.approx(177.95e9, rel=1e-4)


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


@pytest.mark.parametrize("prefix", ["", "module."])  # as saved by their distributed training
def test_weights_of_the_authors_layout_fill_every_tensor(network: SFNetLite, prefix: str) -> None:
    theirs = {prefix + _authors_name(name): value for name, value in network.state_dict().items()}
    theirs[prefix + "head.fpn_in.2.0.weight"] = torch.zeros(128, 512, 1, 1)  # built but never run
    theirs[prefix + "head.dsn.0.weight"] = torch.zeros(128, 128, 3, 3)
    mapped = state_from_authors(theirs)
    assert mapped.keys() == network.state_dict().keys()
    assert all(torch.equal(mapped[name], value) for name, value in network.state_dict().items())


def _authors_name(name: str) -> str:
    """The name of a tensor in a checkpoint of SFSegNets, written out from its class definitions."""
    prefixes = {
        "trunk.conv1.": "layer0.0.",
        "trunk.bn1.": "layer0.1.",
        "trunk.": "",
        "context.bottleneck.": "head.ppm.bottleneck.",
        "lateral_fine.": "head.fpn_in.0.",
        "lateral_middle.": "head.fpn_in.1.",
        "align.": "head.flow_align_module.",
        "head.3.": "head.conv_last.1.",
        "head.": "head.conv_last.0.",
    }
    if name.startswith("context.stages."):
        _, _, stage, layer, rest = name.split(".", 4)
        return f"head.ppm.stages.{stage}.{int(layer) + 1}.{rest}"
    ours = next(prefix for prefix in prefixes if name.startswith(prefix))
    return prefixes[ours] + name.removeprefix(ours)
