# SPDX-License-Identifier: Apache-2.0
"""TensorRT-RTX parses and builds the exported file on a machine without a GPU.

In a process of its own: the library's parser and builder can abort instead of raising.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

from training.export import halved_weights, onnx_from_network
from training.networks.sfnet_lite import sfnet_lite_r18

BUILD = """
import sys
import tensorrt_rtx as trt
logger = trt.Logger(trt.Logger.ERROR)
builder = trt.Builder(logger)
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, logger)
if not parser.parse(open(sys.argv[1], "rb").read()):
    sys.exit("; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
config = builder.create_builder_config()
profile = builder.create_optimization_profile()
profile.set_shape("image", (1, 64, 64, 3), (1, 352, 480, 3), (2, 512, 1024, 3))
config.add_optimization_profile(profile)
engine = builder.build_serialized_network(network, config)
print("engine", None if engine is None else engine.nbytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (pip install -r requirements/tensorrt.txt)",
)
def test_the_one_file_builds_an_engine_for_any_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = halved_weights(onnx_from_network(sfnet_lite_r18(11, "plain", (1, 1)).eval()))
    onnx.save(model, tmp_path / "model.onnx")
    build = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path / "model.onnx")],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert build.returncode == 0, build.stderr
    assert int(build.stdout.rsplit(maxsplit=1)[-1]) > 10_000_000
