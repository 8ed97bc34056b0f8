# SPDX-License-Identifier: Apache-2.0
"""Bodies of the operators of the domain `sfseg` in standard ONNX, as model-local functions.

They compute the same as training/operators.py. A runtime with a kernel for an operator runs
the node; other runtimes inline the body (docs/adr/0020).
"""

from __future__ import annotations

from typing import Any

import onnx
from onnx import FunctionProto, NodeProto, TensorProto, helper

from sfseg_ros.kernels import ONNX_DOMAIN

OPSET = 18
PLUGIN_ATTRIBUTE_NAMES = ["plugin_namespace", "plugin_version"]


def functions(output_stride: int) -> list[FunctionProto]:
    """Returns the bodies of all operators, for a model whose scores are at `output_stride`."""
    return [flow_warp(), gated_flow_fusion(), upsample_argmax(output_stride)]


def flow_warp() -> FunctionProto:
    """FlowWarp(features, flow) -> warped. Coordinates are always fp32."""
    nodes = [
        _node("Cast", ["flow"], ["flow32"], to=TensorProto.FLOAT),
        _node("Shape", ["flow"], ["shape"]),
        *_axis("x", dimension=3, channel=0),
        *_axis("y", dimension=2, channel=1),
        _integers("one_axis", [1]),
        _node("Unsqueeze", ["y_base", "one_axis"], ["y_column"]),
        _node("Add", ["x_base", "x_shift"], ["grid_x"]),
        _node("Add", ["y_column", "y_shift"], ["grid_y"]),
        _integers("last_axis", [3]),
        _node("Unsqueeze", ["grid_x", "last_axis"], ["grid_x4"]),
        _node("Unsqueeze", ["grid_y", "last_axis"], ["grid_y4"]),
        _node("Concat", ["grid_x4", "grid_y4"], ["grid"], axis=3),
        _node("Cast", ["features"], ["features32"], to=TensorProto.FLOAT),
        _grid_sample(),
        _node("CastLike", ["sampled", "features"], ["warped"]),
    ]
    return _function("FlowWarp", ["features", "flow"], ["warped"], nodes, ["align_corners"])


def _axis(name: str, dimension: int, channel: int) -> list[NodeProto]:
    """Computes base positions from -1 to 1 along one dimension of the flow, and the flow over its
    size."""
    n = name
    return [
        _scalar(f"{n}_dimension", dimension),
        _node("Gather", ["shape", f"{n}_dimension"], [f"{n}_size"]),
        _scalar(f"{n}_zero", 0),
        _scalar(f"{n}_one", 1),
        _node("Range", [f"{n}_zero", f"{n}_size", f"{n}_one"], [f"{n}_index"]),
        _node("Cast", [f"{n}_index"], [f"{n}_position"], to=TensorProto.FLOAT),
        _node("Sub", [f"{n}_size", f"{n}_one"], [f"{n}_last"]),
        _node("Max", [f"{n}_last", f"{n}_one"], [f"{n}_steps"]),
        _node("Cast", [f"{n}_steps"], [f"{n}_steps32"], to=TensorProto.FLOAT),
        _real(f"{n}_two", 2.0),
        _node("Div", [f"{n}_two", f"{n}_steps32"], [f"{n}_step"]),
        _node("Mul", [f"{n}_position", f"{n}_step"], [f"{n}_offset"]),
        _real(f"{n}_first", 1.0),
        _node("Sub", [f"{n}_offset", f"{n}_first"], [f"{n}_base"]),
        _scalar(f"{n}_channel", channel),
        _node("Gather", ["flow32", f"{n}_channel"], [f"{n}_flow"], axis=1),
        _node("Cast", [f"{n}_size"], [f"{n}_size32"], to=TensorProto.FLOAT),
        _node("Div", [f"{n}_flow", f"{n}_size32"], [f"{n}_shift"]),
    ]


