# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import pytest
import torch

from training.backbones.stdc import ShortTermDenseConcatenation, STDCNet, stdc1, stdc2
from training.papers.tables import multiply_adds


@pytest.mark.parametrize(("build", "giga"), [(stdc1, 31.5), (stdc2, 57.8)])
def test_multiply_adds_are_the_published_networks(
    build: Callable[[], STDCNet], giga: float
) -> None:
    # Measured on the authors' code at 1024x2048
    assert multiply_adds(build, (1024, 2048)) == pytest.approx(giga * 1e9, rel=2e-3)


def test_block_of_stride_two_pools_the_copy_that_it_concatenates() -> None:
    block = ShortTermDenseConcatenation(8, 16, stride=2).eval()
    x = torch.randn(1, 8, 6, 6)
    with torch.inference_mode():
        first = block.conv_list[0](x)
        pooled = torch.nn.functional.avg_pool2d(first, 3, 2, padding=1)
        torch.testing.assert_close(block(x)[:, :8], pooled)


def test_odd_width_is_refused() -> None:
    with pytest.raises(ValueError, match="width is 33.*multiple of 2"):
        stdc2(33)
