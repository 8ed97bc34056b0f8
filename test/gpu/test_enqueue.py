# SPDX-License-Identifier: Apache-2.0
"""The plugins' enqueue on device memory; a module with TensorRT's names replaces the library."""

import types

import numpy as np
import pytest

from sfseg_ros.backends.tensorrt import plugin
from sfseg_ros.kernels.flow_warp import flow_warp
from sfseg_ros.kernels.gated_flow_fusion import gated_flow_fusion
from sfseg_ros.kernels.upsample_argmax import upsample_argmax

KINDS = [
    ("FLOAT", "LINEAR"),
    ("FLOAT", "HWC"),
    ("HALF", "LINEAR"),
    ("HALF", "HWC"),
    ("HALF", "HWC8"),
]
CHANNELS = 11


@pytest.fixture(scope="module")
def trt():
    bases = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime")
    module = types.ModuleType("tensorrt")
    for name in (*bases, "IPluginCreatorV3One"):
        setattr(module, name, type(name, (), {}))
    module.PluginField = lambda name, data, kind=None: types.SimpleNamespace(name=name, data=data)
    module.PluginFieldCollection = list
    module.PluginFieldType = types.SimpleNamespace(INT32=0)
    return module


def described(kind, shape):
    return types.SimpleNamespace(
        type=types.SimpleNamespace(name=kind[0]),
        format=types.SimpleNamespace(name=kind[1]),
        dims=shape,
    )


def in_memory(array, kind):
    """Return a logical (N, C, H, W) array as TensorRT stores it in memory."""
    array = array.astype(np.float16 if kind[0] == "HALF" else np.float32)
    if kind[1] == "LINEAR":
        return np.ascontiguousarray(array)
    array = array.transpose(0, 2, 3, 1)
    padding = -array.shape[3] % 8 if kind[1] == "HWC8" else 0
    return np.pad(array, ((0, 0), (0, 0), (0, 0), (0, padding)))


def logical(memory, kind, channels):
    return memory if kind[1] == "LINEAR" else memory.transpose(0, 3, 1, 2)[:, :channels]


class Node:
    """One node with host arrays as inputs and outputs; enqueue uses the node's own stream."""

    def __init__(self, gpu, trt, name, attribute):
        creator = next(c for c in plugin.creators(trt) if c.name == name)
        value = np.array([attribute], np.int32)
        field = trt.PluginField(plugin.OPERATORS[name].attribute, value)
        self.plugin = creator.create_plugin(name, [field], None).attach_to_context(None)
        self.gpu, self.stream = gpu, gpu.stream()

    def run(self, inputs, outputs):
        """`inputs` are (logical shape, kind, array in memory), `outputs` arrays to fill."""
        self.plugin.on_shape_change([described(kind, shape) for shape, kind, _ in inputs], [])
        arrays = [*(array for *_, array in inputs), *outputs]
        host, device = (
            [make(a.nbytes) for a in arrays] for make in (self.gpu.pinned, self.gpu.memory)
        )
        for array, pinned, memory in zip(arrays, host, device, strict=True):
            pinned.array((array.nbytes,))[...] = array.reshape(-1).view(np.uint8)
            self.stream.upload(memory, pinned, array.nbytes)
        addresses = [memory.address for memory in device]
        count = len(inputs)
        self.enqueue(addresses[:count], addresses[count:])
        for array, pinned, memory in list(zip(arrays, host, device, strict=True))[count:]:
            self.stream.download(pinned, memory, array.nbytes)
            self.stream.wait()
            array.reshape(-1).view(np.uint8)[...] = pinned.array((array.nbytes,))
        plugin.raise_noted()
        for buffer in (*host, *device):
            buffer.free()

    def enqueue(self, inputs, outputs):
        self.plugin.enqueue([], [], inputs, outputs, 0, self.stream.handle)

    def free(self):
        self.stream.free()


@pytest.fixture
def node(gpu, trt):
    nodes = []

    def make(name, attribute):
        nodes.append(Node(gpu, trt, name, attribute))
        return nodes[-1]

    yield make
    for made in nodes:
        made.free()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["FlowWarp", "GatedFlowFusion"])
def test_warps_in_every_format_and_after_a_change_of_shape(node, name, kind):
    rng = np.random.default_rng(0)
    warp = node(name, 1)
    flow_kind = (kind[0], "LINEAR")
    for batch, height, width in ((1, 12, 20), (3, 7, 33), (1, 12, 20)):
        small, large = (batch, CHANNELS, 4, 9), (batch, CHANNELS, height, width)
        high, low = (in_memory(rng.standard_normal(shape), kind) for shape in (small, large))
        flows = 2 if name == "FlowWarp" else 4
        flow = in_memory(5 * rng.standard_normal((batch, flows, height, width)), flow_kind)
        gate = in_memory(rng.random((batch, 1, height, width)), flow_kind)
        result = np.full_like(low, np.nan)
        maps = [logical(array, kind, CHANNELS) for array in (high, low)]
        if name == "FlowWarp":
            warp.run([(small, kind, high), (flow.shape, flow_kind, flow)], [result])
            expected = flow_warp(maps[0], flow)
        else:
            inputs = [(small, kind, high), (large, kind, low), (flow.shape, flow_kind, flow)]
            warp.run([*inputs, (gate.shape, flow_kind, gate)], [result])
            expected = gated_flow_fusion(*maps, flow, gate)
        limit = 2.0**-9 if kind[0] == "HALF" else 5 * 2.0**-22
        found = logical(result, kind, CHANNELS).astype(np.float64)
        np.testing.assert_allclose(found, expected.astype(np.float64), rtol=limit, atol=limit)


@pytest.mark.parametrize("kind", KINDS)
def test_labels_in_every_format_and_after_a_change_of_shape(node, kind):
    rng = np.random.default_rng(0)
    tail = node("UpsampleArgmax", 4)
    for shape in ((1, CHANNELS, 9, 13), (2, CHANNELS, 5, 40)):
        scores = in_memory(rng.standard_normal(shape), kind)
        labels, confidence = (
            np.zeros((shape[0], 4 * shape[2], 4 * shape[3]), np.int8) for _ in "ab"
        )
        tail.run([(shape, kind, scores)], [labels, confidence])
        expected = upsample_argmax(logical(scores, kind, CHANNELS), 4)
        np.testing.assert_array_equal(labels.view(np.uint8), expected[0])
        off = confidence.view(np.uint8).astype(int) - expected[1]
        assert np.abs(off).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_label_rules_run_on_the_gpu(gpu, node, kind):
    rng = np.random.default_rng(0)
    tail, shape = node("UpsampleArgmax", 4), (2, CHANNELS, 9, 13)
    scores, table = in_memory(rng.standard_normal(shape), kind), rng.permutation(256)
    host, device = gpu.pinned(256), gpu.memory(256)
    host.array((256,))[...] = table
    tail.stream.upload(device, host, 256)
    outputs = [np.zeros((2, 36, 52), np.int8) for _ in range(4)]
    tail.run([(shape, kind, scores)], outputs[:2])
    with plugin.applying_label_rules(60, device.address):
        tail.run([(shape, kind, scores)], outputs[2:])
        assert plugin.nodes_that_applied_rules() == 1
    raw, confidence, labels, same = (array.view(np.uint8) for array in outputs)
    expected = table.astype(np.uint8)[np.where(confidence < 60, np.uint8(255), raw)]
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(same, confidence)
    for buffer in (host, device):
        buffer.free()
