# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from training.backbones.xception import Block, Projection, SeparableConvolution


def test_a_separable_convolution_costs_nine_and_the_channels_per_input_channel() -> None:
    layer = SeparableConvolution(10, 6)
    weights = sum(p.numel() for p in layer.parameters() if p.ndim == 4)
    assert weights == 10 * 9 + 10 * 6


@pytest.mark.parametrize("projection", ["1x1", "separable"])
def test_the_shortcut_is_projected_only_where_the_shape_changes(projection: Projection) -> None:
    assert isinstance(Block(16, 4, 1, projection).shortcut, torch.nn.Identity)
    changing = Block(8, 4, 2, projection)
    kernels = [m.kernel_size[0] for m in changing.shortcut if isinstance(m, torch.nn.Conv2d)]
    assert kernels == ([1] if projection == "1x1" else [3, 1])
    assert changing(torch.randn(2, 8, 5, 7)).shape == (2, 16, 3, 4)
