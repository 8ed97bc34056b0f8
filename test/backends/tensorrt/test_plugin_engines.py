# SPDX-License-Identifier: Apache-2.0
"""Real TensorRT-RTX engines with our plugins and without, of the trained model and of random ones.

Each build is a separate process, because the library can abort. These tests need no GPU and run no
engine.
"""

import importlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from sfseg_ros.backends.tensorrt import engine_builder
from sfseg_ros.backends.tensorrt.engine_builder import BuildRequest, engine_from_onnx, prepare
from sfseg_ros.backends.tensorrt.library import link_environment
from sfseg_ros.errors import BackendError
from training.onnx_functions import functions

ROOT = Path(__file__).resolve().parents[3]
CAMVID = ROOT / "models" / "sfnet_lite_r18_camvid" / "model.onnx"
PLUGIN = {"domain": "sfseg", "plugin_namespace": "sfseg", "plugin_version": "1"}
FIXED = ((1, 64, 96, 3),) * 3
DYNAMIC = ((1, 32, 32, 3), (2, 64, 96, 3), (4, 160, 128, 3))

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed (pip install -r requirements/tensorrt.in)",
)


def random_model(seed: int, half: bool, gated: bool) -> ModelProto:
    """A network of the contract with random sizes and weights: two maps, flow, warp, scores.

    `half`: everything after the image is float16, also flow and gate. `gated`: GatedFlowFusion,
    else FlowWarp with the flow in float32.
    """
    random = np.random.default_rng(seed)
    channels, classes = int(random.integers(3, 40)), int(random.integers(2, 30))
    kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
    nodes, weights = [], []

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output

    def conv(source: str, output: str, sizes: tuple[int, ...], stride: int = 1) -> str:
        scale = {"stem": 1 / 60, "flow": 4.0, "scores": 4.0}.get(output, 1.4)
        weight = random.normal(0, scale / np.sqrt(np.prod(sizes[1:])), sizes).astype(dtype)
        weights.append(numpy_helper.from_array(weight, f"{output}_weight"))
        kernel = sizes[2:]
        return node(
            "Conv", [source, f"{output}_weight"], output, kernel_shape=kernel, strides=[stride] * 2
        )

    node("Cast", ["image"], "values", to=kind)
    node("Transpose", ["values"], "planes", perm=[0, 3, 1, 2])
    low = node("Relu", [conv("planes", "stem", (channels, 3, 4, 4), 4)], "low")
    high = node("Relu", [conv(low, "down", (channels, channels, 2, 2), 2)], "high")
    align = {"align_corners": seed % 2}
    if gated:
        flow = conv(low, "flow", (4, channels, 1, 1))
        gate = node("Sigmoid", [conv(low, "mask", (1, channels, 1, 1))], "gate")
        node("GatedFlowFusion", [high, low, flow, gate], "fused", **align, **PLUGIN)
    else:
        flow = node(
            "Cast", [conv(low, "flow", (2, channels, 1, 1))], "flow32", to=TensorProto.FLOAT
        )
        node("FlowWarp", [high, flow], "warped", **align, **PLUGIN)
        node("Add", ["warped", low], "fused")
    conv("fused", "scores", (classes, channels, 1, 1))
    nodes.append(
        helper.make_node(
            "UpsampleArgmax",
            ["scores"],
            ["labels", "confidence"],
            name="tail",
            **PLUGIN,
            stride=4,
        )
    )
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", "H", "W"])
            for name in ("labels", "confidence")
        ],
        weights,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("sfseg", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions(4), ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def built(model: ModelProto, plugins: bool, shapes: Any) -> tuple[bytes, list[str], list[str]]:
    """(engine, names of the layers that are plugins, types of the others)."""
    engine, result = engine_from_onnx(model, BuildRequest(shapes, plugins, "tensorrt_rtx"))
    assert result.library.startswith("TensorRT-RTX ")
    others = [layer.type for layer in result.layers if layer.type != "PLUGIN_V3"]
    return engine, result.plugin_layers, others


@pytest.mark.parametrize("shapes", [FIXED, DYNAMIC], ids=["fixed", "dynamic"])
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
@pytest.mark.parametrize("gated", [False, True], ids=["warp", "gated"])
def test_the_nodes_of_random_models_become_plugins_or_standard_layers(gated, half, shapes):
    seed = 100 + 4 * gated + 2 * half + (shapes is DYNAMIC)
    model = random_model(seed, half, gated)
    warp, attribute = ("fused", "GatedFlowFusion") if gated else ("warped", "FlowWarp")
    engine, plugins, others = built(model, True, shapes)
    assert plugins == [warp, "tail"]
    assert not {"GRID_SAMPLE", "RESIZE", "TOPK"}.intersection(others)
    # What the engine needs to make the plugins again is in it.
    for text in (attribute, "UpsampleArgmax", "align_corners", "stride"):
        assert text.encode() in engine

    portable, plugins, others = built(model, False, shapes)
    assert plugins == []
    assert others.count("GRID_SAMPLE") == (2 if gated else 1)
    assert b"align_corners" not in portable


@pytest.mark.parametrize("plugins", [True, False])
def test_the_trained_model_builds_for_batches_and_sizes(plugins):
    model = onnx.load(CAMVID)
    shapes = ((1, 352, 480, 3), (1, 352, 480, 3), (4, 1024, 2048, 3))
    _, names, others = built(model, plugins, shapes)
    tails = [node.name for node in model.graph.node if node.domain == "sfseg"]
    assert names == (tails if plugins else [])
    assert others.count("GRID_SAMPLE") == (0 if plugins else 2)


def test_a_plugin_without_its_attribute_fails_the_build():
    model = random_model(1, half=False, gated=False)
    (warp,) = (node for node in model.graph.node if node.op_type == "FlowWarp")
    del warp.attribute[[a.name for a in warp.attribute].index("align_corners")]
    with pytest.raises(BackendError, match="FlowWarp without its attribute align_corners"):
        built(model, True, FIXED)


def test_features_of_a_type_without_a_kernel_fail_the_build():
    model = random_model(2, half=False, gated=False)
    for node in model.graph.node:
        if node.name == "values":
            node.attribute[0].i = TensorProto.BFLOAT16
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        bits = (values.view(np.uint32) >> 16).astype(np.uint16)
        weight.CopyFrom(
            helper.make_tensor(
                weight.name, TensorProto.BFLOAT16, values.shape, bits.tobytes(), raw=True
            )
        )
    with pytest.raises(BackendError, match="FlowWarp of BF16, FLOAT: expected features all FLOAT"):
        built(model, True, FIXED)


# The builder's own list of the engine's layers, which only a verbose log has without a GPU.
VERBOSE = """
import sys
from sfseg_ros.backends.tensorrt.library import load_tensorrt
from sfseg_ros.backends.tensorrt import plugin

library = load_tensorrt("tensorrt_rtx")
library.check_parser_link()
library.register(plugin.creators(library.module))
log = library.module.Logger(library.module.Logger.VERBOSE)
builder = library.module.Builder(log)
network = library.create_network(builder)
library.parse(network, log, open(sys.argv[1], "rb").read())
config = builder.create_builder_config()
config.profiling_verbosity = library.module.ProfilingVerbosity.DETAILED
profile = builder.create_optimization_profile()
profile.set_shape("image", *[(1, 64, 96, 3)] * 3)
config.add_optimization_profile(profile)
assert builder.build_serialized_network(network, config) is not None
"""


@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_features_stay_dense_and_channels_last(tmp_path, half):
    """The kernels are launched for these layouts, even with odd numbers of channels."""
    model = random_model(13, half, gated=True)
    write_request(prepare(model, plugins=True), tmp_path)
    child = in_child(VERBOSE, tmp_path, str(tmp_path / engine_builder.MODEL))
    assert child.returncode == 0, child.stderr[-2000:]
    log = child.stdout + child.stderr
    layers = re.findall(
        r"LayerType: custom_layer, Inputs: \[(.*?)\], Constants:.*?Outputs: \[(.*)", log
    )
    assert len(layers) == 2, log[-2000:]
    (fusion_inputs, fusion_outputs), (scores, labels) = (
        tuple(map(tensors_of, layer)) for layer in layers
    )
    for tensor in (*fusion_inputs[:2], *fusion_outputs, *scores):
        assert tensor == ("Half" if half else "Float", "dense NHWC")
    assert labels == [("Int8", "dense linear")] * 2
    assert fusion_inputs[2] == ("Half" if half else "Float", "dense linear")  # the flow


def tensors_of(text: str) -> list[tuple[str, str]]:
    """(type, layout) of each tensor in a line of the builder's log, where sizes are fixed."""
    found = re.findall(
        r"Dimensions: \[([-0-9,]+)\], Strides: \[([-0-9,]+)\].*?Datatype: (\w+)", text
    )
    rows = []
    for sizes, strides, kind in found:
        shape, steps = (tuple(map(int, numbers.split(","))) for numbers in (sizes, strides))
        dense = {steps_of(shape, tuple(range(len(shape)))): "dense linear"}
        if len(shape) == 4:
            dense[steps_of(shape, (0, 2, 3, 1))] = "dense NHWC"
        rows.append((kind, dense.get(steps, f"strides {steps} of {shape}")))
    return rows


def steps_of(shape: tuple[int, ...], order: tuple[int, ...]) -> tuple[int, ...]:
    """Strides in elements of a dense array whose axes are stored in `order`."""
    steps, step = [0] * len(shape), 1
    for axis in reversed(order):
        steps[axis], step = step, step * shape[axis]
    return tuple(steps)


def in_child(script: str, folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=link_environment(environment, folder),
        capture_output=True,
        text=True,
        timeout=300,
    )


# Breaks one callback, and does otherwise what the child of engine_from_onnx does.
SABOTAGE = """
import sys
from pathlib import Path
from sfseg_ros.backends.tensorrt import engine_builder
from sfseg_ros.errors import BackendError
from sfseg_ros.backends.tensorrt import plugin

name = sys.argv[1]

def broken(self, *arguments):
    raise ZeroDivisionError("sabotage")

broken.__name__ = name
setattr(plugin.Plugin, name, plugin._noting(broken))
try:
    engine_builder._child(Path(sys.argv[2]))
    print("built")
except BackendError as error:
    print(error)
"""


@pytest.mark.parametrize(
    "name",
    [
        "get_output_data_types",
        "get_output_shapes",
        "supports_format_combination",
        "configure_plugin",
        "get_workspace_size",
        "get_fields_to_serialize",
    ],
)
def test_an_exception_in_a_callback_never_becomes_an_engine(tiny_model, tmp_path, name):
    """The library itself continues after an error in get_workspace_size or
    get_fields_to_serialize."""
    model = prepare(onnx.load(tiny_model / "model.onnx"), plugins=True)
    write_request(model, tmp_path)
    child = in_child(SABOTAGE, tmp_path, name, str(tmp_path))
    said = child.stdout + child.stderr
    assert "built" not in child.stdout.split()
    assert not (tmp_path / "engine").exists()
    if child.returncode:  # RTX 1.7.1 spoils its heap after some of them
        assert child.returncode in (-signal.SIGABRT, -signal.SIGSEGV), said
        assert re.search(rf"Exception .* {name}\(\):? ZeroDivisionError: sabotage", child.stderr)
        assert name in ("supports_format_combination", "configure_plugin")
    else:
        assert f".{name}: ZeroDivisionError: sabotage" in child.stdout, said


def write_request(model: ModelProto, folder: Path) -> None:
    """`folder` as engine_from_onnx prepares it for the child."""
    onnx.save(model, folder / engine_builder.MODEL)
    request = asdict(BuildRequest(FIXED, True, "tensorrt_rtx"))
    (folder / engine_builder.REQUEST).write_text(json.dumps(request), encoding="utf-8")
