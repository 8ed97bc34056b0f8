# SPDX-License-Identifier: Apache-2.0
"""Every callback of the TensorRT plugins, called directly: the library swallows what some raise.

`fake_trt` has the names of the real bindings that the plugins use. That real engines take these
plugins is in test_plugin_engines.py.
"""

import enum
import itertools
import threading
import types
from typing import Any

import numpy as np
import pytest

from sfseg_ros.backends.tensorrt import plugin
from sfseg_ros.errors import BackendError
from sfseg_ros.kernels import cuda_memory
from sfseg_ros.kernels.flow_warp import flow_warp_launch
from sfseg_ros.kernels.gated_flow_fusion import gated_flow_fusion_launch
from sfseg_ros.kernels.upsample_argmax import upsample_argmax_launch

TYPES = ("FLOAT", "HALF", "BF16", "INT8", "INT32", "BOOL", "UINT8", "FP8")
FORMATS = ("LINEAR", "CHW2", "HWC8", "CHW4", "CHW16", "CHW32", "HWC", "HWC16")
DataType, TensorFormat = enum.IntEnum("DataType", TYPES), enum.IntEnum("TensorFormat", FORMATS)


class Field:
    def __init__(self, name: str, data: Any, kind: Any = None) -> None:
        self.name, self.data, self.type = name, data, kind


def fake_trt(name: str) -> types.ModuleType:
    bases = ("IPluginV3", "IPluginV3OneCore", "IPluginV3OneBuild", "IPluginV3OneRuntime")
    module = types.ModuleType(name)
    vars(module).update(
        **{name: type(name, (), {}) for name in (*bases, "IPluginCreatorV3One")},
        PluginField=Field,
        PluginFieldCollection=list,
        PluginFieldType=enum.IntEnum("PluginFieldType", ("INT32", "INT64")),
        TensorRTPhase=enum.IntEnum("TensorRTPhase", ("BUILD", "RUNTIME")),
        DataType=DataType,
        DimensionOperation=enum.IntEnum("DimensionOperation", ("SUM", "PROD")),
        DimsExprs=lambda length: [None] * length,
    )
    return module


@pytest.fixture(autouse=True)
def nothing_noted():
    yield
    plugin.raise_noted(all_threads=True)


@pytest.fixture(scope="module")
def trt():
    return fake_trt("tensorrt")


@pytest.fixture(scope="module")
def rtx():
    return fake_trt("tensorrt_rtx")


def creator(trt, name):
    return next(c for c in plugin.creators(trt) if c.name == name)


def made(trt, name, attribute):
    field = Field(plugin.OPERATORS[name].attribute, np.array([attribute], np.int32))
    return creator(trt, name).create_plugin(name, [field], trt.TensorRTPhase.BUILD)


def tensor(kind, dims=()):
    """A description of (type, format) and dims, with itself inside as while building."""
    description = types.SimpleNamespace(
        type=DataType[kind[0]], format=TensorFormat[kind[1]], dims=dims
    )
    description.desc = description
    return description


class Unreadable:
    """A description that the library has not filled in yet."""

    @property
    def desc(self):
        raise AssertionError("looked at a tensor after the one that was asked for")


def accepted(trt, name, attribute=1):
    """All combinations that are accepted tensor after tensor, as the library asks."""
    node, operator = made(trt, name, attribute), plugin.OPERATORS[name]
    count = operator.inputs + operator.outputs
    combinations = [()]
    for position in range(count):
        combinations = [
            (*before, kind)
            for before in combinations
            for kind in itertools.product(TYPES, FORMATS)
            if node.supports_format_combination(
                position,
                [*map(tensor, (*before, kind)), *[Unreadable()] * (count - position - 1)],
                operator.inputs,
            )
        ]
    return combinations


def test_a_warp_takes_two_storages_of_each_type_and_flow_in_fp32_or_that_type(trt):
    f32, f16 = ("FLOAT", "LINEAR"), ("HALF", "LINEAR")
    assert accepted(trt, "FlowWarp") == [
        (features, flow, features)
        for features, flows in {
            f32: (f32,),
            ("FLOAT", "HWC"): (f32,),
            f16: (f32, f16),
            ("HALF", "HWC8"): (f32, f16),
        }.items()
        for flow in flows
    ]


