# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from training.backbones.efficientnet import EfficientNet
from training.export import DeployedModel, onnx_from_network
from training.networks.eseg import (
    BiFPN,
    ESeg,
    SoftmaxFusion,
    eseg_l,
    eseg_lite_l,
    eseg_lite_m,
    eseg_lite_s,
    eseg_m,
    eseg_s,
    eseg_s_r50,
)
from training.papers.rows.eseg import PUBLISHED
from training.papers.tables import multiply_adds, parameters


class FourConvolutions(nn.Module):
    """The smallest possible backbone."""

    name = "four convolutions"
    channels = (4, 6, 8, 10)
    strides = (4, 8, 16, 32)

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *self.channels)
        self.layers = nn.ModuleList(
            nn.Conv2d(widths[i], widths[i + 1], 3, stride, padding=1)
            for i, stride in enumerate((4, 2, 2, 2))
        )

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = [images]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[1:]


def small(**arguments: object) -> ESeg:
    """ESeg of width 8 on the backbone above, with norms and fusion weights other than identity."""
    torch.manual_seed(0)
    network = ESeg(FourConvolutions(), 5, 8, 1, **arguments)  # type: ignore[arg-type]
    for name, parameter in network.named_parameters():
        if "fusion" in name:
            nn.init.uniform_(parameter, 0.3, 2.0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            nn.init.normal_(module.bias, 0, 0.3)
    classifier = network.head[-1]
    scores = network.eval().scores(torch.randn(1, 3, 128, 128)).detach()
    # So that every class wins somewhere.
    classifier.bias.data = 20 * (classifier.bias.data - scores.mean(dim=(0, 2, 3)))
    classifier.weight.data *= 20
    return network


@pytest.mark.parametrize(
    ("factory", "millions", "gmac"),
    [  # Counted by hand from the layers before this code was written
        (partial(eseg_s, deepest=5), 6.41, 33.7),
        (eseg_s, 6.86, 33.8),
        (eseg_m, 19.99, 110.3),
        (eseg_l, 70.50, 339.8),
        (eseg_lite_s, 3.59, 17.14),
        (eseg_lite_m, 9.74, 42.7),
        (eseg_lite_l, 28.4, 114.9),
        # Paper: tables 8 and 2; no figure of ours is older.
        (eseg_s_r50, 25.26, 188.0),
        (partial(eseg_s, pyramid="fpn"), 6.95, 40.0),
    ],
)
def test_parameters_and_multiply_adds(
    factory: Callable[[int], ESeg], millions: float, gmac: float
) -> None:
    build = partial(factory, 19)
    assert parameters(build) == pytest.approx(millions * 1e6, rel=3e-3)
    assert multiply_adds(build, (1024, 2048)) == pytest.approx(gmac * 1e9, rel=0.013)


def test_published_rows_have_different_names_and_networks() -> None:
    assert len({(row.table, row.name) for row in PUBLISHED}) == len(PUBLISHED)


def test_softmax_fusion_is_the_papers_sum_at_the_finest_size() -> None:
    fusion = SoftmaxFusion(3)
    assert fusion.weight.tolist() == [1.0, 1.0, 1.0]
    fusion.weight.data = torch.tensor([0.0, 1.0, 3.0])
    # Level i is 10**i everywhere, so the sum shows every share.
    maps = [torch.full((1, 2, 8 >> i, 6 >> i), 10.0**i) for i in range(3)]
    shares = np.exp([0, 1, 3]) / np.exp([0, 1, 3]).sum()
    fused = fusion(maps)
    assert fused.shape == (1, 2, 8, 6)
    np.testing.assert_allclose(fused.detach(), shares @ [1, 10, 100], rtol=1e-6)


def test_bifpn_goes_down_and_up_as_in_efficientdet() -> None:
    pyramid = BiFPN(1, 3, nn.ReLU)
    pyramid.down_nodes = nn.ModuleList([nn.Identity()] * 2)
    pyramid.up_nodes = nn.ModuleList([nn.Identity()] * 2)
    pyramid.down_fusions[1].weight.data = torch.tensor([1.0, 3.0])
    pyramid.up_fusions[0].weight.data = torch.tensor([1.0, 2.0, -5.0])  # a negative weight is 0
    fine, middle, coarse = 1.0, 10.0, 100.0
    maps = [torch.full((1, 1, 5, 7), fine), torch.full((1, 1, 3, 4), middle)]
    outputs = pyramid([*maps, torch.full((1, 1, 2, 2), coarse)])
    down_middle = (middle + 3 * coarse) / 4
    expected_fine = (fine + down_middle) / 2
    expected_middle = (middle + 2 * down_middle) / 3
    expected = (expected_fine, expected_middle, (coarse + expected_middle) / 2)
    assert [tuple(x.shape[2:]) for x in outputs] == [(5, 7), (3, 4), (2, 2)]
    for output, value in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(output.detach(), value, rtol=1e-3)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"deepest": 5}, {"deepest": 7}, {"pyramid": "fpn"}, {"finest": 3, "activation": nn.ReLU}],
)
def test_every_ablation_runs_at_every_size_and_trains_all_its_parameters(
    arguments: dict[str, object],
) -> None:
    network = small(**arguments)
    for size in [(64, 64), (90, 121), (33, 200)]:
        images = torch.randn(2, 3, *size)
        output = network.eval()(images)
        assert output["logits"].shape == (2, 5, *size)
        assert output["aux"] == []
        rows, columns = (-(-s // network.output_stride) for s in size)
        assert network.scores(images).shape == (2, 5, rows, columns)
    logits = network.train()(images)["logits"]
    # Against random targets: the gradient of a plain mean cancels in the batch norms.
    (logits * torch.randn_like(logits)).mean().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"finest": 4}, "finest is 4, expected 2 or 3"),
        ({"deepest": 8}, "deepest is 8, expected 5, 7 or 9"),
        ({"pyramid": "nas"}, "pyramid is 'nas', expected 'bifpn' or 'fpn'"),
    ],
)
def test_other_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_an_error_asks_for_two_images_if_one_is_too_small_to_train() -> None:
    network = small().train()
    with pytest.raises(ValueError, match="one image of 64x96 .* at least two images"):
        network(torch.randn(1, 3, 64, 96))


