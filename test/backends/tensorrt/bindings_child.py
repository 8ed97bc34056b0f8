# SPDX-License-Identifier: Apache-2.0
"""test_library_bindings.py runs it with the real bindings of one TensorRT as package `tensorrt`.

The native libraries below the bindings are stubs: enumerations, plugin fields, descriptions, the
plugins' base classes and the Python of `tensorrt.plugin` are real, no builder exists. Asserts, and
prints the version at the end.
"""

from typing import Any

import numpy as np
import tensorrt

from sfseg_ros.backends.tensorrt import plugin
from sfseg_ros.backends.tensorrt.library import TensorRt, load_tensorrt

KINDS = {
    "FlowWarp": ["HALF", "FLOAT"],
    "GatedFlowFusion": ["FLOAT"] * 4,
    "UpsampleArgmax": ["HALF"],
}
SHAPES = {
    "FlowWarp": ([(2, 33, 8, 12), (2, 2, 16, 24)], [(2, 33, 16, 24)]),
    "GatedFlowFusion": (
        [(1, 32, 8, 12), (1, 32, 16, 24), (1, 4, 16, 24), (1, 1, 16, 24)],
        [(1, 32, 16, 24)],
    ),
    "UpsampleArgmax": ([(1, 11, 16, 24)], [(1, 64, 96)] * 2),
}
ATTRIBUTES = {"FlowWarp": 0, "GatedFlowFusion": 1, "UpsampleArgmax": 4}


# The bindings of 10.3 spoil their memory when Python frees a plugin. The library holds on to those
# that it was given, so that this does not happen in an engine.
HELD: list[Any] = []


class Registry:
    """The native registry is a stub's null pointer."""

    def __init__(self) -> None:
        self.creators: dict[str, Any] = {}

    def get_creator(self, name: str, version: str, namespace: str) -> Any:
        assert (version, namespace) == ("1", "sfseg")
        return self.creators.get(name)

    def register_creator(self, creator: Any, namespace: str) -> bool:
        assert (creator.plugin_version, creator.plugin_namespace, namespace) == (
            *("1", "sfseg"),
            "sfseg",
        )
        self.creators[creator.name] = creator
        return True


def main() -> None:
    library = load_tensorrt("tensorrt")
    check_names(library)
    registry = Registry()
    tensorrt.get_plugin_registry = lambda: registry
    library.register(plugin.creators(tensorrt))
    for name in plugin.OPERATORS:
        check_plugin(registry.creators[name], name)
    flags = tensorrt.NetworkDefinitionCreationFlag.__members__
    print(tensorrt.__version__, {name: int(flag) for name, flag in flags.items()})


def check_names(library: TensorRt) -> None:
    """Names of the library that cannot be called without its native part."""
    for name in (
        *("Builder.create_network", "Builder.build_serialized_network", "OnnxParser.parse"),
        *("OnnxParser.get_error", "OnnxParser.num_errors", "ParserError.desc"),
        *("ParserError.node_name", "IPluginRegistry.get_creator", "INetworkDefinition.get_layer"),
        *("IPluginRegistry.register_creator", "LayerType.PLUGIN_V3", "IExprBuilder.constant"),
        *("IExprBuilder.operation", "DimensionOperation.PROD", "IProgressMonitor.phase_start"),
    ):
        owner, member = name.split(".")
        assert hasattr(getattr(library.module, owner), member), name


def described(shape: tuple[int, ...], kind: str, form: str) -> Any:
    """A DynamicPluginTensorDesc of one size."""
    inner, outer = tensorrt.PluginTensorDesc(), tensorrt.DynamicPluginTensorDesc()
    inner.dims, inner.type = shape, getattr(tensorrt.DataType, kind)
    inner.format = getattr(tensorrt.TensorFormat, form)
    outer.desc = inner
    outer.min = outer.opt = outer.max = tensorrt.Dims(shape)
    return outer


def all_described(name: str, form: str) -> list[Any]:
    operator = plugin.OPERATORS[name]
    inputs, outputs = SHAPES[name]
    kinds = [*KINDS[name], *operator.output_types(KINDS[name])]
    return [
        described(shape, kind, form if position in operator.features else "LINEAR")
        for position, (shape, kind) in enumerate(zip([*inputs, *outputs], kinds))
    ]


def expected_launch(name: str, form: str) -> Any:
    operator = plugin.OPERATORS[name]
    kinds = [
        (kind, form if position in operator.features else "LINEAR")
        for position, kind in enumerate(KINDS[name])
    ]
    return operator.launch_for(SHAPES[name][0], ATTRIBUTES[name], kinds)


def check_plugin(creator: Any, name: str) -> None:
    operator = plugin.OPERATORS[name]
    (field,) = creator.field_names
    assert (field.name, field.type) == (operator.attribute, tensorrt.PluginFieldType.INT32)
    value = np.array([ATTRIBUTES[name]], np.int32)
    given = tensorrt.PluginField(operator.attribute, value, tensorrt.PluginFieldType.INT32)
    fields = tensorrt.PluginFieldCollection([given])
    node = creator.create_plugin(name, fields, tensorrt.TensorRTPhase.BUILD)
    kinds = [getattr(tensorrt.DataType, kind) for kind in KINDS[name]]
    output_kinds = operator.output_types(KINDS[name])
    assert [kind.name for kind in node.get_output_data_types(kinds)] == output_kinds
    channels_last = "HWC8" if KINDS[name][0] == "HALF" else "HWC"
    for form, supported in (("LINEAR", True), (channels_last, True), ("CHW32", False)):
        tensors = all_described(name, form)
        assert node.supports_format_combination(0, tensors, operator.inputs) is supported
        if supported:
            assert all(
                node.supports_format_combination(position, tensors, operator.inputs)
                for position in range(len(tensors))
            )
            node.on_shape_change([tensor.desc for tensor in tensors[: operator.inputs]], [])
            assert node.launch == expected_launch(name, form)
    other = node.clone()
    fields = other.get_fields_to_serialize()
    loaded = creator.create_plugin(name, fields, tensorrt.TensorRTPhase.RUNTIME)
    HELD.extend([node, other, loaded])
    assert loaded.attribute == ATTRIBUTES[name]
    assert (loaded.plugin_name, loaded.plugin_version, loaded.plugin_namespace) == (
        *(name, "1"),
        "sfseg",
    )
    assert loaded.num_outputs == operator.outputs
    for kind in tensorrt.PluginCapabilityType.__members__.values():
        assert node.get_capability_interface(kind) is node
    plugin.raise_noted()


if __name__ == "__main__":
    main()
