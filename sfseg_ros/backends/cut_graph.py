# SPDX-License-Identifier: Apache-2.0
"""The ONNX file: read, checked, and cut in two at its UpsampleArgmax node (docs/adr/0010).

The trunk holds the weights and ends in class scores at the output stride. The tail is the rest. The
tail exists in two variants, so that the confidence costs nothing unless a caller asks for it, and
the weights exist only once. The tail stays fp32 even if the trunk runs in bf16.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, inliner

from sfseg_ros.errors import BackendError, one_line
from sfseg_ros.kernels import ONNX_DOMAIN
from sfseg_ros.model.manifest import Manifest

TAIL_OPERATOR = "UpsampleArgmax"
LARGE_TENSOR = 1024
"""Elements. Smaller tensors may hold shapes, which shape inference must read."""


@dataclass(frozen=True)
class SplitModel:
    """Three models without local functions, so that every library can read them.

    `trunk`: image uint8 (N, H, W, 3) RGB -> scores float32 (N, C, H/stride, W/stride).
    `labels_tail`: scores -> labels uint8 (N, H, W).
    `confidence_tail`: scores -> labels, confidence, both uint8 (N, H, W).
    """

    trunk: ModelProto
    labels_tail: ModelProto
    confidence_tail: ModelProto


def split_model_of(manifest: Manifest) -> SplitModel:
    """Read the model's ONNX file and cut it. Raises BackendError as `model_of`."""
    return _split(model_of(manifest))


def model_of(manifest: Manifest) -> ModelProto:
    """Read the model's ONNX file. Raises BackendError if it breaks the contract."""
    path = manifest.onnx_path
    model = read_onnx(path)
    try:
        onnx.checker.check_model(model)
    except Exception as error:  # onnx and protobuf raise a dozen unrelated types
        raise _invalid(path, error) from error
    try:
        tail = _tail_of(model)
        stride = next((a.i for a in tail.attribute if a.name == "stride"), None)
        if stride != manifest.output_stride:
            raise ValueError(
                f"upsamples by {stride}, its manifest says output stride {manifest.output_stride}"
            )
    except ValueError as error:
        raise BackendError(f"{path}: {error}; export the model again") from error
    check_scores(manifest, manifest.input_size, _scores_shape(model, manifest.input_size))
    return model


def read_onnx(path: Path) -> ModelProto:
    """Read an ONNX file that holds all of its weights.

    A file may instead name other files that hold them ("external data"). No hash covers those, and
    their paths may lead anywhere, so such a file is refused. Raises BackendError.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # onnx and protobuf raise a dozen unrelated types
        raise _invalid(path, error) from error
    graphs = [model.graph, *(info.initialization for info in model.training_info)]
    nodes = [node for function in model.functions for node in function.node]
    for tensor in (*_tensors_of(graphs), *_tensors_of_nodes(nodes)):
        if tensor.external_data or tensor.data_location == TensorProto.EXTERNAL:
            raise BackendError(
                f"{path}: keeps {tensor.name or 'a tensor'} in another file (external data), "
                "expected one file with all weights; export the model again"
            )
    return model


def check_scores(
    manifest: Manifest, image_size: tuple[int, int], shape: Sequence[int | None]
) -> None:
    """Raise BackendError unless the scores of an image fit the manifest.

    `image_size` is (height, width); `shape` is that of the scores, (N, C, h, w), with None or 0 for
    an unknown size. Expected are one channel per class and 1/stride of the image's size.
    """
    if len(shape) != 4:
        raise BackendError(
            f"{manifest.onnx_path}: its scores have {len(shape)} dimensions, expected 4; export "
            "the model again"
        )
    if shape[1] and shape[1] != len(manifest.classes):
        raise BackendError(
            f"{manifest.onnx_path}: scores {shape[1]} classes, its manifest names "
            f"{len(manifest.classes)}; export the model again"
        )
    expected = tuple(side // manifest.output_stride for side in image_size)
    if any(side and side != wanted for side, wanted in zip(shape[2:], expected)):
        raise BackendError(
            f"{manifest.onnx_path}: its scores are {shape[2]}x{shape[3]} for an image of "
            f"{image_size[0]}x{image_size[1]}, expected {expected[0]}x{expected[1]} at output "
            f"stride {manifest.output_stride}; export the model again"
        )


def _invalid(path: Path, error: Exception) -> BackendError:
    return BackendError(
        f"{path}: not a valid ONNX file ({one_line(error)}); copy the model directory again"
    )


def _tensors_of(graphs: Sequence[GraphProto]) -> Iterator[TensorProto]:
    """Every constant tensor of these graphs and of the graphs inside their nodes."""
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
        yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Sequence[NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            inner = [attribute.g] if attribute.HasField("g") else []
            yield from _tensors_of([*inner, *attribute.graphs])


def _tail_of(model: ModelProto) -> NodeProto:
    """The node at which the graph is cut. Raises ValueError if the graph breaks the contract."""
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
    if len(model.graph.input[0].type.tensor_type.shape.dim) != 4:
        raise ValueError("has an image that is not (N, H, W, 3)")
    tails = [
        node
        for node in model.graph.node
        if (node.domain, node.op_type) == (ONNX_DOMAIN, TAIL_OPERATOR)
    ]
    if len(tails) != 1:
        raise ValueError(f"has {len(tails)} {ONNX_DOMAIN}::{TAIL_OPERATOR} nodes, expected one")
    tail: NodeProto = tails[0]
    return tail


def _scores_shape(model: ModelProto, size: tuple[int, int]) -> tuple[int, ...]:
    """(N, C, h, w) of the scores for one image of `size` (height, width), as far as shape inference
    can tell; 0 for an unknown size."""
    light = ModelProto()
    light.CopyFrom(model)
    large = [w for w in light.graph.initializer if len(w.dims) > 1 and _elements(w) > LARGE_TENSOR]
    for weight in large:  # only the weights' sizes matter
        light.graph.input.append(
            helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        )
        light.graph.initializer.remove(weight)
    for dimension, value in zip(light.graph.input[0].type.tensor_type.shape.dim, (1, *size, 3)):
        dimension.dim_value = value
    try:
        inlined = inliner.inline_local_functions(light)
        inferred = onnx.shape_inference.infer_shapes(inlined, data_prop=True)
    except Exception:  # the backend's library gives the reason when it reads the model
        return (0, 0, 0, 0)
    name = _tail_of(model).input[0]
    found = next((value for value in inferred.graph.value_info if value.name == name), None)
    if found is None or not found.type.tensor_type.HasField("shape"):
        return (0, 0, 0, 0)
    return tuple(dimension.dim_value for dimension in found.type.tensor_type.shape.dim)


def _elements(tensor: TensorProto) -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count


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
    _prune(part, inputs, outputs)  # a function may compute more than the requested outputs
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
