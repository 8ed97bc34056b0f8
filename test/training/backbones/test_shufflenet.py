# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from training.backbones.shufflenet import ShuffleNetV2, ShuffleUnit
from training.papers.tables import multiply_adds


def test_multiply_adds_are_the_papers() -> None:
    # Paper: table 8, 146 M at 224x224 with its classifier (1024 to 1000, 1.0 M)
    assert multiply_adds(ShuffleNetV2, (224, 224)) == pytest.approx(146e6 - 1.024e6, rel=0.01)


def test_unit_of_stride_one_passes_half_of_its_channels_at_even_places() -> None:
    unit = ShuffleUnit(8, 8, stride=1).eval()
    x = torch.randn(1, 8, 3, 3)
    with torch.inference_mode():
        torch.testing.assert_close(unit(x)[:, ::2], x[:, :4])
