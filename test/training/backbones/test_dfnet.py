# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import pytest
import torch

from training.backbones.dfnet import DFNet, df1, df2
from training.tables import multiply_adds, parameters


@pytest.mark.parametrize(("build", "millions", "giga"), [(df1, 8.020, 15.59), (df2, 17.474, 37.07)])
def test_parameters_and_multiply_adds_are_the_published_networks(
    build: Callable[[], DFNet], millions: float, giga: float
) -> None:
    # Measured on the authors' code at 1024x1024
    assert parameters(build) == pytest.approx(millions * 1e6, abs=600)
    assert multiply_adds(build, (1024, 1024)) == pytest.approx(giga * 1e9, rel=4e-4)


@pytest.mark.parametrize(("build", "strides"), [(df1, (16, 32, 32)), (df2, (8, 16, 32))])
@pytest.mark.parametrize("size", [(64, 96), (70, 90)])
def test_maps_have_the_channels_and_strides_that_the_trunk_says(
    build: Callable[[], DFNet], strides: tuple[int, ...], size: tuple[int, int]
) -> None:
    trunk = build().eval()
    assert trunk.strides == strides
    assert trunk.channels == (128, 256, 512)
    with torch.inference_mode():
        maps = trunk(torch.randn(1, 3, *size))
    expected = [
        (1, channels, -(-size[0] // stride), -(-size[1] // stride))
        for channels, stride in zip(trunk.channels, strides, strict=True)
    ]
    assert [tuple(m.shape) for m in maps] == expected
