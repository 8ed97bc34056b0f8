# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from torch import nn

from training.backbones.resnet import ResNet
from training.networks.pspnet import PSPNet, PyramidPooling, pspnet


def test_pooled_levels_are_concatenated_after_the_map() -> None:
    pooling = PyramidPooling(8).eval()
    x = torch.randn(1, 8, 6, 12)
    with torch.inference_mode():
        levels = pooling(x)
    assert levels.shape == (1, 16, 6, 12)
    assert torch.equal(levels[:, :8], x)
    mean = x.mean(dim=(2, 3), keepdim=True).expand(-1, -1, 6, 12)
    with torch.inference_mode():
        torch.testing.assert_close(levels[:, 8:10], pooling.stages[0](mean))


def test_a_trunk_that_is_not_dilated_is_refused() -> None:
    with pytest.raises(ValueError, match="output stride 32, expected 8"):
        PSPNet(ResNet(50), 5)


def test_error_names_an_unknown_head() -> None:
    with pytest.raises(ValueError, match="'fcn', expected 'paper' or 'sfnet'"):
        pspnet(5, 50, "fcn")  # type: ignore[arg-type]


def test_layer3_and_layer4_are_dilated() -> None:
    network = pspnet(5, 50)
    dilations = [
        [
            m.dilation[0]
            for m in layer.modules()
            if isinstance(m, nn.Conv2d) and m.kernel_size[0] > 1
        ]
        for layer in (network.trunk.layer2, network.trunk.layer3, network.trunk.layer4)
    ]
    assert dilations == [[1] * 4, [2] * 6, [4] * 3]
