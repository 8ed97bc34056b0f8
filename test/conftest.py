# SPDX-License-Identifier: Apache-2.0
"""A model of a few bytes that fulfils the whole contract, so that tests need no trained model.

`tiny_model` classifies each 4x4 block by the nearest of three colours, so its labels are known in
advance. Like the real file it has fp16 weights, dynamic sizes, and `sfseg` functions with standard
bodies.
"""

import random
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import settings
from onnx import TensorProto, helper, numpy_helper

from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import host_emulation
from sfseg_ros.model.manifest import (
    Manifest,
    SemanticClass,
    load_manifest,
    save_manifest,
    sha256_of_file,
)
from training.onnx_functions import flow_warp, gated_flow_fusion, upsample_argmax

# The same examples on every machine, without a time limit, because other programs may be running.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

# A job that a script starts in the background ignores SIGINT, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

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


@pytest.fixture(scope="session")
def cxx_compiler() -> None:
    """Skips if there is no C++ compiler for the kernels; a compiler that fails is a failure."""
    try:
        host_emulation.kernels()
    except BackendError as error:
        if "no C++ compiler" in str(error):
            pytest.skip(str(error))
        raise


# --- untrained models ---------------------------------------------------------------------------


@pytest.fixture(scope="session")
def make_random_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Manifest]:
    """(seed, wild, **fields of the manifest) -> the manifest of a model directory with the network
    `random_onnx`, or with `wild` a less regular one."""

    def make(seed: int, wild: bool = False, **fields: Any) -> Manifest:
        directory = tmp_path_factory.mktemp(f"random_{seed}")
        model, stride, classes = (_WildNetwork if wild else _RandomNetwork)(seed).model()
        onnx.save(model, directory / "model.onnx")
        save_manifest(
            manifest_with(
                directory,
                name=f"random_{seed}",
                classes=tuple(SemanticClass(i, f"class {i}", (i, 0, 0)) for i in range(classes)),
                onnx_sha256=sha256_of_file(directory / "model.onnx"),
                output_stride=stride,
                **fields,
            )
        )
        return load_manifest(directory)

    return make


def random_onnx(seed: int) -> tuple[onnx.ModelProto, int, int]:
    """Return (model, output stride, number of classes) of a network that fulfils the contract.

    Layers, channel counts, stride and classes are random. Weights keep activations at about 1."""
    return _RandomNetwork(seed).model()