def _grid_sample() -> NodeProto:
    node = _node(
        "GridSample", ["features32", "grid"], ["sampled"], mode="bilinear", padding_mode="zeros"
    )
    node.attribute.append(_reference("align_corners", onnx.AttributeProto.INT))
    return node


def gated_flow_fusion() -> FunctionProto:
    """GatedFlowFusion(high, low, flow, gate) -> fused, by two FlowWarps."""
    nodes = [
        _integers("high_channels", [0, 1]),
        _node("Gather", ["flow", "high_channels"], ["flow_high"], axis=1),
        _integers("low_channels", [2, 3]),
        _node("Gather", ["flow", "low_channels"], ["flow_low"], axis=1),
        _warp_node(["high", "flow_high"], "warped_high"),
        _warp_node(["low", "flow_low"], "warped_low"),
        _node("Sub", ["warped_high", "warped_low"], ["difference"]),
        _node("Mul", ["gate", "difference"], ["share"]),
        _node("Add", ["warped_low", "share"], ["fused"]),
    ]
    return _function(
        "GatedFlowFusion", ["high", "low", "flow", "gate"], ["fused"], nodes, ["align_corners"]
    )


def _warp_node(inputs: list[str], output: str) -> NodeProto:
    node = helper.make_node(
        "FlowWarp",
        inputs,
        [output],
        domain=ONNX_DOMAIN,
        plugin_namespace=ONNX_DOMAIN,
        plugin_version="1",
    )
    node.attribute.append(_reference("align_corners", onnx.AttributeProto.INT))
    return node


def upsample_argmax(stride: int) -> FunctionProto:
    """UpsampleArgmax(scores) -> labels, confidence.

    The factor is a constant of the body instead of an attribute, because TensorRT requires constant
    scales of Resize.
    """
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1.0, 1.0, stride, stride])
    nodes = [
        _node("Cast", ["scores"], ["scores32"], to=TensorProto.FLOAT),
        _node("Constant", [], ["scales"], value=scales),
        _node(
            "Resize", ["scores32", "", "scales"], ["full"],
            mode="linear", coordinate_transformation_mode="align_corners",
        ),
        _node("ArgMax", ["full"], ["index"], axis=1, keepdims=0),
        _node("Cast", ["index"], ["labels"], to=TensorProto.UINT8),
        _integers("class_axis", [1]),
        _node("ReduceMax", ["full", "class_axis"], ["best"], keepdims=1),
        _node("Sub", ["full", "best"], ["below"]),
        _node("Exp", ["below"], ["odds"]),
        _node("ReduceSum", ["odds", "class_axis"], ["total"], keepdims=0),
        _real("full_scale", 255.0),
        _node("Div", ["full_scale", "total"], ["probability"]),
        _node("Round", ["probability"], ["rounded"]),
        _node("Cast", ["rounded"], ["confidence"], to=TensorProto.UINT8),
    ]  # fmt: skip
    return _function("UpsampleArgmax", ["scores"], ["labels", "confidence"], nodes, ["stride"])


def _function(
    name: str, inputs: list[str], outputs: list[str], nodes: list[NodeProto], attributes: list[str]
) -> FunctionProto:
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ONNX_DOMAIN, 1)]
    return helper.make_function(
        ONNX_DOMAIN, name, inputs, outputs, nodes, opsets, attributes + PLUGIN_ATTRIBUTE_NAMES
    )


def _node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, outputs, **attributes)


def _integers(name: str, values: list[int]) -> NodeProto:
    return _node("Constant", [], [name], value_ints=values)


def _scalar(name: str, value: int) -> NodeProto:
    return _node("Constant", [], [name], value_int=value)


def _real(name: str, value: float) -> NodeProto:
    return _node("Constant", [], [name], value_float=value)


def _reference(name: str, kind: onnx.AttributeProto.AttributeType) -> onnx.AttributeProto:
    """Makes an attribute of a node in a body refer to the function's attribute of the same name."""
    attribute = onnx.AttributeProto()
    attribute.name = name
    attribute.ref_attr_name = name
    attribute.type = kind
    return attribute