def test_levels_below_p5_reach_the_class_scores() -> None:
    """Only P9 sees far enough: a changed corner does not reach the far side through P2 to P5."""
    images = torch.randn(1, 3, 64, 1024)
    changed = images.clone()
    changed[:, :, :, :32] += 3.0
    far = {}
    for deepest in (5, 9):
        network = small(deepest=deepest).eval()
        with torch.inference_mode():
            difference = network.scores(images) - network.scores(changed)
        far[deepest] = float(difference[..., -8:].abs().max())
    assert far[5] == 0.0
    assert far[9] > 0.0


@pytest.fixture(scope="module")
def exported() -> tuple[ESeg, onnx.ModelProto]:
    network = small(finest=3, deepest=7).eval()  # the other levels cost twice the time to export
    return network, onnx_from_network(network)


def test_weights_of_all_fusions_are_constants_of_the_exported_graph(
    exported: tuple[ESeg, onnx.ModelProto],
) -> None:
    network, model = exported
    operators = {node.op_type for node in model.graph.node}
    # ReduceSum and Softmax would be the normalisation of the weights, Gather their selection.
    assert operators & {"Softmax", "ReduceSum", "Gather", "Relu"} == set()
    scalars = [numpy_helper.to_array(t) for t in model.graph.initializer]
    values = np.sort([float(x) for x in scalars if x.dtype == np.float32 and x.size == 1])
    for share in torch.softmax(network.fusion.weight, 0).tolist():
        assert np.isclose(values, share, rtol=1e-5).any()


@pytest.mark.parametrize("shape", [(1, 64, 64), (2, 96, 160), (1, 544, 1056)])
def test_one_file_gives_the_labels_of_torch_at_every_size(
    exported: tuple[ESeg, onnx.ModelProto], shape: tuple[int, int, int]
) -> None:
    network, model = exported
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (shape[0], shape[1] // 16, shape[2] // 16, 3), np.uint8)
    images = images.repeat(16, axis=1).repeat(16, axis=2)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    labels, confidence = session.run(None, {"image": images})
    with torch.inference_mode():
        expected, expected_confidence = DeployedModel(network)(torch.from_numpy(images))
    assert len(np.unique(labels)) > 1
    assert (labels == expected.numpy()).mean() >= 0.999
    assert np.abs(confidence.astype(int) - expected_confidence.numpy().astype(int)).max() <= 1


def test_the_description_names_encoder_and_levels() -> None:
    network = ESeg(EfficientNet(0.4, 0.6, lite=True), 3, 8, 1, finest=3, activation=nn.ReLU)
    assert network.description == (
        "ESeg with fused EfficientNet (width 0.4, depth 0.6), BiFPN on P3 to P9"
    )
