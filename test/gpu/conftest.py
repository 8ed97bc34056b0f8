# SPDX-License-Identifier: Apache-2.0
"""Every test of this folder needs a GPU and is skipped without one. `make gpu` runs them."""

from pathlib import Path

import pytest

from sfseg_ros.kernels import cuda_memory

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    """Skip all tests of this folder if there is no GPU; look for it once."""
    here = [item for item in items if HERE in item.path.parents]
    reason = no_gpu() if here else ""
    for item in here:
        item.add_marker(pytest.mark.gpu)
        if reason:
            item.add_marker(pytest.mark.skip(reason=f"no GPU: {reason}"))


def no_gpu():
    """Return why there is no GPU, or "". A broken GPU counts as one, so that the tests fail."""
    try:
        cuda_memory.Gpu().close()
    except cuda_memory.CudaError as error:
        return str(error) if error.name in cuda_memory.NO_GPU else ""
    return ""


@pytest.fixture
def gpu():
    """A `cuda_memory.Gpu` whose context is current."""
    gpu = cuda_memory.Gpu()
    try:
        with gpu.current():
            yield gpu
    finally:
        gpu.close()