def test_a_fusion_has_both_maps_in_one_storage_and_flow_and_gate_in_one_type(trt):
    f32, f16 = ("FLOAT", "LINEAR"), ("HALF", "LINEAR")
    hwc, hwc8 = ("FLOAT", "HWC"), ("HALF", "HWC8")
    assert accepted(trt, "GatedFlowFusion") == [
        (f32, f32, f32, f32, f32),
        (hwc, hwc, f32, f32, hwc),
        (f16, f16, f32, f32, f16),
        (f16, f16, f16, f16, f16),
        (hwc8, hwc8, f32, f32, hwc8),
        (hwc8, hwc8, f16, f16, hwc8),
    ]


def test_rtx_is_offered_only_channels_last(rtx):
    f32, f16 = ("FLOAT", "LINEAR"), ("HALF", "LINEAR")
    hwc32, hwc16, bytes_ = ("FLOAT", "HWC"), ("HALF", "HWC"), ("INT8", "LINEAR")
    assert accepted(rtx, "FlowWarp") == [
        (hwc32, f32, hwc32),
        (hwc16, f32, hwc16),
        (hwc16, f16, hwc16),
    ]
    assert len(accepted(rtx, "GatedFlowFusion")) == 3
    assert accepted(rtx, "UpsampleArgmax", 4) == [
        (hwc32, bytes_, bytes_),
        (hwc16, bytes_, bytes_),
    ]


def test_labels_and_confidence_are_linear_bytes(trt):
    bytes_ = ("INT8", "LINEAR")
    storages = [("FLOAT", "LINEAR"), ("FLOAT", "HWC"), ("HALF", "LINEAR"), ("HALF", "HWC8")]
    assert accepted(trt, "UpsampleArgmax", 4) == [(s, bytes_, bytes_) for s in storages]


@pytest.mark.parametrize("features", ["FLOAT", "HALF"])
def test_output_types_follow_the_features(trt, features):
    kind = DataType[features]
    assert made(trt, "FlowWarp", 1).get_output_data_types([kind, DataType.FLOAT]) == [kind]
    four = [kind, kind, DataType.FLOAT, DataType.FLOAT]
    assert made(trt, "GatedFlowFusion", 1).get_output_data_types(four) == [kind]
    assert made(trt, "UpsampleArgmax", 4).get_output_data_types([kind]) == [DataType.INT8] * 2


@pytest.mark.parametrize(
    ("name", "input_types"),
    [
        ("FlowWarp", "BF16 FLOAT"),
        ("FlowWarp", "FLOAT HALF"),
        ("GatedFlowFusion", "HALF FLOAT FLOAT FLOAT"),
        ("GatedFlowFusion", "HALF HALF FLOAT HALF"),
        ("UpsampleArgmax", "INT8"),
    ],
)
def test_types_without_a_kernel_are_refused_and_noted(trt, name, input_types):
    """The error comes before the build, because RTX aborts its process if no format fits."""
    kinds = [DataType[kind] for kind in input_types.split()]
    with pytest.raises(BackendError, match="expected features all FLOAT or all HALF"):
        made(trt, name, 1).get_output_data_types(kinds)
    with pytest.raises(BackendError, match=rf"{name} of {', '.join(input_types.split())}: "):
        plugin.raise_noted()


class Symbols:
    """The library's expression builder, with text for expressions."""

    def constant(self, value):
        return str(value)

    def operation(self, operation, first, second):
        assert operation.name == "PROD"
        return f"{first}*{second}"


@pytest.mark.parametrize(
    ("name", "attribute", "inputs", "outputs"),
    [
        ("FlowWarp", 1, ["nchw", "m2HW"], [["n", "c", "H", "W"]]),
        ("GatedFlowFusion", 0, ["nchw", "mdHW", "o4ab", "p1yz"], [["n", "c", "H", "W"]]),
        ("UpsampleArgmax", 4, ["nchw"], [["n", "h*4", "w*4"]] * 2),
    ],
)
def test_output_shapes_are_expressions_of_input_shapes(trt, name, attribute, inputs, outputs):
    assert made(trt, name, attribute).get_output_shapes(inputs, [], Symbols()) == outputs


