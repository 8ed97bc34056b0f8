# SPDX-License-Identifier: Apache-2.0
from collections.abc import Callable

import pytest

from training.backbones.dfnet import DFNet, df1, df2
from training.papers.tables import multiply_adds, parameters


@pytest.mark.parametrize(("build", "millions", "giga"), [(df1, 8.020, 15.59), (df2, 17.474, 37.07)])
def test_parameters_and_multiply_adds_are_the_published_networks(
    build: Callable[[], DFNet], millions: float, giga: float
) -> None:
    # Measured on the authors' code at 1024x1024
    assert parameters(build) == pytest.approx(millions * 1e6, abs=600)
    assert multiply_adds(build, (1024, 1024)) == pytest.approx(giga * 1e9, rel=4e-4)
