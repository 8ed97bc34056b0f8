# SPDX-License-Identifier: Apache-2.0
"""Engines with plugins run and give the labels of engines without them. Not run on a GPU yet."""

import numpy as np
import pytest

from sfseg_ros.backends.tensorrt.engine_store import EngineStore
from sfseg_ros.backends.tensorrt.engines import EngineRequest, built_engine
from sfseg_ros.backends.tensorrt.library import load_tensorrt
from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import cuda_memory
from sfseg_ros.model.manifest import Manifest

SHAPES = ((1, 64, 96), (2, 64, 96), (1, 128, 32))


def no_tensorrt() -> str:
    """Return why TensorRT cannot run here, or "" if it can."""
    try:
        cuda_memory.Gpu().close()
        load_tensorrt()
    except BackendError as error:
        return str(error)
    return ""


@pytest.mark.gpu
@pytest.mark.skipif(bool(no_tensorrt()), reason=f"no TensorRT: {no_tensorrt()}")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_engines_with_plugins_and_without_agree(
    tiny_manifest: Manifest, tmp_path, precision: str
) -> None:
    """Covers creation in the RUNTIME phase, on_shape_change for two shapes, and enqueue."""
    from sfseg_ros.backends.tensorrt.backend import TensorRtBackend

    store = EngineStore(tmp_path)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (n, h, w, 3), np.uint8) for n, h, w in SHAPES]
    results = []
    for plugins in (True, False):
        request = EngineRequest(
            sizes=((32, 32), (64, 96), (128, 128)),
            batches=(1, 1, 2),
            precision=precision,
            plugins=plugins,
        )
        stored, _ = built_engine(tiny_manifest, request, store)
        backend = TensorRtBackend(tiny_manifest, only=stored)
        try:
            results.append([backend.infer(picture, confidence=True) for picture in pictures])
        finally:
            backend.close()
    for (labels, confidence), (expected, expected_confidence) in zip(*results):
        assert (labels == expected).mean() >= 0.999
        assert np.abs(confidence.astype(int) - expected_confidence.astype(int)).max() <= 4