def shape_change(node, *tensors):
    node.on_shape_change([tensor(*one) for one in tensors], [])
    return node.launch


def test_the_launch_of_a_warp_counts_channels_in_memory(trt):
    shapes, flow = (2, 19, 8, 12), (2, 2, 16, 24)
    f32, f16 = ("FLOAT", "LINEAR"), ("HALF", "LINEAR")
    for kind, channels, dtype, layout, flow_kind, flow_dtype in [
        (f32, 19, "float32", "linear", f32, "float32"),
        (("FLOAT", "HWC"), 19, "float32", "hwc", f32, "float32"),
        (f16, 19, "float16", "linear", f32, "float32"),
        (f16, 19, "float16", "linear", f16, "float16"),
        (("HALF", "HWC8"), 24, "float16", "hwc", f32, "float32"),
        (("HALF", "HWC"), 19, "float16", "hwc", f16, "float16"),
    ]:
        for align in (0, 1):
            launch = shape_change(made(trt, "FlowWarp", align), (kind, shapes), (flow_kind, flow))
            stored = (2, channels, 8, 12)
            assert launch == flow_warp_launch(stored, flow, bool(align), dtype, layout, flow_dtype)


def test_the_launch_of_a_fusion(trt):
    half, linear = ("HALF", "HWC8"), ("HALF", "LINEAR")
    launch = shape_change(
        made(trt, "GatedFlowFusion", 1),
        (half, (1, 30, 4, 5)),
        (half, (1, 30, 7, 9)),
        (linear, (1, 4, 7, 9)),
        (linear, (1, 1, 7, 9)),
    )
    assert launch == gated_flow_fusion_launch(
        (1, 32, 4, 5), (1, 32, 7, 9), True, "float16", "hwc", "float16"
    )


def test_labels_ignore_padded_channels(trt):
    scores = (1, 11, 16, 24)
    launch = shape_change(made(trt, "UpsampleArgmax", 4), (("HALF", "HWC8"), scores))
    assert launch == upsample_argmax_launch(scores, 4, "float16", "hwc", True, padded_channels=16)
    assert launch.scalars[:2] == (11, 16)
    launch = shape_change(made(trt, "UpsampleArgmax", 4), (("FLOAT", "HWC"), scores))
    assert launch == upsample_argmax_launch(scores, 4, "float32", "hwc", True)


def test_a_new_shape_creates_a_new_launch(trt):
    node, kind = made(trt, "UpsampleArgmax", 4), ("FLOAT", "LINEAR")
    first = shape_change(node, (kind, (1, 11, 16, 24)))
    assert shape_change(node, (kind, (4, 11, 16, 24))) != first


def test_enqueue_launches_on_the_given_stream(trt, monkeypatch):
    calls = []
    monkeypatch.setattr(cuda_memory, "launch_kernel", lambda *arguments: calls.append(arguments))
    node = made(trt, "FlowWarp", 1)
    kind = ("FLOAT", "LINEAR")
    launch = shape_change(node, (kind, (1, 8, 4, 4)), (kind, (1, 2, 4, 4)))
    node.enqueue([], [], [100, 200], [300], 0, 77)
    assert calls == [(launch, [100, 200], [300], 77)]


def test_label_rules_apply_inside_the_block_and_to_upsample_argmax_only(trt, monkeypatch):
    calls = []
    monkeypatch.setattr(cuda_memory, "launch_kernel", lambda *arguments: calls.append(arguments))
    kind, scores = ("HALF", "HWC8"), (1, 11, 16, 24)
    tail, warp = made(trt, "UpsampleArgmax", 4), made(trt, "FlowWarp", 1)
    plain = shape_change(tail, (kind, scores))
    moved = shape_change(warp, (kind, (1, 8, 4, 4)), (("FLOAT", "LINEAR"), (1, 2, 4, 4)))
    finished = upsample_argmax_launch(
        scores, 4, "float16", "hwc", True, threshold=77, remap=True, padded_channels=16
    )

    def enqueue():
        warp.enqueue([], [], [1, 2], [3], 0, 9)
        tail.enqueue([], [], [4], [5, 6], 0, 9)
        return [calls.pop(0) for _ in range(2)]

    others = (moved, [1, 2], [3], 9)
    assert enqueue() == [others, (plain, [4], [5, 6], 9)]
    with plugin.applying_label_rules(77, 1000):
        assert enqueue() == [others, (finished, [4, 1000], [5, 6], 9)]
        assert plugin.nodes_that_applied_rules() == 1
        thread = threading.Thread(target=enqueue)  # of another frame
        thread.start()
        thread.join(20)
        assert plugin.nodes_that_applied_rules() == 1
    assert enqueue() == [others, (plain, [4], [5, 6], 9)]
    with pytest.raises(BackendError), plugin.applying_label_rules(77, 1000):
        made(trt, "UpsampleArgmax", 4).enqueue([], [], [4], [5, 6], 0, 9)
    with pytest.raises(BackendError, match="before on_shape_change"):
        plugin.raise_noted()
    assert plugin.nodes_that_applied_rules() == 0
    assert enqueue() == [others, (plain, [4], [5, 6], 9)]


