# SPDX-License-Identifier: Apache-2.0
"""The ONNX file, cut in two at its `sfseg::UpsampleArgmax` node (docs/adr/0010).

The trunk holds the weights and ends in class scores at the output stride; the tail is the rest. The
tail exists in two variants, so that the confidence costs nothing when nobody asked for it and
the weights still exist once. Cut here, the tail also stays fp32 where the trunk runs in bf16.
"""

from dataclasses import dataclass

import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, inliner

from sfseg_ros.errors import BackendError, one_line
from sfseg_ros.model.manifest import Manifest

TAIL_DOMAIN, TAIL_OPERATOR = "sfseg", "UpsampleArgmax"


@dataclass(frozen=True)
class SplitModel:
    """Three models without local functions, so that every library can read them.

    `trunk`: image uint8 (N, H, W, 3) RGB -> scores float32 (N, C, H/4, W/4).
    `labels_tail`: scores -> labels uint8 (N, H, W).
    `confidence_tail`: scores -> labels, confidence, both uint8 (N, H, W).
    """

    trunk: ModelProto
    labels_tail: ModelProto
    confidence_tail: ModelProto


def split_model_of(manifest: Manifest) -> SplitModel:
    """Read the model's ONNX file and cut it. Raises BackendError where it breaks the contract."""
    return _split(model_of(manifest))


def model_of(manifest: Manifest) -> ModelProto:
    """The model's ONNX file, whole. Raises BackendError where it breaks the contract."""
    path = manifest.onnx_path
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # onnx and protobuf raise a dozen unrelated types
        raise BackendError(
            f"{path}: not a valid ONNX file ({one_line(error)}); copy the model directory again"
        ) from error
    try:
        _tail_of(model)
    except ValueError as error:
        raise BackendError(f"{path}: {error}; export the model again") from error
    return model


def _tail_of(model: ModelProto) -> NodeProto:
    """The node at which the graph is cut. Raises ValueError where it breaks the contract."""
    inputs = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    if inputs != ["image"] or outputs != ["labels", "confidence"]:
        raise ValueError(
            f"maps {', '.join(inputs)} to {', '.join(outputs)}, "
            "expected image to labels, confidence"
        )
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type.elem_type
        if kind != TensorProto.UINT8:  # buffers are made for bytes
            name = TensorProto.DataType.Name(kind)
            raise ValueError(f"has {value.name} of type {name}, expected UINT8")
    tails = [
        node
        for node in model.graph.node
        if (node.domain, node.op_type) == (TAIL_DOMAIN, TAIL_OPERATOR)
    ]
    if len(tails) != 1:
        raise ValueError(f"has {len(tails)} {TAIL_DOMAIN}::{TAIL_OPERATOR} nodes, expected one")
    tail: NodeProto = tails[0]
    return tail


def _split(model: ModelProto) -> SplitModel:
    scores = helper.make_tensor_value_info(
        _tail_of(model).input[0], TensorProto.FLOAT, ["batch", "class", "row", "column"]
    )
    return SplitModel(
        trunk=_part(model, list(model.graph.input), [scores]),
        labels_tail=_part(model, [scores], list(model.graph.output[:1])),
        confidence_tail=_part(model, [scores], list(model.graph.output)),
    )


def _part(
    model: ModelProto, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
) -> ModelProto:
    """The nodes between `inputs` and `outputs`, with the functions inlined."""
    part = ModelProto()
    part.CopyFrom(model)
    _prune(part, inputs, outputs)
    part = inliner.inline_local_functions(part)
    _prune(part, inputs, outputs)  # what a function computes beside the outputs asked for
    return part


def _prune(
    model: ModelProto, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
) -> None:
    given = {value.name for value in inputs}
    needed = {value.name for value in outputs}
    nodes = []
    for node in reversed(model.graph.node):  # the ONNX specification promises topological order
        if needed.intersection(node.output) - given:
            nodes.append(node)
            needed.update(node.input)
    weights = [weight for weight in model.graph.initializer if weight.name in needed]
    graph = helper.make_graph(nodes[::-1], model.graph.name, inputs, outputs, weights)
    model.graph.CopyFrom(graph)
