# SPDX-License-Identifier: Apache-2.0
"""A model of a few bytes that keeps the whole contract, so that tests need no trained one.

`tiny_model` classifies each 4x4 block by the nearest of three colours, so its labels can be told in
advance. Like the real file it has fp16 weights, dynamic sizes, and `sfseg` functions with standard
bodies.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from sfseg_ros.manifest import Manifest, SemanticClass, load_manifest, save_manifest, sha256_of_file
from training.onnx_functions import flow_warp, upsample_argmax

# The same examples on every machine, and no time limit for one: other programs may be running.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
OPSETS = [helper.make_opsetid("", 18), helper.make_opsetid("sfseg", 1)]
CLASSES = (
    SemanticClass(0, "red", RED),
    SemanticClass(1, "green", GREEN),
    SemanticClass(2, "blue", BLUE),
)
PLUGIN = {"domain": "sfseg", "plugin_namespace": "sfseg", "plugin_version": "1"}


def manifest_with(directory: Path, **fields: Any) -> Manifest:
    """The tiny model's manifest with other `fields`; the file need not exist."""
    usual: dict[str, Any] = {
        "name": "tiny_rgb",
        "classes": CLASSES,
        "onnx_file": "model.onnx",
        "onnx_sha256": "0" * 64,
        "opset": 18,
        "weights_dtype": "float16",
        "input_size": (64, 96),
        "size_multiple": 32,
        "min_size": (32, 32),
        "max_size": (256, 256),
        "output_stride": 4,
        "evaluation": {},
        "parity": {},
        "provenance": {},
    }
    return Manifest(directory=directory, **usual | fields)


@pytest.fixture(scope="session")
def make_manifest() -> Callable[..., Manifest]:
    """`manifest_with`, for tests: they cannot import from a conftest.py."""
    return manifest_with


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory with the classes red (0), green (1) and blue (2)."""
    directory = tmp_path_factory.mktemp("tiny_rgb")
    onnx.save(tiny_onnx(), directory / "model.onnx")
    sha256 = sha256_of_file(directory / "model.onnx")
    save_manifest(manifest_with(directory, onnx_sha256=sha256))
    return directory


@pytest.fixture(scope="session")
def tiny_manifest(tiny_model: Path) -> Manifest:
    return load_manifest(tiny_model)


def tiny_onnx() -> onnx.ModelProto:
    """score_c = 2 <colour_c, pixel> - |colour_c|^2: highest for the nearest of the colours."""
    colours = np.array([RED, GREEN, BLUE], np.float32) / 255
    weights = [
        numpy_helper.from_array((2 * colours).astype(np.float16).reshape(3, 3, 1, 1), "weight"),
        numpy_helper.from_array((-(colours**2).sum(axis=1)).astype(np.float32), "bias"),
        numpy_helper.from_array(np.zeros((2, 3, 1, 1), np.float32), "no_flow"),
        numpy_helper.from_array(np.float32(255), "scale"),
    ]
    nodes = [
        helper.make_node("Cast", ["image"], ["bytes"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["bytes", "scale"], ["pixels"]),
        helper.make_node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool", ["planes"], ["blocks"], kernel_shape=[4, 4], strides=[4, 4]
        ),
        helper.make_node("Conv", ["blocks", "no_flow"], ["flow"]),
        helper.make_node("FlowWarp", ["blocks", "flow"], ["warped"], align_corners=1, **PLUGIN),
        helper.make_node("Cast", ["weight"], ["weight32"], to=TensorProto.FLOAT),
        helper.make_node("Conv", ["warped", "weight32", "bias"], ["scores"]),
        helper.make_node(
            "UpsampleArgmax", ["scores"], ["labels", "confidence"], stride=4, **PLUGIN
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info("labels", TensorProto.UINT8, ["N", "H", "W"]),
            helper.make_tensor_value_info("confidence", TensorProto.UINT8, ["N", "H", "W"]),
        ],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=OPSETS, functions=[flow_warp(), upsample_argmax(4)], ir_version=10
    )
    onnx.checker.check_model(model, full_check=True)
    return model