def test_enqueue_before_a_shape_is_known_notes_an_error(trt):
    node = made(trt, "FlowWarp", 1)
    with pytest.raises(BackendError):
        node.enqueue([], [], [1, 2], [3], 0, 0)
    with pytest.raises(BackendError, match=r"FlowWarp\.enqueue: enqueue before on_shape_change"):
        plugin.raise_noted()
    plugin.raise_noted()  # said once


def test_an_error_in_one_thread_does_not_fail_a_frame_of_another(trt):
    def fail():
        with pytest.raises(BackendError):
            made(trt, "FlowWarp", 1).enqueue([], [], [1, 2], [3], 0, 0)

    failed, others, said = threading.Event(), threading.Event(), []

    def frame():
        fail()
        failed.set()
        assert others.wait(20)
        with pytest.raises(BackendError) as caught:
            plugin.raise_noted()
        said.append(str(caught.value))

    thread = threading.Thread(target=frame)
    thread.start()
    assert failed.wait(20)
    plugin.raise_noted()
    others.set()
    thread.join(20)
    assert len(said) == 1
    assert "enqueue before on_shape_change" in said[0]
    # Errors in a builder's own threads count for every caller.
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join(20)
    plugin.raise_noted()
    with pytest.raises(BackendError, match="enqueue before on_shape_change"):
        plugin.raise_noted(all_threads=True)


@pytest.mark.parametrize(
    ("name", "attribute"), [("FlowWarp", 0), ("GatedFlowFusion", 1), ("UpsampleArgmax", 8)]
)
class TestLife:
    def test_the_engine_remembers_the_attribute(self, trt, name, attribute):
        node = made(trt, name, attribute)
        fields = node.get_fields_to_serialize()
        (field,) = fields
        assert (field.name, field.type) == (node.operator.attribute, trt.PluginFieldType.INT32)
        assert field.data.dtype == np.int32
        loaded = creator(trt, name).create_plugin(name, fields, trt.TensorRTPhase.RUNTIME)
        assert (loaded.operator, loaded.attribute) == (node.operator, attribute)
        assert loaded.num_outputs == plugin.OPERATORS[name].outputs

    def test_objects_referenced_by_the_library_outlive_the_call(self, trt, name, attribute):
        node = made(trt, name, attribute)
        assert node.get_fields_to_serialize() is node.get_fields_to_serialize()
        assert node.fields[0].data is node.value
        assert plugin.creators(trt)[0] is plugin.creators(trt)[0]

    def test_each_context_gets_its_own_plugin(self, trt, name, attribute):
        node = made(trt, name, attribute)
        for other in (node.clone(), node.attach_to_context(None)):
            assert other is not node
            assert type(other) is type(node)
            assert (other.operator, other.attribute) == (node.operator, attribute)
            assert other.launch is None
            assert other.fields is not node.fields

    def test_identity_and_base_classes(self, trt, name, attribute):
        node = made(trt, name, attribute)
        assert (node.plugin_name, node.plugin_version, node.plugin_namespace) == (
            *(name, "1"),
            "sfseg",
        )
        assert all(node.get_capability_interface(kind) is node for kind in range(3))
        assert isinstance(node, (trt.IPluginV3, trt.IPluginV3OneBuild))
        described = types.SimpleNamespace(desc=types.SimpleNamespace(dims=(-1, -1, -1, -1)))
        assert node.get_workspace_size([], []) == 0
        assert node.configure_plugin([described] * 4, []) is None
        assert node.set_tactic(0) is None
        (field,) = creator(trt, name).field_names
        assert field.name == node.operator.attribute


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("FlowWarp", [], "FlowWarp without its attribute align_corners"),
        ("FlowWarp", [("stride", [1])], "FlowWarp without its attribute align_corners"),
        ("FlowWarp", [("align_corners", [])], "FlowWarp without its attribute align_corners"),
        ("FlowWarp", [("align_corners", [2])], "FlowWarp with align_corners=2"),
        ("UpsampleArgmax", [("stride", [0])], "UpsampleArgmax with stride=0"),
        ("UpsampleArgmax", [("stride", [-4])], "UpsampleArgmax with stride=-4"),
    ],
)
def test_a_node_without_a_valid_attribute_is_refused_and_noted(trt, name, fields, said):
    fields = [Field(field, np.array(data, np.int32)) for field, data in fields]
    with pytest.raises(BackendError, match=said):
        creator(trt, name).create_plugin(name, fields, trt.TensorRTPhase.BUILD)
    with pytest.raises(BackendError, match=rf"^TensorRT plugin: {name}\.create_plugin: {said}"):
        plugin.raise_noted()


