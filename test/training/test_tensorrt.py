# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX parses and builds the exported file on a machine without a GPU."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch

from training.export import halved_weights, onnx_from_network
from training.networks.sfnet_lite import sfnet_lite_r18


@pytest.mark.slow
def test_the_one_file_builds_an_engine_for_any_size(
    tensorrt_rtx_engine_bytes: Callable[..., int], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = halved_weights(onnx_from_network(sfnet_lite_r18(11, "plain", (1, 1)).eval()))
    onnx.save(model, tmp_path / "model.onnx")
    shapes = ((1, 64, 64, 3), (1, 352, 480, 3), (2, 512, 1024, 3))
    assert tensorrt_rtx_engine_bytes(tmp_path / "model.onnx", *shapes) > 10_000_000