class _RandomNetwork:
    def __init__(self, seed: int) -> None:
        self.rng, self.values = random.Random(seed), np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.count = 0

    def model(self) -> tuple[onnx.ModelProto, int, int]:
        rng = self.rng
        x = self.node("Cast", ["image"], to=TensorProto.FLOAT)
        x = self.node("Sub", [x, self.weight(np.array([120, 115, 100]))])
        x = self.node("Div", [x, self.weight(np.array([60, 58, 55]))])
        x = self.node("Transpose", [x], perm=[0, 3, 1, 2])
        stride, channels, low = rng.choice([2, 4, 8]), 3, x
        for _ in range(stride.bit_length() - 1):
            x, channels = self.conv(x, channels, self.width(), 3, 2), self.last_width
            x = self.activation(x, channels)
        for _ in range(rng.randrange(3)):
            x = self.block(x, channels)
        low = x
        high, high_channels = self.conv(low, channels, channels, 3, 2), channels
        high = self.activation(high, high_channels)
        for _ in range(rng.randrange(2)):
            high = self.block(high, high_channels)
        x = self.aligned(high, low, channels)
        for _ in range(rng.randrange(2)):
            x = self.block(x, channels)
        classes = rng.choice([2, 3, 5, 11, 19, 33])
        return self.ended(self.conv(x, channels, classes, 1, 1, gain=4.0), stride, classes)

    def ended(self, scores: str, stride: int, classes: int) -> tuple[onnx.ModelProto, int, int]:
        """Return the model that ends with these scores."""
        self.nodes.append(
            helper.make_node(
                "UpsampleArgmax", [scores], ["labels", "confidence"], stride=stride, **PLUGIN
            )
        )
        used = {n.op_type for n in self.nodes}
        functions = [upsample_argmax(stride), flow_warp()]
        functions += [gated_flow_fusion()] if "GatedFlowFusion" in used else []
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", "H", "W", 3])],
            [
                helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", "H", "W"])
                for name in ("labels", "confidence")
            ],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=OPSETS, functions=functions, ir_version=10)
        onnx.checker.check_model(model, full_check=True)
        return model, stride, classes

    def name(self) -> str:
        self.count += 1
        return f"t{self.count}"

    def node(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        output = self.name()
        self.nodes.append(helper.make_node(operator, inputs, [output], output, **attributes))
        return output

    def weight(self, value: Any, dtype: Any = np.float32) -> str:
        """Add a weight as exporters do: an initializer, a Constant node, or fp16 with a Cast."""
        name, array = self.name(), np.asarray(value, dtype)
        form = self.rng.choice(["initializer", "constant", "fp16"])
        if form == "fp16" and dtype == np.float32:
            self.weights.append(numpy_helper.from_array(array.astype(np.float16), name))
            return self.node("Cast", [name], to=TensorProto.FLOAT)
        if form == "constant":
            return self.node("Constant", [], value=numpy_helper.from_array(array, name))
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def width(self) -> int:
        self.last_width = self.rng.choice([5, 8, 13, 16, 24, 32, 48])
        return self.last_width

    def conv(
        self, x: str, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1,
        gain: float = 1.0,
    ) -> str:  # fmt: skip
        fan_in = inputs // groups * kernel**2
        shape = (outputs, inputs // groups, kernel, kernel)
        weight = self.values.normal(0, gain * (2 / fan_in) ** 0.5, shape)
        names = [x, self.weight(weight)]
        if self.rng.random() < 0.7:
            names.append(self.weight(self.values.normal(0, 0.1, outputs)))
        pads = [kernel // 2] * 4
        attributes: dict[str, Any] = {"group": groups} if groups > 1 else {}
        y = self.node(
            "Conv", names, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads, **attributes
        )
        if gain == 1.0 and self.rng.random() < 0.3:
            each = [np.ones(outputs), np.zeros(outputs), np.zeros(outputs), np.ones(outputs)]
            y = self.node("BatchNormalization", [y, *map(self.weight, each)], epsilon=1e-5)
        return y

    def activation(self, x: str, channels: int) -> str:
        kind = self.rng.choice(["Relu", "LeakyRelu", "Clip", "HardSwish", "PRelu", "Swish"])
        if kind == "Clip":
            return self.node("Clip", [x, self.weight(0.0), self.weight(6.0)])
        if kind == "PRelu":
            return self.node("PRelu", [x, self.weight(np.full((channels, 1, 1), 0.25))])
        if kind == "Swish":
            return self.node("Mul", [x, self.node("Sigmoid", [x])])
        return self.node(kind, [x])

    def block(self, x: str, channels: int) -> str:
        match self.rng.randrange(5):
            case 0:  # residual
                y = self.activation(self.conv(x, channels, channels, 3, 1), channels)
                return self.node("Add", [self.conv(y, channels, channels, 1, 1), x])
            case 1:  # depthwise
                y = self.activation(self.conv(x, channels, channels, 3, 1, channels), channels)
                return self.conv(y, channels, channels, 1, 1)
            case 2:  # squeeze and excite
                mean = self.node("GlobalAveragePool", [x])
                gate = self.node("Sigmoid", [self.conv(mean, channels, channels, 1, 1)])
                return self.node("Mul", [x, gate])
            case 3:  # split and concatenate, pooled
                halves = self.weight([channels // 2, channels - channels // 2], np.int64)
                first, second = self.name(), self.name()
                self.nodes.append(helper.make_node("Split", [x, halves], [first, second], axis=1))
                first = self.node("MaxPool", [first], kernel_shape=[3, 3], pads=[1] * 4)
                return self.node("Concat", [second, first], axis=1)
            case _:  # attention over channels, always in fp32
                y = self.node("Softmax", [x], axis=1)
                return self.node("Add", [self.node("Mul", [y, x]), x])

    def aligned(self, high: str, low: str, channels: int) -> str:
        shape = self.node("Shape", [low])
        up = self.node("Resize", [high, "", "", shape], mode="linear",
                       coordinate_transformation_mode="align_corners")  # fmt: skip
        both = self.node("Concat", [up, low], axis=1)
        align = self.rng.randrange(2)
        if self.rng.random() < 0.5:
            flow = self.conv(both, 2 * channels, 2, 3, 1)
            return self.node("Add", [self.warp("FlowWarp", [high, flow], align), low])
        flow = self.conv(both, 2 * channels, 4, 3, 1)
        axis = self.weight([1], np.int64)
        pooled = [
            self.node(operator, [x, axis], keepdims=1)
            for operator in ("ReduceMean", "ReduceMax")
            for x in (up, low)
        ]
        gate = self.conv(self.node("Concat", pooled, axis=1), 4, 1, 3, 1)
        gate = self.node("Sigmoid", [gate])
        return self.warp("GatedFlowFusion", [high, low, flow, gate], align)

    def warp(self, operator: str, inputs: list[str], align_corners: int) -> str:
        return self.node(operator, inputs, align_corners=align_corners, **PLUGIN)


class _WildNetwork(_RandomNetwork):
    """A network unsuitable for training: `sfseg` nodes in sequence, on the image, on one channel,
    on maps of equal size and on scores; a flow shared by two nodes; flow without a convolution."""

    def model(self) -> tuple[onnx.ModelProto, int, int]:
        rng = self.rng
        x = self.node("Cast", ["image"], to=TensorProto.FLOAT)
        x = self.node("Mul", [x, self.weight(np.float32(1 / 64))])
        x, channels = self.node("Transpose", [x], perm=[0, 3, 1, 2]), 3
        if rng.random() < 0.3:
            x = self.warped(x, x, channels)
        stride = rng.choice([4, 8, 16])
        for _ in range(stride.bit_length() - 1):
            x, channels = self.conv(x, channels, self.width(), 3, 2), self.last_width
            x = self.activation(x, channels)
            if rng.random() < 0.3:
                x = self.warped(x, x, channels)
        low, high = x, x
        for _ in range(rng.randrange(6 - stride.bit_length())):
            high = self.activation(self.conv(high, channels, channels, 3, 2), channels)
        for _ in range(rng.randrange(1, 4)):
            low = self.warped(high, low, channels)
            if rng.random() < 0.4:
                low = self.block(low, channels)
        classes = rng.choice([2, 3, rng.randrange(4, 33), rng.randrange(33, 255), 254, 255])
        scores = self.conv(low, channels, classes, rng.choice([1, 3]), 1, gain=4.0)
        if rng.random() < 0.3:
            scores = self.warped(scores, scores, classes)
        return self.ended(scores, stride, classes)

    def width(self) -> int:
        self.last_width = self.rng.choice([1, 2, 3, 5, 7, 8, 16, 24, 31, 32, 48, 64])
        return self.last_width

    def warped(self, high: str, low: str, channels: int) -> str:
        """`high` resized to the size of `low`, or both fused."""
        align = self.rng.randrange(2)
        fused = self.rng.random() < 0.5
        flow = self.flow(low, channels, 4 if fused else 2)
        if not fused:
            warped = self.warp("FlowWarp", [high, flow], align)
            if self.rng.random() < 0.3:
                again = self.warp("FlowWarp", [low, flow], 1 - align)  # the same flow
                return self.node("Max", [warped, again])
            return warped
        gate = self.rng.choice(["mean", "conv"])
        if gate == "mean":
            axis = self.weight([1], np.int64)
            mask = self.node("ReduceMean", [low, axis], keepdims=1)
        else:
            mask = self.conv(low, channels, 1, 1, 1)
        mask = self.node("Sigmoid", [mask])
        return self.warp("GatedFlowFusion", [high, low, flow, mask], align)

    def flow(self, low: str, channels: int, count: int) -> str:
        if self.rng.random() < 0.2 and channels >= count:
            starts, ends = self.weight([0], np.int64), self.weight([count], np.int64)
            part = self.node("Slice", [low, starts, ends, self.weight([1], np.int64)])
            return self.node("Tanh", [part])
        flow = self.conv(low, channels, count, 3, 1)
        if self.rng.random() < 0.3:
            flow = self.node("Mul", [flow, self.weight(np.float32(3.0))])
        return flow


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """Within `full_disk(limit)`, a write beyond `limit` bytes of a file fails with EFBIG,
    as late as on a full disk."""

    @contextmanager
    def limited(limit: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)

    return limited