@pytest.mark.parametrize(
    ("name", "channels", "said"),
    [
        ("FlowWarp", (8, 4), "FlowWarp: input 1 has 4 channels, expected 2"),
        ("GatedFlowFusion", (8, 8, 1, 4), "GatedFlowFusion: input 2 has 1 channels, expected 4"),
        ("GatedFlowFusion", (8, 8, 4, 2), "GatedFlowFusion: input 3 has 2 channels, expected 1"),
    ],
)
def test_a_flow_or_gate_with_too_few_channels_is_refused(trt, name, channels, said):
    node = made(trt, name, 1)
    given = [tensor(("FLOAT", "LINEAR"), (1, count, 4, 4)) for count in channels]
    building = [types.SimpleNamespace(desc=described) for described in given]
    node.configure_plugin(building, [])  # to raise would abort the builder
    with pytest.raises(BackendError, match=said):
        plugin.raise_noted()
    with pytest.raises(BackendError, match=said):
        node.on_shape_change(given, [])
    with pytest.raises(BackendError, match=said):
        plugin.raise_noted()


CALLBACKS = (
    "attach_to_context",
    "clone",
    "configure_plugin",
    "enqueue",
    "get_capability_interface",
    "get_fields_to_serialize",
    "get_output_data_types",
    "get_output_shapes",
    "get_workspace_size",
    "on_shape_change",
    "set_tactic",
    "supports_format_combination",
)


@pytest.mark.parametrize("name", CALLBACKS)
def test_every_callback_notes_its_exceptions(name):
    """Also get_workspace_size and get_fields_to_serialize, after whose errors the library
    continues."""

    def broken(self):
        raise ZeroDivisionError("division by\n zero")

    broken.__name__ = name
    noting = plugin._noting(broken)
    assert getattr(plugin.Plugin, name).__code__ is noting.__code__
    with pytest.raises(ZeroDivisionError):
        noting(types.SimpleNamespace(operator=plugin.OPERATORS["FlowWarp"]))
    with pytest.raises(
        BackendError, match=rf"FlowWarp\.{name}: ZeroDivisionError: division by zero$"
    ):
        plugin.raise_noted()


def test_the_same_error_of_many_calls_is_reported_once(trt):
    node = made(trt, "FlowWarp", 1)
    for _ in range(3):
        with pytest.raises(BackendError):
            node.enqueue([], [], [1, 2], [3], 0, 0)
    with pytest.raises(BackendError) as caught:
        plugin.raise_noted()
    assert str(caught.value).count("before on_shape_change") == 1


def test_plugins_cover_the_operators_of_the_exporter():
    from training.onnx_functions import functions

    for function in functions(4):
        operator = plugin.OPERATORS[function.name]
        assert (operator.inputs, operator.outputs) == (len(function.input), len(function.output))
        assert function.attribute[0] == operator.attribute
    assert len(plugin.OPERATORS) == 3
