# SPDX-License-Identifier: Apache-2.0
import re
from typing import Any

import pytest
import torch

from training.backbones.resnet import ResNet


@pytest.mark.parametrize(
    ("depth", "millions"),
    # torchvision's 11.69, 25.56 and 44.55 million without the classifier of 1000.
    [(18, 11.1765), (50, 23.5080), (101, 42.5002)],
)
def test_a_plain_trunk_has_torchvisions_parameters(depth: Any, millions: float) -> None:
    with torch.device("meta"):
        trunk = ResNet(depth, "plain")
    assert sum(p.numel() for p in trunk.parameters()) / 1e6 == pytest.approx(millions, abs=5e-5)


@pytest.mark.parametrize("depth", [18, 50])
def test_dilations_are_of_conv2_in_the_last_two_layers(depth: Any) -> None:
    trunk = ResNet(depth, dilations=(2, 4))
    for name, module in trunk.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            layer = {"layer3": 2, "layer4": 4}.get(name.split(".")[0], 1)
            assert module.dilation == ((layer, layer) if "conv2" in name else (1, 1)), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 34}, "34, expected 18, 50 or 101"),
        ({"depth": 18, "stem": "wide"}, "'wide', expected 'deep' or 'plain'"),
        ({"depth": 18, "output_stride": 4}, "4, expected 8, 16 or 32"),
    ],
)
def test_error_names_an_unknown_argument(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        ResNet(**arguments)
